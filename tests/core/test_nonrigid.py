"""Non-rigid RANSAC: never worse than the published code's recorded results, and right on known deformations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.matching import nonrigid
from semantic_matcher_core.matching.nonrigid import nonrigid_inliers


def bent_matches(outliers: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([640.0, 480.0])
    points = torch.rand(400 + outliers, 2, generator=generator) * extent
    moved = points + 15.0 * torch.sin(points.flip(-1) / 90.0) + torch.randn(points.shape, generator=generator) * 0.5
    moved[400:] = torch.rand(outliers, 2, generator=generator) * extent
    truth = torch.arange(len(points)) < 400
    return points, moved, truth


@pytest.mark.parametrize("case", ["mild", "strong", "hard"])
@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.2])
def test_precision_and_recall_are_not_below_the_recorded_ones(shared: Path, case: str, threshold: float) -> None:
    data = np.load(shared / "golden" / "dalf_nr_ransac_data.npz")
    recorded = next(
        row
        for row in json.loads((shared / "golden" / "dalf_nr_ransac.json").read_text())
        if (row["case"], row["thr"], row["dtype"]) == (case, threshold, "float32")
    )
    points0, points1, truth = (torch.from_numpy(data[f"{case}_{part}"]) for part in ("ref", "tgt", "gt"))
    precision, recall = [], []
    for seed in range(5):
        found = nonrigid_inliers(points0, points1, threshold=threshold, seed=seed)
        precision.append(float((found & truth).sum() / found.sum()))
        recall.append(float((found & truth).sum() / truth.sum()))
    # The record is rounded to four decimals.
    assert np.mean(precision) >= recorded["precision_mean"] - 1e-4
    assert np.mean(recall) >= recorded["recall_mean"] - 1e-4


def test_a_known_deformation_is_found_among_as_many_outliers() -> None:
    points0, points1, truth = bent_matches(400)
    found = nonrigid_inliers(points0, points1, threshold=0.2)
    assert (found & truth).sum() / truth.sum() > 0.97
    assert (found & truth).sum() / found.sum() > 0.95


def test_matches_far_from_a_known_deformation_are_left_out() -> None:
    precision, recall = [], []
    for seed in range(5):
        points0, points1, truth = bent_matches(400, seed)
        found = nonrigid_inliers(points0, points1, seed=seed)
        precision.append(float((found & truth).sum() / found.sum()))
        recall.append(float((found & truth).sum() / truth.sum()))
    assert np.mean(precision) > 0.99 and np.mean(recall) > 0.95


@pytest.mark.parametrize("count", [3, 40, 700])
def test_the_plane_chosen_is_the_one_with_most_matches(count: int) -> None:
    points = torch.rand(count, 4, generator=torch.Generator().manual_seed(count)) * 3 - 1.5
    origins, axes = nonrigid._planes(points, 2000, seed=0)
    counts = [int((nonrigid._distance(points, *plane) < 0.3).sum()) for plane in zip(origins, axes, strict=True)]
    origin, axis = nonrigid._best(points, origins, axes, 0.3)
    best = int(np.argmax(counts))
    torch.testing.assert_close((origin, axis), (origins[best], axes[best]), atol=0, rtol=0)


def test_equal_seeds_give_equal_results() -> None:
    points0, points1, _ = bent_matches(300)
    first, again = (nonrigid_inliers(points0, points1, seed=7) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_matches_have_no_inliers(count: int) -> None:
    assert not nonrigid_inliers(torch.rand(count, 2), torch.rand(count, 2)).any()


def test_matches_in_one_place_or_on_a_line_do_not_fail() -> None:
    nonrigid_inliers(torch.zeros(10, 2), torch.zeros(10, 2))
    line = torch.stack([torch.arange(30.0), torch.arange(30.0)], dim=1)
    assert nonrigid_inliers(line, line + 2).shape == (30,)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ShapeError, match="N x 2"):
        nonrigid_inliers(torch.rand(5, 2), torch.rand(4, 2))
    with pytest.raises(ConfigError, match="positive"):
        nonrigid_inliers(torch.rand(5, 2), torch.rand(5, 2), threshold=0)
