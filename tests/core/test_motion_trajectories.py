"""Errors of trajectories: known ones, those of evo where it is installed, and poses between poses."""

from __future__ import annotations

import numpy as np
import pytest

from semantic_matcher_core.errors import PoseError, ShapeError
from semantic_matcher_core.motion.pose import Pose, exp_so3
from semantic_matcher_core.motion.trajectories import alignment, poses_at, trajectory_errors


def way(count: int, seed: int, noise: float = 0.0) -> list[Pose]:
    random = np.random.default_rng(seed)
    steps = np.cumsum(
        np.tile([0.1, 0.02, -0.05], (count, 1)) + 0.03 * np.random.default_rng(7).normal(size=(count, 3)), 0
    )
    return [
        Pose(
            exp_so3(0.05 * i * np.array([0.2, 1, 0.1]) + noise * random.normal(size=3)),
            p + noise * random.normal(size=3),
        )
        for i, p in enumerate(steps)
    ]


def test_frames_do_not_matter_and_scale_does() -> None:
    true, elsewhere = way(12, 0), Pose(exp_so3(np.array([0.3, 1.0, -0.5])), np.array([4.0, 5, 6]))
    found = trajectory_errors(true, [elsewhere @ pose for pose in true])
    assert max(found.ate_m, found.rpe_m, found.rpe_deg) < 1e-6 and found.poses == 12
    longer = [Pose(pose.rotation, 1.1 * pose.translation) for pose in true]
    steps = np.diff([pose.translation for pose in true], axis=0)
    expected = 0.1 * np.sqrt(np.mean((steps**2).sum(axis=1)))
    assert trajectory_errors(true, longer).rpe_m == pytest.approx(expected)


def test_a_straight_way_and_one_that_stands_still_have_errors_too() -> None:
    line = [Pose(np.eye(3), np.array([0.1 * i, 0, 0])) for i in range(5)]
    turned = [Pose(exp_so3(np.array([0, 0, 0.4]))) @ pose for pose in line]
    assert trajectory_errors(line, turned).ate_m < 1e-9
    assert trajectory_errors([Pose()] * 3, [Pose()] * 3).ate_m == 0
    # A mirrored way is no rotated one.
    flat = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    assert np.linalg.det(alignment(flat, -flat).rotation) == pytest.approx(1)


def test_what_is_missing_between_two_poses_is_no_step() -> None:
    true = way(8, 0)
    kept = [0, 1, 2, 5, 6]
    found = [true[i] for i in kept]
    found[3:] = [Pose(p.rotation, p.translation + 1) for p in found[3:]]
    assert trajectory_errors([true[i] for i in kept], found, neighbours=kept).rpe_m < 1e-6
    assert trajectory_errors([true[i] for i in kept], found).rpe_m > 0.5
    with pytest.raises(PoseError, match="three poses, got 2"):
        trajectory_errors(true[:2], true[:2])
    with pytest.raises(ShapeError, match="8"):
        trajectory_errors(true, true[:3])
    with pytest.raises(ShapeError, match="N x 3"):
        alignment(np.zeros((2, 3)), np.zeros((3, 3)))


def test_errors_are_those_of_evo() -> None:
    metrics = pytest.importorskip("evo.core.metrics")
    from evo.core.trajectory import PoseTrajectory3D

    true, found = way(20, 0), way(20, 1, noise=0.02)
    stamps = np.arange(20) * 0.1
    pair = [PoseTrajectory3D(poses_se3=[p.matrix for p in poses], timestamps=stamps) for poses in (true, found)]
    pair[1].align(pair[0])
    measured = trajectory_errors(true, found)
    ate = metrics.APE(metrics.PoseRelation.translation_part)
    ate.process_data(tuple(pair))
    assert measured.ate_m == pytest.approx(ate.get_statistic(metrics.StatisticsType.rmse))
    for relation, ours in (
        (metrics.PoseRelation.translation_part, measured.rpe_m),
        (metrics.PoseRelation.rotation_angle_deg, measured.rpe_deg),
    ):
        rpe = metrics.RPE(relation, 1, metrics.Unit.frames)
        rpe.process_data(tuple(pair))
        assert ours == pytest.approx(rpe.get_statistic(metrics.StatisticsType.rmse))


def test_poses_between_poses() -> None:
    second = Pose(exp_so3(np.array([0, 0.4, 0])), np.array([1.0, 0, 2]))
    stamps = np.array([0, 100, 100 + 10**9])
    found = poses_at(stamps, [Pose(), second, Pose()], np.array([-1, 0, 25, 100, 200, 100 + 10**9, 2 * 10**9]))
    assert [pose is None for pose in found] == [True, False, False, False, True, False, True]
    np.testing.assert_allclose(found[2].translation, [0.25, 0, 0.5])
    np.testing.assert_allclose(found[2].rotation, exp_so3(np.array([0, 0.1, 0])), atol=1e-12)
    assert found[3] is second
    assert poses_at(np.zeros(0, np.int64), [], np.array([5])) == [None]
