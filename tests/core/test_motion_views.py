"""Depth at keypoints, patches aligned between views, and calibration files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.geometry.depth import sample_depth
from semantic_matcher_core.io.camera_file import read_calibration
from semantic_matcher_core.motion.patches import PatchImage, align_patches
from semantic_matcher_core.motion.view import DepthNoise, depth_view
from semantic_matcher_core.types import Features

K = np.array([[300.0, 0, 160], [0, 310.0, 120], [0, 0, 1]])


def features_at(points: np.ndarray, size: tuple[int, int] = (240, 320)) -> Features:
    count = len(points)
    return Features(
        torch.from_numpy(np.asarray(points, np.float32))[None], torch.ones(1, count), torch.zeros(1, count, 4), size
    )


def slanted_depth(points: np.ndarray, camera: np.ndarray = K) -> np.ndarray:
    """Depth of the plane n·X = 3."""
    rays = np.column_stack([points, np.ones(len(points))]) @ np.linalg.inv(camera).T
    return 3.0 / (rays @ np.array([0.3, -0.2, 0.93]))


def image_of(depth, height=240, width=320):
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    return depth(grid).reshape(height, width)


def test_depth_between_pixels_is_that_of_the_plane():
    depth = image_of(slanted_depth)
    points = np.random.default_rng(0).uniform((0, 0), (319, 239), (50, 2))
    np.testing.assert_allclose(sample_depth(depth, points), slanted_depth(points), rtol=1e-9)
    view = depth_view(features_at(points), depth.astype(np.float32), Camera(K))
    np.testing.assert_allclose(view.seen.points[:, 2], slanted_depth(points.astype(np.float32)), rtol=1e-5)
    expected = (DepthNoise().floor + DepthNoise().quadratic * slanted_depth(points) ** 2) / slanted_depth(points) ** 2
    np.testing.assert_allclose(view.seen.inverse_depth_std, expected, rtol=1e-4)
    # Millimetres, and half the size of the image.
    millimetres = np.round(depth * 1000).astype(np.uint16)
    view = depth_view(features_at(points), millimetres, Camera(K))
    np.testing.assert_allclose(view.seen.points[:, 2], slanted_depth(points), atol=1.5e-3)
    half = cv2.resize(depth, (160, 120), interpolation=cv2.INTER_AREA).astype(np.float32)
    view = depth_view(features_at(points[:20] * 0.9 + 10), half, Camera(K))
    np.testing.assert_allclose(view.seen.points[:, 2], slanted_depth(points[:20] * 0.9 + 10), rtol=2e-3)


def test_depth_that_is_not_known_stays_unknown():
    depth = np.full((10, 20), 2.0)
    depth[:, 10:] = 3.0
    depth[0, 0], depth[9, 19], depth[5, 3] = 0, np.nan, np.inf
    asked = {"edge": (9.5, 4), "zero": (0.2, 0.2), "nan": (18.7, 8.9), "infinite": (2.9, 5.1), "outside": (20.1, 4)}
    assert np.isnan(sample_depth(depth, np.array(list(asked.values())))).all()
    np.testing.assert_allclose(sample_depth(depth, np.array([[8.5, 4], [-0.4, 3], [12, 9.4]])), [2, 2, 3])
    assert sample_depth(depth, np.zeros((0, 2))).shape == (0,)
    limited = depth_view(features_at(np.array([[5.0, 4], [12, 4]]), (10, 20)), depth, Camera(K), max_depth=2.5)
    assert limited.seen.known.tolist() == [True, False]


def test_depth_that_does_not_belong_is_named():
    some = features_at(np.zeros((1, 2)))
    for shape in ((100, 320), (1, 1), (3, 4), (15, 21), (240, 316), (320, 240), (244, 320)):
        with pytest.raises(ImageError, match=f"depth of {shape[1]} x {shape[0]} does not belong .* 320 x 240: it must"):
            depth_view(some, np.ones(shape), Camera(K))
    for shape in ((240, 320), (480, 640), (120, 160), (40, 53), (80, 107), (239, 320)):
        assert depth_view(some, np.ones(shape), Camera(K)).seen.known.all()
    for wrong in (np.ones((240, 320, 3)), np.zeros((0, 0)), np.ones((240, 320), bool)):
        with pytest.raises(ImageError, match="a depth image is"):
            depth_view(some, wrong, Camera(K))
    with pytest.raises(ConfigError, match="noise of depth"):
        DepthNoise(-1.0)


@pytest.mark.parametrize("scale", [1.0, 0.7, 0.4, 1.5])
def test_patches_are_found_where_a_homography_puts_them(textured, scale):
    picture = textured(480, 640, seed=8)
    homography = np.array([[1, 0.1, 5], [-0.08, 1.05, 3], [1e-4, -5e-5, 1]]) @ np.diag([scale, scale, 1])
    fine = np.diag([4, 4, 1.0])
    fine[0, 2] = fine[1, 2] = 1.5
    large = cv2.warpPerspective(picture, fine @ homography, (2560, 1920), flags=cv2.INTER_LINEAR)
    moved = cv2.resize(large, (640, 480), interpolation=cv2.INTER_AREA)
    points = cv2.goodFeaturesToTrack(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 300, 0.01, 8)[:, 0].astype(float)
    ends = np.column_stack([points, np.ones(len(points))]) @ homography.T
    true = ends[:, :2] / ends[:, 2:]
    visible = ((true > 12) & (true < (627, 467))).all(axis=1)
    points, true, depth = points[visible], true[visible], ends[visible, 2]
    warps = (homography[:2, :2] - true[:, :, None] * homography[2, :2]) / depth[:, None, None]
    start = true + np.random.default_rng(1).uniform(-0.8, 0.8, true.shape)
    found, good = align_patches(PatchImage(picture), PatchImage(moved), points, start, warps)
    error = np.linalg.norm(found - true, axis=1)[good]
    assert good.mean() > 0.6
    assert np.median(error) < 0.15 and np.percentile(error, 90) < 0.4
    np.testing.assert_allclose(np.median((found - true)[good], axis=0), 0, atol=0.03)
    np.testing.assert_array_equal(found[~good], start[~good])


def test_patches_that_cannot_be_aligned(textured):
    picture = PatchImage(textured(120, 160, seed=9))
    points = np.array([[80.0, 60], [1, 60], [80, 60], [80, 60], [300, 300], [80, 60]])
    warps = np.stack([np.eye(2)] * 6)
    warps[2], warps[3], warps[5] = np.diag([1, -1]), np.zeros((2, 2)), np.nan
    _, good = align_patches(picture, picture, points, points, warps)
    assert good.tolist() == [True, False, False, False, False, False]
    flat = PatchImage(np.full((120, 160), 9, np.uint8))
    assert not align_patches(flat, flat, points[:1], points[:1], warps[:1])[1].any()
    moved, good = align_patches(picture, picture, np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 2, 2)))
    assert moved.shape == (0, 2) and good.shape == (0,)


ROS_YAML = """
image_width: 640
image_height: 480
camera_name: left
camera_matrix: {rows: 3, cols: 3, data: [410, 0, 321, 0, 405, 238, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.28, 0.09, 0.001, -0.0007, 0]}
projection_matrix: {rows: 3, cols: 4, data: [400, 0, 320, -40, 0, 400, 240, 0, 0, 0, 1, 0]}
"""
EUROC_YAML = """
sensor_type: camera
resolution: [752, 480]
camera_model: pinhole
intrinsics: [458.654, 457.296, 367.215, 248.375]
distortion_model: radial-tangential
distortion_coefficients: [-0.28340811, 0.07395907, 0.00019359, 1.76187114e-05]
"""
KALIBR_YAML = """
cam0: {camera_model: pinhole, intrinsics: [200, 201, 320, 240], distortion_model: equidistant,
       distortion_coeffs: [0.01, 0.002, -0.003, 0.0004], resolution: [640, 480]}
