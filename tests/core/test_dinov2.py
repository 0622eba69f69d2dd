"""DINOv2 against kornia's implementation (random weights under the published names), and its bookkeeping."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semantic_matcher_core.errors import ShapeError, UnknownNameError
from semantic_matcher_core.semantics import SemanticEncoder, create_semantic_encoder, list_semantic_encoders
from semantic_matcher_core.semantics.dinov2 import DinoV2

NAMES = ["dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14", "dinov2_vitg14"]


def kornia_model(name: str) -> Any:
    """kornia's model as the published hub entry builds it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kornia.feature.dedode.transformer import dinov2

    build = {"s": dinov2.vit_small, "b": dinov2.vit_base, "l": dinov2.vit_large, "g": dinov2.vit_giant2}[name[-3]]
    ffn = "swiglufused" if name.endswith("vitg14") else "mlp"
    # drop_path_uniform only saves it from reading a tensor, which the meta device has none of; the rate is 0.
    return build(
        img_size=518, patch_size=14, init_values=1.0, ffn_layer=ffn, block_chunks=0, drop_path_uniform=True
    ).eval()


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights at which every parameter, layer scales and class token included, matters to the result."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2 and "token" not in name and "pos_embed" not in name:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
                parameter.copy_(0.5 + 0.2 * noise)
            else:
                parameter.copy_(0.3 * noise)


@pytest.fixture(scope="module")
def small_pair() -> tuple[DinoV2, Any]:
    ours, reference = DinoV2("dinov2_vits14").eval(), kornia_model("dinov2_vits14")
    randomise(ours)
    reference.load_state_dict(ours.state_dict(), strict=True)
    return ours, reference


def reference_map(reference: Any, images: Tensor) -> Tensor:
    return reference.get_intermediate_layers(images, n=1, reshape=True)[0]


