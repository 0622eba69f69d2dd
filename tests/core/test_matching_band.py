"""Matching within a band of rows, against brute force."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.matching import FusedSimilarity, MatcherConfig, match_features, match_similarities, nearest
from semantic_matcher_core.types import Features


def features(count: int, seed: int, valid: torch.Tensor | None = None, batch: int = 2, **extra: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    fields = {k: F.normalize(torch.randn(batch, count, d, generator=generator), dim=-1) for k, d in extra.items()}
    keypoints = torch.rand(batch, count, 2, generator=generator) * torch.tensor([200.0, 40.0])
    descriptors = F.normalize(torch.randn(batch, count, 8, generator=generator), dim=-1)
    return Features(keypoints, torch.ones(batch, count), descriptors, (40, 200), valid=valid, **fields)


def brute_force(a: Features, b: Features, config: MatcherConfig, similarity: torch.Tensor) -> set[tuple[int, int, int]]:
    """One keypoint at a time, among those of the other side that lie in its band."""
    found = set()
    for image in range(len(a)):
        na, nb = int(a.counts[image]), int(b.counts[image])
        ya, yb = a.keypoints[image, :na, 1].tolist(), b.keypoints[image, :nb, 1].tolist()

        def best(row, own, others, limit):
            allowed = [j for j in range(len(others)) if abs(own - others[j]) <= limit]
            ranked = sorted(allowed, key=lambda j: -row[j])
            if not ranked:
                return -1
            doubtful = config.ratio is not None and len(ranked) > 1
            if doubtful and not 1 - row[ranked[0]] <= config.ratio**2 * (1 - row[ranked[1]]):
                return -1
            return ranked[0]

        s = similarity[image, :na, :nb]
        forth = [best(s[i].tolist(), ya[i], yb, config.band_px) for i in range(na)]
        back = [best(s[:, j].tolist(), yb[j], ya, config.band_px) for j in range(nb)]
        found |= {(image, i, j) for i, j in enumerate(forth) if j >= 0 and (back[j] == i or not config.mutual)}
    return found


@pytest.mark.parametrize("band", [0.0, 0.8, 5.0, 1000.0])
@pytest.mark.parametrize("ratio", [None, 0.9])
@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.parametrize(("n", "m"), [(61, 150), (150, 61), (1, 40), (40, 1)])
def test_equals_brute_force(band, ratio, mutual, n, m):
    a, b = features(n, 1), features(m, 2)
    config = MatcherConfig(band_px=band, ratio=ratio, mutual=mutual)
    expected = brute_force(a, b, config, a.descriptors @ b.descriptors.transpose(1, 2))
    matches = match_features(a, b, config)
    assert {(int(p), *map(int, ij)) for p, ij in zip(matches.pair, matches.indices, strict=True)} == expected
    assert ((matches.keypoints0 - matches.keypoints1)[:, 1].abs() <= band).all()
    if band >= 5 and min(n, m) > 1:
        assert len(matches) > 5


def test_padding_and_fused_similarities_are_restricted_alike():
    valid = torch.arange(50)[None] < torch.tensor([[50], [17]])
    a, b = features(50, 3, valid, reasoned=6, semantic=5), features(70, 4, reasoned=6, semantic=5)
    config = MatcherConfig(band_px=2.0)
    similarity = (a.reasoned @ b.reasoned.transpose(1, 2)) * (a.semantic @ b.semantic.transpose(1, 2))
    matches = match_features(a, b, config)
    found = {(int(p), *map(int, ij)) for p, ij in zip(matches.pair, matches.indices, strict=True)}
    assert found == brute_force(a, b, config, similarity) and found


def test_a_band_that_holds_everything_changes_nothing_and_one_that_holds_nothing_gives_nothing():
    a, b = features(80, 5), features(90, 6)
    free, wide = match_features(a, b), match_features(a, b, MatcherConfig(band_px=1e6))
    torch.testing.assert_close(wide.indices, free.indices, rtol=0, atol=0)
    torch.testing.assert_close(wide.confidence, free.confidence, rtol=0, atol=0)
    away = Features(b.keypoints + torch.tensor([0.0, 100.0]), b.scores, b.descriptors, b.image_size)
    assert len(match_features(a, away, MatcherConfig(band_px=10.0))) == 0
    empty = features(0, 7)
    assert len(match_features(empty, b, MatcherConfig(band_px=10.0))) == 0
    assert len(match_features(b, empty, MatcherConfig(band_px=10.0))) == 0


@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
def test_blocks_do_not_matter(block_rows, monkeypatch):
    a, b = features(130, 8), features(140, 9)
    config = MatcherConfig(ratio=0.95, band_px=3.0)
    ordinates = a.keypoints[..., 1], b.keypoints[..., 1]
    whole = match_similarities(FusedSimilarity([a.descriptors], [b.descriptors], config, ordinates), config)
    monkeypatch.setattr(nearest, "_suitable_block", lambda device, batch, columns: block_rows)
    blocks = match_similarities(FusedSimilarity([a.descriptors], [b.descriptors], config, ordinates), config)
    torch.testing.assert_close(blocks.matches0, whole.matches0, rtol=0, atol=0)
    torch.testing.assert_close(blocks.similarity0, whole.similarity0)
    assert torch.isfinite(whole.similarity0).all() and (whole.matches0 >= 0).sum() > 5


@pytest.mark.parametrize("band", [-0.1, float("nan"), float("inf"), "2", True])
def test_bad_bands_are_refused(band):
    with pytest.raises(ConfigError, match="band_px"):
        MatcherConfig(band_px=band)
