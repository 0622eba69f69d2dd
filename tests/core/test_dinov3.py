"""DINOv3, and DINOv2 with registers, against transformers on shared random weights under the published names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semantic_matcher_core.errors import CheckpointError, LicenseNotAcceptedError, ShapeError, UnknownNameError
from semantic_matcher_core.semantics import create_semantic_encoder, list_semantic_encoders
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.semantics.dinov3 import DinoV3
from semantic_matcher_core.weights import get_entry, load_state_dict_strictly
from semantic_matcher_core.weights.fetch import fetch_weights
from tests.core.test_dinov2 import randomise
from tests.core.weights_server import isolate

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

REGISTERS = [f"dinov2_vit{size}14_reg" for size in "sblg"]
THIRD = ["dinov3_vits16", "dinov3_vits16plus", "dinov3_vitb16"]
_BLOCK = {
    "attn.proj": "attention.o_proj",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
_TOP = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "storage_tokens": "embeddings.register_tokens",
}


def build(name: str, depth: int = 2) -> DinoV2 | DinoV3:
    """An encoder with random weights and a few of its blocks: the others are the same."""
    encoder = (DinoV3 if name in THIRD else DinoV2)(name)
    encoder.blocks = encoder.blocks[:depth]
    randomise(encoder)
    return encoder.eval()


def published_state(encoder: DinoV3) -> dict[str, Tensor]:
    """As published: biases of queries, keys and values with the mask that takes those of the keys away."""
    state = dict(encoder.state_dict())
    for i, block in enumerate(encoder.blocks):
        mask = torch.ones_like(block.attn.qkv.bias)
        mask[encoder.feature_dim : 2 * encoder.feature_dim] = 0
        state[f"blocks.{i}.attn.qkv.bias_mask"] = mask
    return state


def reference(encoder: DinoV2 | DinoV3) -> nn.Module:
    """transformers' model with the same weights."""
    third = isinstance(encoder, DinoV3)
    sizes: dict[str, Any] = {
        "hidden_size": encoder.feature_dim,
        "num_hidden_layers": len(encoder.blocks),
        "num_attention_heads": encoder.blocks[0].attn.heads,
        "num_register_tokens": 4,
        "patch_size": encoder.patch_size,
    }
    if third:
        gated = hasattr(encoder.blocks[0].mlp, "w1")
        act = "silu" if gated else "gelu"
        width = encoder.blocks[0].mlp.w1.out_features if gated else 4 * encoder.feature_dim
        config = transformers.DINOv3ViTConfig(**sizes, use_gated_mlp=gated, intermediate_size=width, hidden_act=act)
        model = transformers.DINOv3ViTModel(config)
    else:
        swiglu = hasattr(encoder.blocks[0].mlp, "w12")
        config = transformers.Dinov2WithRegistersConfig(**sizes, image_size=518, use_swiglu_ffn=swiglu)
        model = transformers.Dinov2WithRegistersModel(config)
    state: dict[str, Tensor] = {}
    for name, tensor in encoder.state_dict().items():
        if name == "rope_embed.periods":
            continue
        if name in _TOP:
            state[_TOP[name]] = tensor[None] if third and name == "mask_token" else tensor
        elif name.startswith("patch_embed.proj."):
            place = "embeddings.patch_embeddings" + ("" if third else ".projection")
            state[name.replace("patch_embed.proj", place)] = tensor
        elif name.startswith("norm."):
            state[name if third else name.replace("norm", "layernorm", 1)] = tensor
        else:
            _, index, rest = name.split(".", 2)
            block = f"{'model' if third else 'encoder'}.layer.{index}."
            if rest.startswith("attn.qkv."):
                for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                    if not (third and rest.endswith("bias") and part == "k"):
                        state[f"{block}attention.{part}_proj.{rest.rpartition('.')[2]}"] = piece
            elif rest.startswith("mlp.w12."):
                for part, piece in zip(("gate", "up"), tensor.chunk(2), strict=True):
                    state[f"{block}mlp.{part}_proj.{rest.rpartition('.')[2]}"] = piece
            else:
                third_mlp = {"mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"} if third else {}
                gates = {"mlp.w1": "mlp.gate_proj", "mlp.w2": "mlp.up_proj", "mlp.w3": "mlp.down_proj"}
                for ours, theirs in {**_BLOCK, **third_mlp, **gates}.items():
                    if rest.startswith(ours):
                        rest = rest.replace(ours, theirs)
                        break
                state[block + rest] = tensor
    model.load_state_dict(state, strict=True)
    return model.eval()