cam1: {camera_model: pinhole, intrinsics: [210, 211, 320, 240], distortion_model: radtan,
       distortion_coeffs: [0.01, 0.002, -0.003, 0.0004], resolution: [640, 480]}
"""

# As OpenCV's calibration program writes it.
OPENCV_YAML = """%YAML:1.0
---
calibration_time: "Thu"
image_width: 640
image_height: 480
fisheye_model: 0
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 4.1e+02, 0., 319., 0., 411., 238., 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -0.28, 0.09, 0.001, -0.0007, 0. ]
"""


def test_calibrations_of_opencv_are_read(tmp_path):
    path = tmp_path / "camera.yml"
    path.write_text(OPENCV_YAML)
    found = read_calibration(path)
    assert found.image_size == (480, 640)
    assert found.camera.matrix.tolist() == [[410, 0, 319], [0, 411, 238], [0, 0, 1]]
    assert found.camera.distortion_model == "plumb_bob" and found.camera.distortion[0] == -0.28
    path.write_text(OPENCV_YAML.replace("fisheye_model: 0", "fisheye_model: 1"))
    assert read_calibration(path).camera.distortion_model == "equidistant"
    path.write_text(OPENCV_YAML.replace("-0.0007, 0. ]", "-0.0007, 0., 0.1, 0.2, 0.3 ]"))
    assert read_calibration(path).camera.distortion_model == "rational_polynomial"


def test_calibrations_are_read(tmp_path):
    path = tmp_path / "camera.yaml"
    path.write_text(ROS_YAML)
    ros = read_calibration(path)
    assert ros.name == "left" and ros.image_size == (480, 640) and ros.projection[0, 3] == -40
    assert ros.camera.distortion_model == "plumb_bob" and ros.camera.matrix[1, 2] == 238
    path.write_text(EUROC_YAML)
    euroc = read_calibration(path)
    assert euroc.camera.distortion_model == "plumb_bob" and euroc.image_size == (480, 752)
    assert euroc.camera.matrix[0, 2] == 367.215 and euroc.projection is None
    path.write_text(KALIBR_YAML)
    assert read_calibration(path, "cam1").camera.matrix[0, 0] == 210
    assert read_calibration(path, "cam0").camera.distortion_model == "equidistant"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (KALIBR_YAML, "camera '' is not one of cam0, cam1"),
        (EUROC_YAML.replace("pinhole", "omni"), "'omni'"),
        (ROS_YAML.replace("plumb_bob", "fov"), "'fov'"),
        (ROS_YAML.replace("camera_matrix", "matrix"), r"is no calibration file: .*: 'intrinsics' is missing$"),
        (ROS_YAML.replace("data: [410, 0,", "data: [0,"), "is no calibration file"),
        (ROS_YAML.replace("410", "0"), "calibrate"),
        ("[1, 2]", r"is no calibration file: .*: it holds no names with values$"),
        ("a: [", "not a readable YAML"),
        ("", "is no calibration file"),
        (ROS_YAML.replace("image_width: 640", "image_width: .inf"), "is no calibration file"),
        ("[" * 3000, "is no calibration file"),
    ],
)
def test_files_that_are_no_calibration_are_named(tmp_path, text, named):
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named) as error:
        read_calibration(path)
    assert str(path) in str(error.value)
    with pytest.raises(ConfigError, match="no such calibration file"):
        read_calibration(tmp_path / "absent.yaml")
