"""Frames of cameras and robots."""

from __future__ import annotations

import numpy as np
import pytest

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.motion.frames import AHEAD, StaticTree, of_base, of_camera, parse_mount
from semantic_matcher_core.motion.pose import Pose, exp_so3

ZERO = np.zeros((6, 6))


def test_a_camera_that_looks_ahead():
    # Optical: x right, y down, z forward. Body: x forward, y left, z up.
    np.testing.assert_allclose(AHEAD.apply(np.eye(3)), [[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    mount = parse_mount("0.2 0 0.5 -1.5707963267948966 0 -1.5707963267948966")
    np.testing.assert_allclose(mount.rotation, AHEAD.rotation, atol=1e-12)
    # The camera moves 1 m forward and 0.5 m to its right: so does the base.
    pose, _ = of_base(Pose(np.eye(3), np.array([0.5, 0, 1.0])), ZERO, mount)
    np.testing.assert_allclose(pose.translation, [1, -0.5, 0], atol=1e-12)
    np.testing.assert_allclose(of_camera(Pose(np.eye(3), np.array([0.5, 0, 1.0])), ZERO)[0].translation, [1, -0.5, 0])
    # The base turns left on the spot: the camera ahead of its middle is swung to the left.
    left = Pose(exp_so3(np.array([0, 0, np.pi / 2])))
    camera = mount.inverse() @ left @ mount
    back, _ = of_base(camera, ZERO, mount)
    np.testing.assert_allclose(back.matrix, left.matrix, atol=1e-12)
    np.testing.assert_allclose((mount @ camera).translation, [0, 0.2, 0.5], atol=1e-12)


def test_covariance_of_the_base():
    random = np.random.default_rng(0)
    mount, pose = parse_mount("0.3 -0.1 0.5 0.2 0.1 -1"), Pose(exp_so3(random.normal(0, 0.5, 3)), random.normal(size=3))
    root = random.normal(0, 1e-3, (6, 6))
    middle, predicted = of_base(pose, root @ root.T, mount)
    changes = np.array(
        [middle.change_to(of_base(pose.moved(root @ random.normal(size=6)), ZERO, mount)[0]) for _ in range(1500)]
    )
    size = np.sqrt(np.outer(np.diag(predicted), np.diag(predicted)))
    np.testing.assert_allclose(np.cov(changes.T) / size, predicted / size, atol=0.2)


@pytest.mark.parametrize("text", ["", "1 2 3", "a b c d e f", "0 0 0 0 0 nan", "0 0 0 0 0 0 0"])
def test_mounts_that_are_none(text):
    with pytest.raises(ConfigError, match="six numbers"):
        parse_mount(text)


def test_static_transforms_are_put_together():
    random = np.random.default_rng(1)
    poses = [Pose(exp_so3(random.normal(0, 1, 3)), random.normal(size=3)) for _ in range(4)]
    tree = StaticTree()
    tree.add("/base_link", "plate", poses[0])
    tree.add("plate", "camera_link", poses[1])
    tree.add("camera_link", "camera_optical", poses[2])
    tree.add("plate", "imu", poses[3])
    expected = poses[0] @ poses[1] @ poses[2]
    np.testing.assert_allclose(tree.pose("base_link", "camera_optical").matrix, expected.matrix, atol=1e-12)
    np.testing.assert_allclose(tree.pose("camera_optical", "base_link").matrix, expected.inverse().matrix, atol=1e-12)
    sideways = poses[3].inverse() @ poses[1]
    np.testing.assert_allclose(tree.pose("imu", "camera_link").matrix, sideways.matrix, atol=1e-12)
    assert tree.pose("imu", "elsewhere") is None
    tree.add("b", "a", Pose())
    tree.add("a", "b", Pose())
    assert tree.pose("a", "nowhere") is None


def test_the_root_of_fixed_frames():
    tree = StaticTree()
    assert tree.root("camera_link") == "camera_link"
    tree.add("/camera_link", "camera_optical", Pose())
    tree.add("base_link", "camera_link", Pose())
    assert tree.root("/camera_optical") == tree.root("base_link") == "base_link"