def expected_map(model: nn.Module, images: Tensor, patch: int) -> Tensor:
    tokens = model(pixel_values=images).last_hidden_state[:, 5:]
    return tokens.transpose(1, 2).unflatten(2, (images.shape[-2] // patch, images.shape[-1] // patch))


@pytest.mark.parametrize("name", ["dinov2_vits14_reg", "dinov2_vitb14_reg", *THIRD])
@torch.inference_mode()
def test_equals_transformers(name: str) -> None:
    encoder = build(name)
    if isinstance(encoder, DinoV3):
        encoder.load_state_dict(DinoV3.convert_state_dict(published_state(encoder)), strict=True)
    model = reference(encoder)
    patch = encoder.patch_size
    sizes = [(patch, patch), (patch * 9, patch * 14), (patch * 21, patch * 13)]
    if name == "dinov2_vits14_reg":
        sizes.append((518, 518))  # the size of the position map itself
    for height, width in sizes:
        images = torch.rand(2, height, width, 3, generator=torch.Generator().manual_seed(3)).permute(0, 3, 1, 2)
        out = encoder(images)
        expected = expected_map(model, images, patch)
        assert out.shape == (2, encoder.feature_dim, height // patch, width // patch)
        assert expected.std() > 0.1, "the comparison needs a result that is not flat"
        torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(out[1:], encoder(images[1:]), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_the_giants_feed_forward_equals_transformers() -> None:
    with torch.device("meta"):
        giant = DinoV2("dinov2_vitg14_reg")
    giant.blocks = giant.blocks[:1]
    giant.to_empty(device="cpu").eval()
    randomise(giant)
    images = torch.rand(1, 3, 28, 42)
    torch.testing.assert_close(giant(images), expected_map(reference(giant), images, 14), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", REGISTERS)
def test_registers_are_the_only_difference_in_names(name: str) -> None:
    with torch.device("meta"):
        ours, plain = DinoV2(name).state_dict(), DinoV2(name.removesuffix("_reg")).state_dict()
    assert ours.keys() - plain.keys() == {"register_tokens"} and not plain.keys() - ours.keys()
    assert ours["register_tokens"].shape == (1, 4, plain["cls_token"].shape[2])
    assert all(ours[k].shape == v.shape for k, v in plain.items())


def test_names_and_shapes_of_dinov3_are_the_published_ones() -> None:
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in DinoV3("dinov3_vits16").state_dict().items()}
        plus = {k: tuple(v.shape) for k, v in DinoV3("dinov3_vits16plus").state_dict().items()}
    block = {
        "norm1.weight": (384,), "norm1.bias": (384,), "attn.qkv.weight": (1152, 384), "attn.qkv.bias": (1152,),
        "attn.proj.weight": (384, 384), "attn.proj.bias": (384,), "ls1.gamma": (384,), "norm2.weight": (384,),
        "norm2.bias": (384,), "mlp.fc1.weight": (1536, 384), "mlp.fc1.bias": (1536,), "mlp.fc2.weight": (384, 1536),
        "mlp.fc2.bias": (384,), "ls2.gamma": (384,),
    }  # fmt: skip
    assert shapes == {
        "cls_token": (1, 1, 384), "storage_tokens": (1, 4, 384), "mask_token": (1, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16), "patch_embed.proj.bias": (384,), "rope_embed.periods": (16,),
        "norm.weight": (384,), "norm.bias": (384,),
        **{f"blocks.{i}.{k}": v for i in range(12) for k, v in block.items()},
    }  # fmt: skip
    assert plus["blocks.11.mlp.w1.weight"] == plus["blocks.11.mlp.w2.weight"] == (1536, 384)
    assert plus["blocks.11.mlp.w3.weight"] == (384, 1536)


def test_published_files_load_strictly(tmp_path: Path) -> None:
    source = build("dinov3_vits16", depth=12)
    assert isinstance(source, DinoV3)
    state = published_state(source)
    path = tmp_path / get_entry("dinov3_vits16").file
    torch.save(state, path)
    loaded = create_semantic_encoder("dinov3_vits16", weights=tmp_path, device="cpu")
    bias = loaded.state_dict()["blocks.3.attn.qkv.bias"]
    assert not bias[384:768].any() and torch.equal(bias[:384], state["blocks.3.attn.qkv.bias"][:384])
    torch.save(loaded.state_dict(), path)  # its own layout loads too
    again = create_semantic_encoder("dinov3_vits16", weights=tmp_path, device="cpu")
    images = torch.rand(1, 3, 32, 48)
    assert torch.equal(loaded(images), again(images))
    torch.save({k: v for k, v in state.items() if k != "storage_tokens"}, path)
    with pytest.raises(CheckpointError, match="storage_tokens"):
        load_state_dict_strictly(DinoV3(), path)
    with pytest.raises(CheckpointError, match=r"w1|fc1"):
        load_state_dict_strictly(DinoV3("dinov3_vits16plus"), path)


def test_wrong_images_and_names() -> None:
    encoder = build("dinov3_vits16", depth=1)
    for size in ((14, 16), (16, 40), (0, 16)):
        with pytest.raises(ShapeError, match="multiples of 16"):
            encoder(torch.zeros(1, 3, *size))
    with pytest.raises(UnknownNameError, match="dinov3_vitb16"):
        DinoV3("dinov3_vitl16")
    assert [*REGISTERS, *THIRD] == [n for n in list_semantic_encoders() if "reg" in n or "dinov3" in n]


def test_the_licence_of_dinov3_is_shown_and_accepted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    isolate(monkeypatch, tmp_path)
    with pytest.raises(LicenseNotAcceptedError, match=r"LicenseRef-DINOv3 .*--accept-license"):
        fetch_weights("dinov3_vits16")


@torch.inference_mode()
def test_narrow_weights_stay_close() -> None:
    from semantic_matcher_core.precision import has_narrow_weights, narrowed

    for name in ("dinov2_vits14_reg", "dinov3_vits16", "dinov3_vits16plus"):
        encoder = build(name)
        assert has_narrow_weights(encoder)
        patch = encoder.patch_size
        images = torch.rand(1, 3, 4 * patch, 6 * patch)
        expected, out = encoder(images), narrowed(encoder, torch.bfloat16)(images)
        assert out.dtype == torch.float32
        similarity = nn.functional.cosine_similarity(out, expected, dim=1)
        assert similarity.min() > 0.99
