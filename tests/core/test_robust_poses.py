"""Poses by PoseLib and by OpenCV, which stands in where PoseLib has no wheel, against the truth."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core.cli.options import MatchingOptions
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.geometry import robust
from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.types import Matches
from training.evaluation.pose import estimate_pose

FOCAL = 500.0


@pytest.fixture(params=["poselib", "opencv"])
def solver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "opencv":
        monkeypatch.setattr(robust, "poselib", None)
    elif robust.poselib is None:
        pytest.skip("PoseLib is not installed")
    robust._by_opencv.cache_clear()
    yield request.param
    robust._by_opencv.cache_clear()


def scene(wrong: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points, their rays in two views, the rotation and translation between these, and which rays are right."""
    rng = np.random.default_rng(7)
    points = rng.uniform((-3, -2, 4), (3, 2, 9), (200, 3))
    rotation = cv2.Rodrigues(np.array([0.05, -0.2, 0.1]))[0]
    translation = np.array([0.6, -0.1, 0.2])
    moved = points @ rotation.T + translation
    first, second = (p[:, :2] / p[:, 2:] + rng.normal(0, 0.2 / FOCAL, (200, 2)) for p in (points, moved))
    right = rng.random(200) >= wrong
    second[~right] = rng.uniform(-0.6, 0.6, ((~right).sum(), 2))
    return points, first, second, rotation, translation, right


def turn_between(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.degrees(np.linalg.norm(cv2.Rodrigues(first.T @ second)[0])))


@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_poses_are_the_true_ones(solver: str, wrong: float) -> None:
    points, first, second, rotation, translation, right = scene(wrong)
    found = robust.absolute_pose(points, second, FOCAL, 2.0, 0)
    assert found is not None
    assert turn_between(found[0], rotation) < 0.1 and np.linalg.norm(found[1] - translation) < 0.01
    assert (found[2] == right).mean() > 0.97

    relative = robust.relative_pose(first, second, FOCAL, 1.5, 0)
    assert relative is not None
    direction = relative[1] / np.linalg.norm(relative[1])
    assert turn_between(relative[0], rotation) < 0.3
    assert np.degrees(np.arccos(direction @ translation / np.linalg.norm(translation))) < 3
    again = robust.relative_pose(first, second, FOCAL, 1.5, 0)
    assert again is not None
    np.testing.assert_array_equal(relative[0], again[0])


def test_points_in_one_place_have_no_pose(solver: str) -> None:
    place = np.full((30, 2), 0.1)
    found = robust.absolute_pose(np.full((30, 3), 0.1), place, FOCAL, 2.0, 0)
    assert found is None or np.isfinite(found[0]).all()
    relative = robust.relative_pose(place, place, FOCAL, 1.5, 0)
    assert relative is None or np.isfinite(relative[0]).all()


def test_who_asks_for_poselib_where_it_is_not_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(robust, "poselib", None)
    robust._by_opencv.cache_clear()
    nothing = torch.zeros(0, 2)
    matches = Matches(nothing.long(), nothing, nothing, torch.zeros(0))
    with pytest.raises(ConfigError, match=r"PoseLib is not installed.*geometry_backend magsac"):
        verify(matches, "homography", backend="poselib")
    # Before any work, and by the name of the option there.
    with pytest.raises(ConfigError, match="take --geometry-backend magsac"):
        MatchingOptions(geometry="homography", geometry_backend="poselib").kind()
    assert MatchingOptions(geometry_backend="poselib").kind() is None
    with pytest.raises(ConfigError, match="take --estimator opencv"):
        estimate_pose(np.zeros((9, 2)), np.zeros((9, 2)), np.eye(3), np.eye(3), 1.0)
    points, first, second, *_ = scene(0.0)
    for _ in range(2):
        robust.relative_pose(first, second, FOCAL, 1.5, 0)
        robust.absolute_pose(points, second, FOCAL, 2.0, 0)
    assert caplog.text.count("poses are estimated by OpenCV") == 1
    robust._by_opencv.cache_clear()


def test_the_library_is_imported_without_poselib() -> None:
    program = (
        "import sys; sys.modules['poselib'] = None; import semantic_matcher_core as smc; smc.verify, smc.relative_pose"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=800)
