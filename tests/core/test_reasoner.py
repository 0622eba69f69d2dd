"""The reasoner against golden files and against a formulation with torch's own attention module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.matching import MatcherConfig, match_features
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig, load_reasoner
from semantic_matcher_core.types import Features


def make_reasoner(seed: int = 0, **options: Any) -> Reasoner:
    torch.manual_seed(seed)
    values = {
        "extractor_features_dim": 24,
        "semantic_features_dim": 40,
        "features_dim": 32,
        "n_attention_layers": 3,
        "num_heads": 4,
        **options,
    }
    reasoner = Reasoner(ReasonerConfig(**values)).eval()
    with torch.no_grad():  # biases start at zero, where forgetting one would not show
        for name, parameter in reasoner.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return reasoner


def make_inputs(reasoner: Reasoner, batch: int, n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    config = reasoner.config
    dims = (config.extractor_features_dim, config.semantic_features_dim)
    descriptors, semantic = (torch.randn(batch, n, dim, generator=generator) for dim in dims)
    return nn.functional.normalize(descriptors, dim=-1), nn.functional.normalize(semantic, dim=-1)


class AttentionModuleReasoner(nn.Module):
    """The same computation written with ``nn.MultiheadAttention``: the oracle."""

    def __init__(self, config: ReasonerConfig) -> None:
        super().__init__()
        d = config.features_dim

        def block() -> nn.ModuleDict:
            return nn.ModuleDict(
                {
                    "attention": nn.MultiheadAttention(d, config.num_heads, batch_first=True),
                    "fc": nn.Linear(d, d),
                    "mlp": nn.Sequential(
                        nn.Linear(2 * d, 2 * d), nn.ReLU(), nn.Linear(2 * d, 2 * d), nn.ReLU(), nn.Linear(2 * d, d)
                    ),
                }
            )

        self.dino_reprojection = nn.Linear(config.semantic_features_dim, d)
        self.extractor_reprojection = nn.Linear(config.extractor_features_dim, d)
        self.texture_attentions = nn.ModuleList(block() for _ in range(config.n_attention_layers))
        self.semantic_attentions = nn.ModuleList(block() for _ in range(config.n_attention_layers))
        self.joint_features = nn.Linear(2 * d, d)

    def forward(
        self, descriptors: Tensor, semantic: Tensor, valid: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor]]:
        p, e = self.dino_reprojection(semantic), self.extractor_reprojection(descriptors)
        ignore = None if valid is None else ~valid

        def step(block: Any, query: Tensor, x: Tensor) -> Tensor:
            message, _ = block["attention"](query, x, x, key_padding_mask=ignore)
            return x + block["mlp"](torch.cat([block["fc"](message), x], dim=-1))

        x, s, layers = e, p, []
        for i, (texture, meaning) in enumerate(zip(self.texture_attentions, self.semantic_attentions, strict=True)):
            x = step(texture, e if i % 2 else p, x)
            s = step(meaning, p, s)
            layers.append((x, s))
        return layers


@pytest.mark.parametrize("variant", ["i", "ii"])
@torch.inference_mode()
def test_golden_outputs_and_matches(shared: Path, variant: str) -> None:
    golden = np.load(shared / "golden" / f"reasoning_{variant}.npz")
    reasoner, config = load_reasoner(shared / "golden" / f"reasoning_ckpt_{variant}")
    sides = []
    for side in "01":
        descriptors = torch.from_numpy(golden[f"descriptors{side}"])
        semantic = torch.from_numpy(golden[f"semantic_features_in{side}"]).float()
        texture, meaning = reasoner(descriptors, semantic, semantic_branch=True)
        assert meaning is not None
        np.testing.assert_allclose(texture, golden[f"out_reasoning_features{side}"], atol=1e-5)
        np.testing.assert_allclose(meaning, golden[f"out_semantic_features{side}"], atol=1e-5)
        texture, meaning = reasoner(descriptors, semantic)
        assert (meaning is not None) == config.reasoner.semantic_conditioning == (variant == "i")
        if side == "0":
            layers = reasoner.forward_layers(descriptors, semantic, semantic_branch=True)
            assert len(layers) == config.reasoner.n_attention_layers
            for i, (layer_texture, layer_meaning) in enumerate(layers):
                np.testing.assert_allclose(layer_texture, golden["out_all_reasoning_features0"][i], atol=1e-5)
                np.testing.assert_allclose(layer_meaning, golden["out_all_semantic_features0"][i], atol=1e-5)
        sides.append(
            Features(
                keypoints=torch.from_numpy(golden[f"keypoints{side}"]),
                scores=torch.ones(1, 256),
                descriptors=descriptors,
                image_size=(480, 640),
                reasoned=nn.functional.normalize(texture, dim=-1),
                semantic=None if meaning is None else nn.functional.normalize(meaning, dim=-1),
            )
        )
    matches = match_features(sides[0], sides[1], MatcherConfig())
    expected = golden["matches_idx0"]
    rows = np.flatnonzero(expected >= 0)
    assert np.array_equal(matches.indices.numpy(), np.stack((rows, expected[rows]), axis=1))
    np.testing.assert_array_equal(matches.keypoints0.numpy(), golden["match_kpts0"])
    np.testing.assert_array_equal(matches.keypoints1.numpy(), golden["match_kpts1"])


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("layers", [1, 2, 5])
@torch.inference_mode()
def test_equals_the_formulation_with_torchs_attention_module(heads: int, layers: int) -> None:
    reasoner = make_reasoner(num_heads=heads, n_attention_layers=layers)
    oracle = AttentionModuleReasoner(reasoner.config).eval()
    oracle.load_state_dict(reasoner.state_dict(), strict=True)  # names and shapes are torch's own
    for batch, n in ((1, 1), (3, 37)):
        descriptors, semantic = make_inputs(reasoner, batch, n)
        strided = descriptors.transpose(1, 2).contiguous().transpose(1, 2)
        for (a, b), (c, d) in zip(
            reasoner.forward_layers(strided, semantic), oracle(descriptors, semantic), strict=True
        ):
            torch.testing.assert_close(a, c, atol=1e-5, rtol=0)
            torch.testing.assert_close(b, d, atol=1e-5, rtol=0)
        texture, meaning = reasoner(descriptors, semantic)
        torch.testing.assert_close((texture, meaning), (c, d), atol=1e-5, rtol=0)
    valid = torch.arange(37)[None] < torch.tensor([[37], [1], [20]])
    texture, meaning = reasoner(descriptors, semantic, valid)
    expected_texture, expected_meaning = oracle(descriptors, semantic, valid)[-1]
    torch.testing.assert_close(texture[valid], expected_texture[valid], atol=1e-5, rtol=0)
    torch.testing.assert_close(meaning[valid], expected_meaning[valid], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_initial_weights_follow_torchs_attention_module() -> None:
    reasoner = Reasoner(ReasonerConfig(24, 40, features_dim=64))
    attention = reasoner.texture_attentions[0].attention
    bound = (6 / (64 + 3 * 64)) ** 0.5  # Xavier's uniform over the packed matrix
    assert attention.in_proj_weight.abs().max() <= bound
    assert attention.in_proj_weight.abs().max() > 0.95 * bound
    assert attention.in_proj_bias.abs().max() == 0
    assert attention.out_proj.bias.abs().max() == 0


@torch.inference_mode()
def test_padding_changes_nothing_whatever_it_holds() -> None:
    reasoner = make_reasoner()
    descriptors, semantic = make_inputs(reasoner, 1, 23)
    texture, meaning = reasoner(descriptors, semantic)
    for content in (0.0, 7.0, 1e6, float("nan"), float("inf")):
        padded = [torch.cat((t, torch.full((1, 18, t.shape[-1]), content)), dim=1) for t in (descriptors, semantic)]
        valid = torch.arange(41)[None] < 23
        padded_texture, padded_meaning = reasoner(*padded, valid)
        torch.testing.assert_close(padded_texture[:, :23], texture, atol=1e-6, rtol=0)
        torch.testing.assert_close(padded_meaning[:, :23], meaning, atol=1e-6, rtol=0)
        assert (padded_texture[:, 23:] == 0).all()
        assert (padded_meaning[:, 23:] == 0).all()


@torch.inference_mode()
def test_images_of_a_ragged_batch_do_not_mix() -> None:
    reasoner = make_reasoner()
    descriptors, semantic = make_inputs(reasoner, 4, 30)
    counts = [30, 0, 1, 17]
    valid = torch.arange(30)[None] < torch.tensor(counts)[:, None]
    texture, meaning = reasoner(descriptors, semantic, valid)
    assert texture.isfinite().all() and meaning.isfinite().all()
    for b, n in enumerate(counts):
        alone, alone_meaning = reasoner(descriptors[b : b + 1, :n], semantic[b : b + 1, :n])
        torch.testing.assert_close(texture[b : b + 1, :n], alone, atol=1e-6, rtol=0)
        torch.testing.assert_close(meaning[b : b + 1, :n], alone_meaning, atol=1e-6, rtol=0)
        assert (texture[b, n:] == 0).all()


@torch.inference_mode()
def test_the_order_of_keypoints_does_not_matter() -> None:
    reasoner = make_reasoner()
    descriptors, semantic = make_inputs(reasoner, 2, 19)
    order = torch.randperm(19, generator=torch.Generator().manual_seed(3))
    texture, _ = reasoner(descriptors, semantic)
    shuffled, _ = reasoner(descriptors[:, order], semantic[:, order])
    torch.testing.assert_close(shuffled, texture[:, order], atol=1e-6, rtol=0)


@pytest.mark.parametrize("valid", [None, torch.zeros(2, 0, dtype=torch.bool)])
@torch.inference_mode()
def test_no_keypoints(valid: Tensor | None) -> None:
    reasoner = make_reasoner()
    texture, meaning = reasoner(torch.zeros(2, 0, 24), torch.zeros(2, 0, 40), valid)
    assert texture.shape == meaning.shape == (2, 0, 32)
    assert len(reasoner.forward_layers(torch.zeros(2, 0, 24), torch.zeros(2, 0, 40), valid)) == 3


def test_gradients_are_finite_with_padding_and_reach_what_is_used() -> None:
    reasoner = make_reasoner().train()
    descriptors, semantic = make_inputs(reasoner, 3, 12)
    valid = torch.arange(12)[None] < torch.tensor([[12], [0], [5]])
    loss = sum(t.square().sum() + m.square().sum() for t, m in reasoner.forward_layers(descriptors, semantic, valid))
    loss.backward()
    for name, parameter in reasoner.named_parameters():
        if name.startswith("joint_features"):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


@torch.inference_mode()
def test_the_semantic_branch_is_not_computed_where_it_is_not_used() -> None:
    reasoner = make_reasoner(semantic_conditioning=False)
    for parameter in reasoner.semantic_attentions.parameters():
        parameter.fill_(float("nan"))
    descriptors, semantic = make_inputs(reasoner, 1, 5)
    texture, meaning = reasoner(descriptors, semantic)
    assert meaning is None and texture.isfinite().all()
    assert [m for _, m in reasoner.forward_layers(descriptors, semantic)] == [None] * 3


@torch.inference_mode()
def test_autocast_bfloat16_stays_close() -> None:
    reasoner = make_reasoner()
    descriptors, semantic = make_inputs(reasoner, 2, 50)
    valid = torch.arange(50)[None] < torch.tensor([[50], [31]])
    full, full_meaning = reasoner(descriptors, semantic, valid)
    with torch.autocast("cpu", torch.bfloat16):
        half, half_meaning = reasoner(descriptors, semantic, valid)
    for a, b in ((full, half), (full_meaning, half_meaning)):
        assert nn.functional.cosine_similarity(a[valid], b[valid].float(), dim=-1).min() > 0.995
        assert (b[~valid] == 0).all()


def test_wrong_shapes_are_named() -> None:
    reasoner = make_reasoner()
    descriptors, semantic = make_inputs(reasoner, 2, 6)
    with pytest.raises(ShapeError, match=r"descriptors is \(2, 6, 40\), expected B x N x 24"):
        reasoner(semantic, semantic)
    with pytest.raises(ShapeError, match=r"semantic is \(2, 5, 40\)"):
        reasoner(descriptors, semantic[:, :5])
    with pytest.raises(ShapeError, match=r"valid is \(2, 5\)"):
        reasoner(descriptors, semantic, torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"torch\.float32, expected \(2, 6\) torch\.bool"):
        reasoner(descriptors, semantic, torch.ones(2, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features_dim": 0}, "features_dim must be a whole number from 1 up, got 0"),
        ({"n_attention_layers": 2.0}, "n_attention_layers must be a whole number"),
        ({"num_heads": True}, "num_heads must be a whole number"),
        ({"num_heads": 3}, "num_heads 3 does not divide features_dim 256"),
        ({"attention": "linear"}, "unknown attention 'linear'; use full"),
        ({"attention_progression": "visual"}, "unknown attention_progression 'visual'"),
        ({"semantic_interpolation_mode": "cubic"}, "use one of bicubic, bilinear, nearest"),
        ({"semantic_conditioning": "yes"}, "semantic_conditioning must be true or false"),
        ({"fix_dino_size": 1.5}, "fix_dino_size must be a whole number"),
    ],
)
def test_configuration_errors_name_the_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(ReasonerConfig(64, 384), **change)
