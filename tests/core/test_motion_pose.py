"""Poses and their covariances, against OpenCV and against sampling."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from semantic_matcher_core.errors import ShapeError
from semantic_matcher_core.motion.pose import (
    Pose,
    chained_covariance,
    exp_so3,
    inverse_covariance,
    log_so3,
    skew,
)


def some_pose(random: np.random.Generator, size: float = 1.0) -> Pose:
    return Pose(exp_so3(random.normal(0, size, 3)), random.normal(0, 2, 3))


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-5, 0.3, 2.0, np.pi - 1e-6])
def test_rotations_as_opencv_has_them(angle):
    axis = np.array([0.6, -0.48, 0.64])
    rotation = exp_so3(angle * axis)
    np.testing.assert_allclose(rotation, cv2.Rodrigues(angle * axis)[0], atol=1e-12)
    np.testing.assert_allclose(log_so3(rotation), angle * axis, atol=1e-9)
    x, y, z, w = Pose(rotation).quaternion
    np.testing.assert_allclose([x, y, z], np.sin(angle / 2) * axis, atol=1e-9)
    assert w == pytest.approx(np.cos(angle / 2), abs=1e-9)
    np.testing.assert_allclose(Pose.from_quaternion(np.array([x, y, z, w]) * 3, np.zeros(3)).rotation, rotation)


def test_poses_are_homogeneous_matrices():
    random = np.random.default_rng(0)
    a, b, points = some_pose(random), some_pose(random), random.normal(size=(5, 3))
    np.testing.assert_allclose((a @ b).matrix, a.matrix @ b.matrix, atol=1e-12)
    np.testing.assert_allclose(a.inverse().matrix, np.linalg.inv(a.matrix), atol=1e-12)
    np.testing.assert_allclose(Pose.from_matrix(a.matrix).matrix, a.matrix, atol=1e-12)
    np.testing.assert_allclose(a.apply(points), (a.matrix @ np.c_[points, np.ones(5)].T).T[:, :3])
    np.testing.assert_allclose(a.moved(a.change_to(b)).matrix, b.matrix, atol=1e-9)
    np.testing.assert_allclose(skew(points[0]) @ points[1], np.cross(points[0], points[1]))
    chained = Pose()
    for _ in range(5000):
        chained = chained @ a
    np.testing.assert_allclose(chained.rotation @ chained.rotation.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("rotation", "translation"),
    [(np.eye(4), np.zeros(3)), (np.eye(3), np.zeros(2)), (2 * np.eye(3), np.zeros(3)), (np.eye(3), [0, np.nan, 0]),
     (np.diag([1.0, 1, -1]), np.zeros(3))],
)  # fmt: skip
def test_what_is_no_pose_is_refused(rotation, translation):
    with pytest.raises(ShapeError):
        Pose(rotation, translation)
    for quaternion in ([0, 0, 0, 0], [1, 0, 0], [np.nan, 0, 0, 1]):
        with pytest.raises(ShapeError, match="not a quaternion"):
            Pose.from_quaternion(quaternion, np.zeros(3))


def test_covariances_go_through_chains_and_inverses():
    random = np.random.default_rng(1)
    a, b = some_pose(random, 0.5), some_pose(random, 0.5)
    roots = [random.normal(0, 1e-3, (6, 6)) for _ in range(2)]
    covariances = [root @ root.T for root in roots]
    chains, inverses = [], []
    for _ in range(1500):
        da, db = (root @ random.normal(size=6) for root in roots)
        chains.append((a @ b).change_to(a.moved(da) @ b.moved(db)))
        inverses.append(a.inverse().change_to(a.moved(da).inverse()))
    for sampled, predicted in (
        (np.cov(np.array(chains).T), chained_covariance(a, covariances[0], b, covariances[1])),
        (np.cov(np.array(inverses).T), inverse_covariance(a, covariances[0])),
    ):
        size = np.sqrt(np.outer(np.diag(predicted), np.diag(predicted)))
        np.testing.assert_allclose(sampled / size, predicted / size, atol=0.2)