# The published grid, and one that is larger and smaller; the position encodings of larger ones are compared below.
@pytest.mark.parametrize("size", [(518, 518), (14 * 23, 14 * 41)], ids=lambda s: f"{s[1]}x{s[0]}")
@torch.inference_mode()
def test_small_equals_kornia(small_pair: tuple[DinoV2, Any], size: tuple[int, int]) -> None:
    ours, reference = small_pair
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    out = ours(images)
    expected = reference_map(reference, images)
    assert out.shape == (1, 384, size[0] // 14, size[1] // 14)
    assert expected.std() > 0.1, "the comparison needs a result that is not flat"
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_batches_and_the_smallest_image(small_pair: tuple[DinoV2, Any]) -> None:
    ours, reference = small_pair
    for size in ((14, 14), (14, 70), (42, 28)):
        images = torch.rand(3, *size, 3).permute(0, 3, 1, 2)  # strided
        out = ours(images)
        torch.testing.assert_close(out, reference_map(reference, images), atol=1e-4, rtol=0)
        torch.testing.assert_close(out[1:2], ours(images[1:2]), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("depth", [2])
def test_giant_feed_forward_equals_kornia(depth: int) -> None:
    # The whole giant is 4.5 GB: two of its blocks hold all that is special to it.
    from semantic_matcher_core.semantics.vit import Block, FusedSwiGlu

    with torch.device("meta"):
        reference = kornia_model("dinov2_vitg14")
    for block in reference.blocks[:depth]:
        theirs = block.to_empty(device="cpu").eval()
        ours = Block(1536, 24, FusedSwiGlu(1536)).eval()
        randomise(ours)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        x = torch.randn(2, 9, 1536)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_shapes_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        ours, reference = DinoV2(name), kornia_model(name)
    shapes = {key: tuple(value.shape) for key, value in ours.state_dict().items()}
    assert shapes == {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    assert shapes["pos_embed"] == (1, 1370, ours.feature_dim)
    assert ours.feature_dim == {"s": 384, "b": 768, "l": 1024, "g": 1536}[name[-3]]
    assert (
        len({key.split(".")[1] for key in shapes if key.startswith("blocks.")})
        == {
            "s": 12,
            "b": 12,
            "l": 24,
            "g": 40,
        }[name[-3]]
    )
    if name == "dinov2_vitg14":
        assert shapes["blocks.39.mlp.w12.weight"] == (8192, 1536)
        assert shapes["blocks.39.mlp.w3.weight"] == (1536, 4096)


def test_every_name_in_the_table_builds() -> None:
    assert [n for n in list_semantic_encoders() if n.startswith("dinov2") and "reg" not in n] == NAMES
    model = DinoV2("dinov2_vitb14")
    assert isinstance(model, SemanticEncoder)
    assert (model.name, model.feature_dim, model.patch_size) == ("dinov2_vitb14", 768, 14)


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vitb14"])
def test_published_files_load_by_name(name: str, tmp_path: Path) -> None:
    # Files of the larger ones take 1.2 and 4.5 GB; their names and shapes are compared above.
    model = DinoV2(name)
    file = tmp_path / f"{name}_pretrain.pth"
    torch.save(model.state_dict(), file)
    loaded = create_semantic_encoder(name, weights=tmp_path, device="cpu")
    file.unlink()  # 350 MB, of which pytest would keep three runs
    assert isinstance(loaded, DinoV2) and loaded.name == name and not loaded.training
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    images = torch.rand(1, 3, 28, 42)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model.eval()(images))


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'dinov2_vits16'.*dinov2_vits14"):
        DinoV2("dinov2_vits16")


def test_sizes_that_are_no_multiples_are_refused() -> None:
    model = DinoV2("dinov2_vits14")
    for shape in ((1, 3, 15, 14), (1, 3, 14, 13), (1, 3, 0, 14)):
        with pytest.raises(ShapeError, match=f"multiples of 14, got {shape[2]} x {shape[3]}"):
            model(torch.zeros(shape))
    for shape in ((3, 14, 14), (1, 1, 14, 14)):
        with pytest.raises(ShapeError, match="B x 3 x H x W"):
            model(torch.zeros(shape))


@torch.no_grad()
def test_position_encoding_equals_kornia_at_every_size(small_pair: tuple[DinoV2, Any]) -> None:
    ours, reference = small_pair
    for rows, columns in ((1, 1), (1, 50), (36, 37), (37, 37), (48, 64), (64, 48), (74, 74), (7, 101)):
        tokens = torch.zeros(1, 1 + rows * columns, 384)
        expected = reference.interpolate_pos_encoding(tokens, rows * 14, columns * 14)
        torch.testing.assert_close(ours.interpolate_pos_encoding(rows, columns), expected, atol=1e-6, rtol=0)


def test_positions_are_never_those_of_other_weights() -> None:
    model = DinoV2("dinov2_vits14").eval()
    images = torch.rand(1, 3, 28, 42)

    def agrees() -> bool:
        fresh = DinoV2("dinov2_vits14").eval()
        fresh.load_state_dict(model.state_dict())
        with torch.no_grad():
            return torch.equal(model(images), fresh(images))

    with torch.no_grad():
        model(images)
        model(images)
        model.pos_embed.mul_(3)
        assert agrees()
        model.load_state_dict({k: v + 0.1 for k, v in model.state_dict().items()})
        assert agrees()
        model.load_state_dict({k: v - 0.3 for k, v in model.state_dict().items()}, assign=True)
        assert agrees()
        model.double().float()
        assert agrees()
    with torch.inference_mode():
        model(images)
    model(images).sum().backward()  # what inference mode kept must not be used here
    assert model.pos_embed.grad is not None and model.pos_embed.grad.abs().sum() > 0


def test_model_copies_and_pickles() -> None:
    model = DinoV2("dinov2_vits14").eval()
    images = torch.rand(1, 3, 28, 28)
    with torch.no_grad():
        out = model(images)
        assert torch.equal(copy.deepcopy(model)(images), out)
        assert torch.equal(pickle.loads(pickle.dumps(model))(images), out)


@torch.inference_mode()
def test_bfloat16_autocast_stays_close(small_pair: tuple[DinoV2, Any]) -> None:
    ours, _ = small_pair
    images = torch.rand(1, 3, 140, 98)
    full = ours(images)
    with torch.autocast("cpu", torch.bfloat16):
        half = ours(images)
    assert half.isfinite().all()
    assert nn.functional.cosine_similarity(full, half.float(), dim=1).min() > 0.98
