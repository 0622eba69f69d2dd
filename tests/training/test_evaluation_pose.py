"""Pose evaluation: published metrics, and estimates as good as the recorded ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.errors import ConfigError
from training.errors import DataError
from training.evaluation.metrics import accuracy, area_under_curve, corner_error, pose_errors
from training.evaluation.pose import (
    PosePair,
    estimate_pose,
    pose_auc_by_threshold,
    pose_error_of,
    pose_error_table,
    read_pose_pairs,
)


@pytest.mark.parametrize("case", ["mixed", "with_inf", "all_small", "all_large", "ties", "single"])
def test_area_and_accuracy_are_the_published_ones(shared: Path, case: str) -> None:
    golden = np.load(shared / "golden" / "pose_metrics.npz")
    errors = golden[f"err_{case}"]
    np.testing.assert_allclose(area_under_curve(errors, [5, 10, 20]), golden[f"auc_{case}"], atol=1e-9)
    np.testing.assert_allclose(np.array(accuracy(errors, [5, 10, 20])) * 100, golden[f"acc_{case}"], atol=1e-9)


def test_pose_errors_are_the_published_ones(shared: Path) -> None:
    golden = np.load(shared / "golden" / "pose_metrics.npz")
    found = [pose_errors(T, R, t) for T, R, t in zip(golden["T"], golden["R"], golden["t"], strict=True)]
    np.testing.assert_allclose(found, golden["err_t_R"], atol=1e-5)


@pytest.mark.parametrize("backend", ["poselib", "opencv"])
@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.0])
def test_estimates_are_as_good_as_the_recorded_ones(shared: Path, backend: str, threshold: float) -> None:
    golden = np.load(shared / "golden" / "estimate_pose.npz")
    pair = PosePair(Path("a"), Path("b"), golden["K0"], golden["K1"], golden["T"])
    error_t, error_r, inliers = pose_error_of(golden["kpts0"], golden["kpts1"], pair, threshold, backend)
    recorded_t, recorded_r = golden[f"{backend}_{threshold}_err"]
    assert error_t < recorded_t + 1.0
    assert error_r < recorded_r + 0.5
    assert inliers == pytest.approx(int(golden[f"{backend}_{threshold}_ninl"]), rel=0.1)


def synthetic_pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray, PosePair]:
    rng = np.random.default_rng(seed)
    camera = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    angle = 0.15
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = rotation, [0.4, 0.05, 0.1]
    points = rng.uniform([-2, -1.5, 3], [2, 1.5, 7], (200, 3))
    moved = points @ rotation.T + transform[:3, 3]
    pixels = [p @ camera.T for p in (points, moved)]
    matched = [p[:, :2] / p[:, 2:] + rng.normal(0, 0.3, (200, 2)) for p in pixels]
    matched[1][:60] = rng.uniform(0, 480, (60, 2))
    return matched[0], matched[1], PosePair(Path("a"), Path("b"), camera, camera, transform)


@pytest.mark.parametrize("backend", ["poselib", "opencv"])
def test_a_known_pose_is_found_among_outliers(backend: str) -> None:
    points0, points1, pair = synthetic_pair()
    error_t, error_r, inliers = pose_error_of(points0, points1, pair, 1.0, backend)
    assert error_t < 3
    assert error_r < 1
    assert 120 <= inliers <= 160


def test_table_over_thresholds_and_pairs() -> None:
    made = [synthetic_pair(seed) for seed in range(3)]
    table = pose_error_table([m[:2] for m in made], [m[2] for m in made], thresholds_px=[0.5, 2.0])
    assert table.shape == (2, 3, 3)
    auc = pose_auc_by_threshold(table)
    assert auc.shape == (2, 3)
    assert (auc[:, 2] > 0.8).all()
    assert (np.diff(auc, axis=1) > 0).all()
    nothing = pose_error_table([(np.empty((0, 2)), np.empty((0, 2)))], [made[0][2]], thresholds_px=[1.0])
    assert pose_auc_by_threshold(nothing).tolist() == [[0.0, 0.0, 0.0]]


def test_pair_lists_of_both_kinds_are_read(tmp_path: Path) -> None:
    camera = "1165.72 0. 649.095 0. 1165.74 484.765 0. 0. 1."
    scannet = f"s/color/15.jpg  s/color/585.jpg 0 0 {camera} {camera} " + " ".join(map(str, range(16)))
    megadepth = f"a.jpg b.jpg {camera} {camera} 1 0 0 0 1 0 0 0 1 0.1 0.2 0.3"
    (tmp_path / "pairs.txt").write_text(f"{scannet}\n\n{megadepth}\n")
    first, second = read_pose_pairs(tmp_path / "pairs.txt", "/data")
    assert first.image1 == Path("/data/s/color/585.jpg")
    assert first.camera1[1, 2] == 484.765
    assert first.transform[3, 3] == 15
    assert second.transform[:3, 3].tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("text", ["", "a.jpg b.jpg 1 2 3\n", "a b " + "x " * 30])
def test_bad_pair_lists_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=r"pairs\.txt"):
        read_pose_pairs(tmp_path / "pairs.txt", tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_pose_pairs(tmp_path / "absent.txt", tmp_path)


def test_unknown_estimators_are_refused_and_few_matches_give_nothing() -> None:
    with pytest.raises(ConfigError, match="poselib, opencv"):
        estimate_pose(np.zeros((9, 2)), np.zeros((9, 2)), np.eye(3), np.eye(3), 1.0, "magic")
    assert estimate_pose(np.zeros((4, 2)), np.zeros((4, 2)), np.eye(3), np.eye(3), 1.0) is None


def test_corner_error_is_the_distance_of_the_corners() -> None:
    shifted = np.array([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]])
    assert corner_error(np.eye(3), shifted, (480, 640)) == pytest.approx(5.0)
    assert corner_error(np.eye(3), None, (480, 640)) == float("inf")
