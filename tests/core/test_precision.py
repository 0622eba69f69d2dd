"""Narrow weights: cast once, beside the untouched float32 network, and close to what it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from semantic_matcher_core import SemanticMatcher, create_extractor
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.precision import has_narrow_weights, narrowed
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.dinov2 import DinoV2

Render = Callable[..., np.ndarray]
DTYPES = (torch.bfloat16, torch.float16)


@pytest.fixture(scope="module")
def encoder() -> DinoV2:
    torch.manual_seed(1)
    encoder = DinoV2().eval().requires_grad_(False)
    encoder.blocks = encoder.blocks[:3]
    for block in encoder.blocks:
        nn.init.uniform_(block.ls1.gamma, 0.1, 1.0)
    return encoder


@pytest.fixture(scope="module")
def reasoner() -> Reasoner:
    torch.manual_seed(2)
    return Reasoner(ReasonerConfig(64, 384, features_dim=96, n_attention_layers=3, num_heads=2)).eval()


def relative_error(narrow: torch.Tensor, exact: torch.Tensor) -> float:
    assert narrow.dtype == exact.dtype == torch.float32
    return float((narrow - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_weights_of_products_are_narrow(encoder: DinoV2, dtype: torch.dtype) -> None:
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    narrow = narrowed(encoder, dtype)
    for name, parameter in narrow.named_parameters():
        product = any(part in name for part in ("qkv", "proj", "fc1", "fc2"))
        assert parameter.dtype == (dtype if product else torch.float32), name
        assert product or parameter is encoder.get_parameter(name), f"{name} should be shared"
    for name, parameter in encoder.named_parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter, before[name], atol=0, rtol=0)


def test_the_reasoners_own_projections_are_narrow_too(reasoner: Reasoner) -> None:
    narrow = narrowed(reasoner, torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in narrow.parameters())
    assert all(p.dtype == torch.float32 for p in reasoner.parameters())


def test_float32_is_the_network_itself(reasoner: Reasoner) -> None:
    assert narrowed(reasoner, torch.float32) is reasoner
    assert has_narrow_weights(reasoner) and not has_narrow_weights(XFeat())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 42, 70), (2, 56, 28)])
@torch.inference_mode()
def test_encoder_stays_close(encoder: DinoV2, dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    batch, height, width = size
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    error = relative_error(narrowed(encoder, dtype)(images), encoder(images))
    # One rounding of the inputs of each product: some 2^-9 and 2^-12.
    assert error < {torch.bfloat16: 1e-2, torch.float16: 1.5e-3}[dtype]
    assert error > 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padded", [False, True])
@torch.inference_mode()
def test_reasoner_stays_close(reasoner: Reasoner, dtype: torch.dtype, padded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    descriptors = nn.functional.normalize(torch.randn(2, 37, 64, generator=generator), dim=-1)
    semantic = nn.functional.normalize(torch.randn(2, 37, 384, generator=generator), dim=-1)
    valid = torch.arange(37).expand(2, -1) < torch.tensor([[37], [20]]) if padded else None
    exact = reasoner(descriptors, semantic, valid, semantic_branch=True)
    close = narrowed(reasoner, dtype)(descriptors, semantic, valid, semantic_branch=True)
    for ours, theirs in zip(close, exact, strict=True):
        assert relative_error(ours, theirs) < 1e-2  # float16 would not hold its range: bfloat16 takes its place
        if padded:
            assert (ours[1, 20:] == 0).all()


@torch.inference_mode()
def test_reasoner_takes_no_keypoints(reasoner: Reasoner) -> None:
    texture, _ = narrowed(reasoner, torch.bfloat16)(torch.zeros(1, 0, 64), torch.zeros(1, 0, 384))
    assert texture.shape == (1, 0, 96)


def build(extractor: XFeat, precision: str) -> SemanticMatcher:
    torch.manual_seed(0)
    encoder = DinoV2().requires_grad_(False)
    reasoner = Reasoner(ReasonerConfig(64, 384, features_dim=256, n_attention_layers=3, num_heads=1))
    matcher = SemanticMatcher.from_parts(
        extractor, encoder, reasoner, device="cpu", precision=precision, semantic_size=224
    )
    assert reasoner.joint_features.weight.dtype == torch.float32  # the caller's part is as it was
    return matcher


def test_keypoints_are_those_of_float32(textured: Render) -> None:
    torch.manual_seed(3)
    extractor = XFeat(200, detection_threshold=0.0)
    image = textured(120, 160, seed=1)
    exact, narrow = (build(extractor, precision).extract(image) for precision in ("fp32", "bf16"))
    torch.testing.assert_close(narrow.keypoints, exact.keypoints, atol=0, rtol=0)
    torch.testing.assert_close(narrow.descriptors, exact.descriptors, atol=0, rtol=0)
    assert narrow.reasoned is not None and exact.reasoned is not None
    assert narrow.reasoned.dtype == torch.float32
    assert 0 < float((narrow.reasoned - exact.reasoned).norm(dim=-1).max()) < 0.05


def test_matches_of_bfloat16_agree(shared: Path, textured: Render) -> None:
    scene = textured(260, 350, seed=3)
    views = scene[:240, :320].copy(), scene[9:249, 17:337].copy()
    weights = shared / "weights" / "xfeat.pt"
    extractor = create_extractor("xfeat", 512, weights=weights, device="cpu", detection_threshold=0.0)
    found = []
    for precision in ("fp32", "bf16"):
        matches = build(extractor, precision).match_images(*views)
        found.append({tuple(row) for row in matches.indices.tolist()})
    assert len(found[0]) > 100
    assert len(found[0] & found[1]) >= 0.98 * len(found[0])


def test_float16_is_not_given_to_what_outgrows_it() -> None:
    reasoner = Reasoner(ReasonerConfig(64, 384, features_dim=64, n_attention_layers=1))
    assert narrowed(reasoner, torch.float16).dino_reprojection.weight.dtype is torch.bfloat16
    assert narrowed(nn.Linear(2, 2), torch.float16).weight.dtype is torch.float16
