"""Each optimisation of the CPU gives what the plain way gives, and the switch does turn it off.

Those of a GPU are tested with what they belong to (``test_cuda_extraction.py``), folded
norms in ``test_dalf_inference.py``.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors import selection
from semantic_matcher_core.extractors.compact import Compact
from semantic_matcher_core.extractors.folding import FoldedSequential
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.layers import attention
from semantic_matcher_core.matching import MatcherConfig, match_features_densely
from semantic_matcher_core.matching.nearby import NearbySearch
from semantic_matcher_core.matching.nearest import match_similarities
from semantic_matcher_core.matching.similarity import FusedSimilarity
from semantic_matcher_core.optimisations import NAMES, VARIABLE, is_enabled
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.compact_context import CompactContext
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.types import Features


def seeded(module: Callable[[], nn.Module]) -> Any:
    torch.manual_seed(1)
    return module().eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def units(*shape: int, seed: int) -> Tensor:
    return normalize(random(*shape, seed=seed) - 0.5, dim=-1)


def reasoner() -> Reasoner:
    return Reasoner(ReasonerConfig(12, 10, features_dim=16, n_attention_layers=3, num_heads=2))


def reasoned() -> list[Tensor]:
    valid = torch.arange(9)[None] < torch.tensor([[9], [4]])
    outputs = seeded(reasoner)(units(2, 9, 12, seed=1), units(2, 9, 10, seed=2), valid)
    return [tensor for tensor in outputs if tensor is not None]


def encoded() -> list[Tensor]:
    encoder = seeded(lambda: DinoV2("dinov2_vits14"))
    return [encoder(random(1, 3, 42, 70, seed=seed)) for seed in (1, 2)]


def context() -> list[Tensor]:
    return [seeded(CompactContext)(random(2, 3, 80, 112))]


def folded() -> list[Tensor]:
    layers = seeded(lambda: FoldedSequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()))
    layers[1].running_mean.copy_(random(8))
    layers[1].running_var.copy_(random(8) + 0.5)
    return [layers(random(2, 3, 21, 17))]


def xfeat_with_statistics() -> XFeat:
    extractor: XFeat = seeded(XFeat)
    for module in extractor.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(random(module.num_features))
            module.running_var.copy_(random(module.num_features) + 0.5)
    return extractor


def keypoints() -> list[Tensor]:
    # Plateaus and an image that is all zeros, beside the usual.
    scores = (random(3, 61, 83) * 40).round() / 40
    scores[1] = 0
    found = selection.select_keypoints(scores, 150, nms_radius=3, threshold=0.1)
    assert found.valid is not None
    return [found.keypoints, found.scores, found.valid, selection.iterative_maxima(scores, 2), windows(scores)]


def windows(scores: Tensor) -> Tensor:
    return torch.stack([selection.window_maximum(scores, radius) for radius in (1, 2, 5)])


def matched(*, ratio: float | None = None) -> list[Tensor]:
    config = MatcherConfig(ratio=ratio)
    sides = [[units(2, n, 24, seed=seed + n) for seed in (1, 2)] for n in (301, 256)]
    sides[1][0][:, :200] = normalize(sides[0][0][:, 50:250] + 0.2 * sides[1][0][:, :200], dim=-1)
    # Columns that are the same: the lower one is the nearest.
    sides[1][0][:, 255], sides[1][1][:, 255] = sides[1][0][:, 3], sides[1][1][:, 3]
    fused = match_similarities(FusedSimilarity(sides[0], sides[1], config), config)
    alone = match_similarities(FusedSimilarity(sides[0][:1], sides[1][:1], config), config)
    return [*fused, *alone]


def guided(**options: Any) -> list[Tensor]:
    """Keypoints that moved together, a quarter of them with look-alikes, of two pairs, one with padding."""
    config = MatcherConfig(guided="always", **options)
    vectors = units(2, 300, 24, seed=1)
    vectors[:, :40] = normalize(vectors[:, 40:80] + 0.1 * vectors[:, :40], dim=-1)
    seen = normalize(vectors + 0.3 * units(2, 300, 24, seed=2), dim=-1)
    points = random(2, 300, 2) * 400
    valid = torch.arange(300) < torch.tensor([[300], [250]])
    sides = [
        Features(p, random(2, 300), v, (480, 640), valid=valid) for p, v in ((points, vectors), (points + 9, seen))
    ]
    return list(match_features_densely(*sides, config))


WORK: dict[str, Sequence[Callable[[], list[Tensor]]]] = {
    "fused_attention": (reasoned, encoded, context),
    "channels_last": (
        lambda: list(seeded(XFeat).dense(random(2, 3, 64, 96))),
        lambda: list(seeded(Compact).dense(random(2, 3, 64, 96))),
        context,
    ),
    "folded_norms": (folded, lambda: list(xfeat_with_statistics().dense(random(2, 3, 64, 96)))),
    "candidate_ranking": (keypoints,),
    "sliding_maximum": (keypoints,),
    "grouped_maxima": (matched, lambda: matched(ratio=0.95)),
    "nearby_search": (guided, lambda: guided(ratio=0.95), lambda: guided(mutual=False), lambda: guided(band_px=20.0)),
}
# Whose switch changes nothing that a sum could round otherwise.
EXACT = {"candidate_ranking", "sliding_maximum"}


@pytest.mark.parametrize(("name", "work"), [(name, work) for name, all_work in WORK.items() for work in all_work])
@torch.no_grad()
def test_without_it_the_result_is_the_same(
    name: str, work: Callable[[], list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    fast = work()
    monkeypatch.setenv(VARIABLE, name)
    plain = work()
    assert len(fast) == len(plain) > 0
    for ours, expected in zip(fast, plain, strict=True):
        if name in EXACT or not expected.is_floating_point():
            assert torch.equal(ours, expected)
        else:
            torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_every_optimisation_of_the_cpu_is_tested_here_or_as_said() -> None:
    assert {name for name, what in NAMES.items() if not what.startswith("CUDA")} == set(WORK)


@pytest.mark.parametrize(
    ("name", "owner", "called", "work"),
    [
        ("fused_attention", torch.nn.functional, "scaled_dot_product_attention", reasoned),
        ("sliding_maximum", selection, "_sliding_maximum", lambda: [windows(random(1, 9, 9))]),
        ("candidate_ranking", selection, "_gathered", keypoints),
        ("nearby_search", NearbySearch, "again", guided),
    ],
)
@torch.no_grad()
def test_the_switch_turns_it_off(
    name: str, owner: Any, called: str, work: Callable[[], list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = getattr(owner, called)
    monkeypatch.setattr(owner, called, lambda *a, **k: calls.append(1) or real(*a, **k))
    monkeypatch.delenv(VARIABLE, raising=False)
    work()
    assert calls
    calls.clear()
    monkeypatch.setenv(VARIABLE, name)
    work()
    assert not calls


def test_layouts_follow_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    def layouts() -> set[bool]:
        weights = (
            p for network in (XFeat(), Compact()) for p in network.parameters() if p.ndim == 4 and min(p.shape) > 1
        )
        return {p.is_contiguous(memory_format=torch.channels_last) for p in weights}

    monkeypatch.delenv(VARIABLE, raising=False)
    assert layouts() == {True}
    monkeypatch.setenv(VARIABLE, "channels_last")
    assert layouts() == {False}


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 1, 1, 8)])
def test_attention_written_out_is_torchs(shape: tuple[int, ...]) -> None:
    q, k, v = (random(*shape, seed=seed) for seed in range(3))
    attended = random(shape[0], 1, 1, shape[2], seed=5) < 0.7
    attended[..., 0] = True
    for mask in (None, attended):
        torch.testing.assert_close(attention(q, k, v, mask), attention(q, k, v, mask, fused=False), atol=1e-6, rtol=0)


def test_networks_are_copied_and_pickled_with_their_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "channels_last,fused_attention")
    encoder = seeded(CompactContext)
    monkeypatch.delenv(VARIABLE)
    image = random(1, 3, 32, 48)
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder, 2))):
        assert not other.channels_last and not other.blocks[0].fused
        torch.testing.assert_close(other(image), encoder(image))


def test_optimisations_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert is_enabled("grouped_maxima")
    monkeypatch.setenv(VARIABLE, "streams, grouped_maxima")
    assert not is_enabled("grouped_maxima") and is_enabled("cuda_graphs")
    monkeypatch.setenv(VARIABLE, "all")
    assert not is_enabled("cuda_graphs")
    monkeypatch.setenv(VARIABLE, "groupd_maxima")
    with pytest.raises(ConfigError, match="groupd_maxima; there are all, fused_attention"):
        is_enabled("streams")
