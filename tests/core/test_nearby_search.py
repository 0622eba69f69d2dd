"""Searching again at expected places only, against all similarities less what each loses, one row at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from semantic_matcher_core.matching import FusedSimilarity, MatcherConfig
from semantic_matcher_core.matching.distances import nearest_of, neighbours_of
from semantic_matcher_core.matching.nearby import Expected, NearbySearch

CONFIGS = [MatcherConfig(mutual=mutual, ratio=ratio) for mutual, ratio in itertools.product((True, False), (None, 0.9))]


def one_way(similarity: np.ndarray, ratio: float | None) -> np.ndarray:
    """Of each row the best column, the lowest of equals; -1 for none, or where the ratio test fails."""
    best = similarity.argmax(1)
    value = similarity.max(1)
    keep = np.isfinite(value)
    if ratio is not None and similarity.shape[1] > 1:
        keep &= 1 - value <= ratio**2 * (1 - np.partition(similarity, -2, axis=1)[:, -2]) + 1e-6
    return np.where(keep, best, -1)


def looked_at_whole(similarity: np.ndarray, config: MatcherConfig) -> np.ndarray:
    """Of each row the column it matches, -1 for none."""
    forth, back = one_way(similarity, config.ratio), one_way(similarity.T, config.ratio)
    rows = np.arange(len(similarity))
    return np.where((forth >= 0) & (back[forth] == rows), forth, -1) if config.mutual else forth


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("levels", [8, 10**6])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("n", "m"), [(150, 331), (331, 150), (40, 16), (17, 9), (30, 1), (1, 30)])
def test_it_finds_what_looking_at_everything_finds(config, levels, padded, n, m):
    rng = np.random.default_rng(n + m)
    matrix = np.floor(rng.uniform(0, 1, (n, m)) * levels) / levels  # of few levels: many are the best
    points, place = rng.uniform(0, 200, (m, 2)), rng.uniform(-50, 250, (n, 2))
    elsewhere, most = rng.uniform(5, 80, n), 0.25
    valid = [torch.tensor(rng.uniform(size=size) < 0.8)[None] if padded else None for size in (n, m)]
    given = FusedSimilarity([torch.tensor(matrix, dtype=torch.float32)[None]], [torch.eye(m)[None]], config)
    search = NearbySearch(given, config, torch.tensor(points.T, dtype=torch.float32), (valid[0], valid[1]))
    for mask, axis in zip(valid, (1, 0), strict=True):
        if mask is not None:
            matrix = np.where(np.expand_dims(mask[0].numpy(), axis), matrix, -np.inf)
    assert (search.first.matches0[0].numpy() == looked_at_whole(matrix, config)).all()
    # Again and again, by other places: each from all similarities.
    for turn in range(2):
        away = np.linalg.norm(place[:, None] - points, axis=2)
        less = matrix - most * np.minimum(1, away / elsewhere[:, None])
        expected = Expected(
            torch.tensor(place.T[:, None], dtype=torch.float32),
            torch.tensor(elsewhere[None]).float(),
            torch.tensor([most]),
        )
        found = search.again(expected)
        matches = looked_at_whole(less, config)
        assert (found.matches0[0].numpy() == matches).all(), turn
        rows = np.flatnonzero(matches >= 0)
        np.testing.assert_allclose(found.similarity0[0].numpy()[rows], less[rows, matches[rows]], atol=1e-5)
        place, elsewhere = place[::-1] + 10, elsewhere * 2


def test_the_best_does_not_run_up_to_itself_where_it_lies_beside_what_is_near():
    config = MatcherConfig(mutual=False, ratio=0.9)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        matrix = rng.uniform(0, 0.3, (1, 64, 16))
        best = rng.integers(0, 16, 64)
        matrix[0, np.arange(64), best] = rng.uniform(0.9, 1, 64)
        matrix = torch.tensor(matrix, dtype=torch.float32)
        # All in one leaf, most of them elsewhere, where the loss is a product that may be rounded up.
        points, places = (torch.tensor(rng.uniform(0, 200, (2, count)), dtype=torch.float32) for count in (16, 64))
        elsewhere, most = torch.tensor(rng.uniform(5, 60, (1, 64))).float(), torch.tensor([rng.uniform(0.05, 0.25)])
        search = NearbySearch(FusedSimilarity([matrix], [torch.eye(16)[None]], config), config, points, (None, None))
        found = search.again(Expected(places[:, None], elsewhere, most.float()))
        assert found.matches0[0].tolist() == best.tolist()


def test_keypoints_at_one_place_are_all_looked_at():
    matrix = torch.rand(1, 50, 40, generator=torch.Generator().manual_seed(0))
    config = MatcherConfig()
    search = NearbySearch(
        FusedSimilarity([matrix], [torch.eye(40)[None]], config), config, torch.full((2, 40), 7.0), (None, None)
    )
    here = Expected(torch.full((2, 1, 50), 7.0), torch.full((1, 50), 12.0), torch.tensor([0.5]))
    assert torch.equal(search.again(here).matches0, search.first.matches0)


def test_nearest_points_are_those_of_all_distances():
    rng = np.random.default_rng(0)
    points, others = (torch.tensor(rng.uniform(0, 2000, (2, 3, count)), dtype=torch.float32) for count in (90, 70))
    among = torch.rand(3, 70, generator=torch.Generator().manual_seed(0)) < torch.tensor([[0.5], [1.0], [0.0]])
    apart = np.linalg.norm(points.numpy()[..., None] - others.numpy()[:, :, None], axis=0)
    found = nearest_of(points, others, among).numpy()
    for pair in (0, 1):
        assert (found[pair] == np.where(among[pair], apart[pair], np.inf).argmin(1)).all()
    # Two as near but for a ten-thousandth may come in another order, but no nearer one is left out.
    for count in (70, 1500):
        cloud = torch.tensor(rng.uniform(0, 2000, (2, 1, count)), dtype=torch.float32)
        apart = np.linalg.norm(cloud.numpy()[..., None] - cloud.numpy()[:, :, None], axis=0)
        near = np.take_along_axis(apart, neighbours_of(cloud, cloud, 8).numpy(), axis=2)
        np.testing.assert_allclose(near, np.sort(apart, axis=2)[..., 1:9], rtol=2e-4)
