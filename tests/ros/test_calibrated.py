"""What camera_info gives: the essential matrix, points in space, the epipolar band; and what is said without it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, floats, image_message, of_stamp, running, set_stamp, stamp_of, wait_until

pytestmark = pytest.mark.ros

STAMPS = itertools.count(1_700_000_000_000_000_000, 50_000_000)
HEIGHT, WIDTH = 240, 320
FX, FY, CX, CY, BASELINE = 300.0, 300.0, 158.0, 121.0, 0.1


def camera_info(
    baseline: float = 0.0, size: tuple[int, int] = (HEIGHT, WIDTH), distortion: tuple[float, ...] = (0.0,) * 5
) -> Any:
    """A calibrated camera, which lies ``baseline`` metres to the right of the first."""
    from sensor_msgs.msg import CameraInfo

    message = CameraInfo(height=size[0], width=size[1], distortion_model="plumb_bob", d=list(distortion))
    message.k = [FX, 0.0, CX, 0.0, FY, CY, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [FX, 0.0, CX, -FX * baseline, 0.0, FY, CY, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def layered_views(textured: Callable[..., np.ndarray], disparities: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Left and right views of two flat layers at different depths: the upper and the lower half."""
    margin = max(disparities)
    picture = textured(HEIGHT, WIDTH + margin, seed=50)
    left, right = picture[:, :WIDTH].copy(), np.empty((HEIGHT, WIDTH, 3), np.uint8)
    for rows, shift in ((slice(0, HEIGHT // 2), disparities[0]), (slice(HEIGHT // 2, HEIGHT), disparities[1])):
        right[rows] = picture[rows, shift : shift + WIDTH]
    return left, right


def test_stereo_points_and_the_essential_matrix(client: Client, log: Path, textured: Callable[..., np.ndarray]) -> None:
    from semantic_matcher_msgs.msg import Matches
    from sensor_msgs.msg import CameraInfo, Image, PointCloud2

    name = "/stereo_matcher"
    disparities = (10, 25)
    left, right = layered_views(textured, disparities)
    matches = client.listen(Matches, f"{name}/matches")
    clouds = client.listen(PointCloud2, f"{name}/points")
    diagnostics = client.diagnostics()
    parameters = {**PLAIN_SIFT, "geometry": "essential", "geometry_backend": "poselib"}
    with running("stereo_matcher", log, parameters) as node:
        cameras = [client.publisher(Image, f"/{side}/image") for side in ("left", "right")]
        infos = [client.publisher(CameraInfo, f"/{side}/camera_info") for side in ("left", "right")]

        def matched(sides: tuple[np.ndarray, np.ndarray] = (left, right)) -> Any:
            for _ in range(20):
                stamp = next(STAMPS)
                for camera, pixels, frame in zip(cameras, sides, ("l", "r"), strict=True):
                    camera.publish(image_message(pixels, stamp, frame))
                try:
                    return wait_until(lambda s=stamp: of_stamp(matches, s), "matches", timeout=3.0)
                except AssertionError:
                    continue
            raise AssertionError("no answer to 20 pairs")

        def calibrate(baseline: float = BASELINE, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
            for publisher, shift in zip(infos, (0.0, baseline), strict=True):
                publisher.publish(camera_info(shift, size))

        def seen(text: str) -> Any:
            def warned() -> Any:
                matched()
                return next((s for s in diagnostics.of(name) if s.level == 1 and text in s.message), None)

            return wait_until(warned, f"a warning of {text!r}")

        # Without a calibration the matches come all the same, unchecked, and the reason is told.
        assert len(matched().inlier) == 0
        seen("no camera_info on /left/camera_info yet")
        seen("~/points needs rectified images")
        calibrate(size=(480, 640))
        seen("/left/camera_info describes images of 640 x 480, but they are 320 x 240")
        assert not clouds

        def checked() -> Any:
            calibrate()
            message = matched()
            return message if message.model_type == "essential" else None

        message = wait_until(checked, "an essential matrix")
        inlier = floats(message.inlier).astype(bool)
        assert len(inlier) > 50 and inlier.mean() > 0.8
        model = message.model.reshape(3, 3)
        # A step to the right alone: x1' E x0 = 0 with E = [t]x, t = (1, 0, 0).
        expected = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) / np.sqrt(2)
        assert min(np.abs(model - expected).max(), np.abs(model + expected).max()) < 0.05

        assert client.set_parameter(name, "rectified", True).successful

        def cloud() -> Any:
            stamp = stamp_of(matched().header)
            try:
                # They come after the matches.
                return wait_until(lambda: of_stamp(clouds, stamp), "points", timeout=3.0)
            except AssertionError:
                return None

        message = wait_until(cloud, "points")
        assert message.header.frame_id == "l"
        assert [field.name for field in message.fields] == ["x", "y", "z", "confidence"]
        points = np.frombuffer(message.data, np.float32).reshape(-1, 4)
        assert len(points) == message.width > 50 and message.height == 1
        assert np.isfinite(points).all() and (points[:, 3] <= 1.0001).all()
        depth = FX * BASELINE / np.array(disparities)
        upper = points[:, 1] < 0
        for side, half in ((0, upper), (1, ~upper)):
            assert half.sum() > 20
            assert np.median(points[half, 2]) == pytest.approx(depth[side], rel=0.005)
        np.testing.assert_array_less(np.abs(points[:, 0]), WIDTH / FX * depth[0] * 2)
        assert client.set_parameter(name, "color_points", True).successful
        coloured = wait_until(
            lambda: next((c for c in [cloud()] if c and len(c.fields) == 5), None), "points with colour"
        )
        assert coloured.fields[4].name == "rgb" and coloured.point_step == 20
        rows = np.frombuffer(coloured.data, np.uint8).reshape(-1, 20)
        place = rows[:, :12].copy().view(np.float32).astype(float)
        image = left if left.ndim == 3 else np.repeat(left[..., None], 3, axis=2)
        p = np.reshape(camera_info(0.0, (HEIGHT, WIDTH)).p, (3, 4))
        column, row = np.round(place[:, :2] / place[:, 2:] * p[[0, 1], [0, 1]] + p[:2, 2]).astype(int).T
        np.testing.assert_array_equal(rows[:, 18:15:-1], image[row, column])

        # The band is in force: what lies ten rows lower has no partner on its row.
        assert len(matched().index0) > 50
        band = floats(matched().xy0).reshape(-1, 2) - floats(matched().xy1).reshape(-1, 2)
        assert (np.abs(band[:, 1]) <= 2.0).all()
        lower = matched((left, np.roll(right, 10, axis=0)))
        moved = floats(lower.xy0).reshape(-1, 2) - floats(lower.xy1).reshape(-1, 2)
        assert (np.abs(moved[:, 1]) <= 2.0).all()
        assert client.set_parameter(name, "epipolar_band", 0).successful

        def unbanded() -> Any:
            free = matched((left, np.roll(right, 10, axis=0)))
            moved = floats(free.xy0).reshape(-1, 2) - floats(free.xy1).reshape(-1, 2)
            return np.median(moved[:, 1]) == pytest.approx(-10, abs=1)

        wait_until(unbanded, "matches outside the band")

        # Sides exchanged: named, and no cloud of points behind the camera.
        calibrate(-BASELINE)
        seen("are the two sides exchanged?")
        assert "Traceback" not in node.output


def test_depth_at_seven_metres(client: Client, log: Path, textured: Callable[..., np.ndarray]) -> None:
    from sensor_msgs.msg import CameraInfo, Image, PointCloud2

    # A wall seen by two cameras, 8.5 pixels apart: a picture of four times the size, moved by 34 of its pixels.
    picture, disparity = textured(4 * HEIGHT, 4 * WIDTH + 34, seed=51), 8.5
    left, right = (
        cv2.resize(picture[:, start : start + 4 * WIDTH], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        for start in (0, 34)
    )
    baseline = 7.0 * disparity / FX
    clouds = client.listen(PointCloud2, "/stereo_matcher/points")
    diagnostics = client.diagnostics()
    # Keypoints of the bundled network lie some tenths of a pixel off.
    parameters = {"variant": "plain:compact", "device": "cpu", "rectified": True, "max_keypoints": 500}
    with running("stereo_matcher", log, parameters):
        cameras = [client.publisher(Image, f"/{side}/image") for side in ("left", "right")]
        infos = [client.publisher(CameraInfo, f"/{side}/camera_info") for side in ("left", "right")]

        def cloud() -> Any:
            stamp = next(STAMPS)
            for info, shift, camera, pixels in zip(infos, (0.0, baseline), cameras, (left, right), strict=True):
                info.publish(camera_info(shift))
                camera.publish(image_message(pixels, stamp))
            try:
                return wait_until(lambda: next(iter(clouds), None), "", timeout=2.0)
            except AssertionError:
                return None

        message = wait_until(cloud, "points")
        depth = np.frombuffer(message.data, np.float32).reshape(-1, 4)[:, 2]
        assert len(depth) > 100
        assert np.median(np.abs(depth / 7.0 - 1)) <= 0.007
        told = "matches without a measurable disparity"
        assert wait_until(lambda: next((s for s in diagnostics.of("/stereo_matcher") if told in str(s)), None), told)


def test_temporal_essential_with_a_lens_that_distorts(
    client: Client, log: Path, textured: Callable[..., np.ndarray]
) -> None:
    from semantic_matcher_msgs.msg import Matches
    from sensor_msgs.msg import CameraInfo, Image

    name = "/temporal_matcher"
    # Seen through the lens: where each pixel of the distorted image comes from.
    lens = (-0.3, 0.1, 0.0, 0.0, 0.0)
    matrix = np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1.0]])
    grid = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1).reshape(-1, 1, 2).astype(np.float64)
    source = cv2.undistortPoints(grid, matrix, np.array(lens), P=matrix).reshape(HEIGHT, WIDTH, 2).astype(np.float32)
    views = [
        cv2.remap(view, source[..., 0], source[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        for view in layered_views(textured, (8, 20))
    ]
    matches = client.listen(Matches, f"{name}/matches")
    turn = itertools.count()
    with running("temporal_matcher", log, {**PLAIN_SIFT, "geometry": "essential", "geometry_threshold": 1.0}):
        camera = client.publisher(Image, "/image")
        info = client.publisher(CameraInfo, "/camera_info")

        def checked() -> Any:
            message = camera_info(distortion=lens)
            set_stamp(message, next(STAMPS))
            info.publish(message)
            camera.publish(image_message(views[next(turn) % 2], next(STAMPS)))
            try:
                return wait_until(
                    lambda: next((m for m in list(matches) if m.model_type == "essential"), None), "", timeout=1.0
                )
            except AssertionError:
                return None

        message = wait_until(checked, "an essential matrix")
        inlier = floats(message.inlier).astype(bool)
        assert len(inlier) > 50 and inlier.mean() > 0.7
        expected = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) / np.sqrt(2)
        model = message.model.reshape(3, 3)
        assert min(np.abs(model - expected).max(), np.abs(model + expected).max()) < 0.1
        # The keypoints are those of the image as it came.
        assert stamp_of(message.header) > stamp_of(message.reference_header)
