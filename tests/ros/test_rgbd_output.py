"""~/rgbd_image for RTAB-Map, with messages of its own kind."""

from __future__ import annotations

import itertools
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from tests.core.rendered_room import BASELINE, CAMERA, Room, walk
from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, configure_refusal, floats, image_message, of_stamp, serving, wait_until
from tests.ros.test_odometry import depth_message, info_message

pytestmark = pytest.mark.ros

STAMPS = itertools.count(1_700_000_000_000_000_000, 100_000_000)


@pytest.fixture(scope="module")
def room(textured: Callable[..., np.ndarray]) -> Room:
    return Room(textured)


def descriptor_matrix(message: Any) -> np.ndarray:
    """What RTAB-Map's uncompressData makes of the bytes: rows, columns and OpenCV's type are the last three int32."""
    data = bytes(message.descriptors)
    rows, columns, kind = np.frombuffer(data[-12:], "<i4")
    assert kind == 5, "CV_32FC1"
    return np.frombuffer(zlib.decompressobj().decompress(data), "<f4").reshape(rows, columns)


def checked_features(message: Any, keypoints: Any, descriptors: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and points of a message, once they agree with the node's own messages of the same image."""
    xy = np.array([(k.pt.x, k.pt.y) for k in message.key_points])
    np.testing.assert_array_equal(xy.astype(np.float32), floats(keypoints.xy).reshape(-1, 2))
    np.testing.assert_allclose([k.response for k in message.key_points], floats(keypoints.scores))
    assert all(k.size > 0 and 0 <= k.angle < 360 and k.octave == 0 for k in message.key_points)
    np.testing.assert_array_equal(descriptor_matrix(message), floats(descriptors.data).reshape(len(xy), -1))
    points = np.array([(p.x, p.y, p.z) for p in message.points])
    assert len(points) == len(xy)
    known = np.isfinite(points[:, 2])
    assert known.sum() > 50
    # Points are in the camera's optical frame: seen through its matrix they are the keypoints.
    seen = points[known] @ CAMERA.matrix.T
    np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], xy[known], atol=1e-2)
    return xy[known], points[known]


def answered(send: Callable[[int], None], *topics: list[Any]) -> list[Any]:
    """The messages of one image on several topics; images are sent until one is answered on all of them."""
    for _ in range(20):
        stamp = next(STAMPS)
        send(stamp)
        try:
            return wait_until(
                lambda s=stamp: all(found := [of_stamp(topic, s) for topic in topics]) and found, "answers", timeout=2.0
            )
        except AssertionError:
            continue
    raise AssertionError("no answers")


@pytest.mark.slow
def test_depth_camera(client: Client, room: Room, interfaces_here: dict[str, str]) -> None:
    from rtabmap_msgs.msg import RGBDImage
    from semantic_matcher_msgs.msg import Descriptors, Keypoints
    from sensor_msgs.msg import CameraInfo, Image

    parameters = {**PLAIN_SIFT, "publish_rgbd": True}
    pixels, distances = room.see(walk(1)[0])
    name = "/temporal_matcher"
    with serving("temporal_matcher", parameters) as (node, _):
        assert node.autostart()
        publishers = [(t, f"/{n}") for t, n in ((Image, "image"), (Image, "depth"), (CameraInfo, "camera_info"))]
        camera, depth, info = (client.node.create_publisher(t, n, 10) for t, n in publishers)
        # Nothing is taken as long as nobody listens.
        time.sleep(0.5)
        assert camera.get_subscription_count() == depth.get_subscription_count() == 0
        heard, keypoints, descriptors = (
            client.listen(t, f"{name}/{n}")
            for t, n in ((RGBDImage, "rgbd_image"), (Keypoints, "keypoints"), (Descriptors, "descriptors"))
        )
        wait_until(lambda: camera.get_subscription_count() and depth.get_subscription_count(), "subscriptions")
        sent: dict[str, Any] = {}

        def send(stamp: int) -> None:
            sent.update(rgb=image_message(pixels, stamp, "camera_optical"), depth=depth_message(distances, stamp))
            # A calibration that was published long ago, of a driver that stamps it itself.
            info.publish(info_message(7))
            camera.publish(sent["rgb"])
            depth.publish(sent["depth"])

        message, k, d = answered(send, heard, keypoints, descriptors)
        xy, points = checked_features(message, k, d)
        pixel = np.round(xy).astype(int)
        np.testing.assert_allclose(points[:, 2], distances[pixel[:, 1], pixel[:, 0]], rtol=0.03)
        for side in ("rgb", "depth"):
            assert getattr(message, side) == sent[side]
            own = getattr(message, f"{side}_camera_info")
            assert own.header == sent[side].header and list(own.k) == CAMERA.matrix.reshape(-1).tolist()
        assert message.header == sent["rgb"].header
        assert len(message.rgb_compressed.data) == len(message.depth_compressed.data) == 0

        # An image without keypoints.
        pixels = np.zeros_like(pixels)
        while len(message.key_points):
            message, k, d = answered(send, heard, keypoints, descriptors)
        assert not len(k.scores) and not len(message.points) and not len(message.descriptors)
        assert not node.statistics.last_error


@pytest.mark.slow
def test_stereo_pair(client: Client, room: Room, interfaces_here: dict[str, str]) -> None:
    from rtabmap_msgs.msg import RGBDImage
    from semantic_matcher_msgs.msg import Descriptors, Keypoints
    from sensor_msgs.msg import CameraInfo, Image

    name = "/stereo_matcher"
    heard, keypoints, descriptors = (
        client.listen(t, f"{name}/{n}")
        for t, n in ((RGBDImage, "rgbd_image"), (Keypoints, "left/keypoints"), (Descriptors, "left/descriptors"))
    )
    pair, (_, distances) = room.pair(walk(1)[0]), room.see(walk(1)[0])
    parameters = {**PLAIN_SIFT, "publish_rgbd": True, "rectified": True}
    with serving("stereo_matcher", parameters) as (node, _):
        assert node.autostart()
        cameras = [client.publisher(Image, f"/{side}/image") for side in ("left", "right")]
        infos = [client.publisher(CameraInfo, f"/{side}/camera_info") for side in ("left", "right")]
        sent: list[Any] = []

        def send(stamp: int) -> None:
            # An encoding that RTAB-Map does not take.
            images = [image_message(pixels, stamp, f"{s}_optical") for s, pixels in zip("lr", pair, strict=True)]
            images[1].encoding, images[1].data = "rgb16", np.repeat(np.array(images[1].data, "u1"), 2).tobytes()
            images[1].step *= 2
            sent[:] = images
            for shift, publish, camera, image in zip((0.0, BASELINE), infos, cameras, images, strict=True):
                publish.publish(info_message(stamp, shift))
                camera.publish(image)

        message, k, d = answered(send, heard, keypoints, descriptors)
        xy, points = checked_features(message, k, d)
        pixel = np.round(xy).astype(int)
        off = np.abs(points[:, 2] / distances[pixel[:, 1], pixel[:, 0]] - 1)
        assert np.median(off) < 0.02
        assert message.header == sent[0].header and message.rgb == sent[0]
        assert message.depth.header == sent[1].header and message.depth.encoding == "rgb8"
        np.testing.assert_array_equal(np.array(message.depth.data, "u1").reshape(pair[1].shape), pair[1])
        assert message.rgb_camera_info.p[3] == 0 and message.depth_camera_info.p[3] < 0
        assert not node.statistics.last_error


@pytest.mark.parametrize(
    ("executable", "parameters", "package"),
    [
        ("temporal_matcher", {"publish_rgbd": True}, "rtabmap_msgs"),
        ("stereo_matcher", {"publish_rgbd": True}, "rtabmap_msgs"),
        ("reference_matcher", {"bond_heartbeat_period": 0.25}, "bond"),
    ],
)
def test_a_package_that_is_missing_is_named(
    ros: None, monkeypatch: pytest.MonkeyPatch, executable: str, parameters: Mapping[str, Any], package: str
) -> None:
    monkeypatch.setitem(sys.modules, f"{package}.msg", None)
    reason = configure_refusal(executable, {**PLAIN_SIFT, **parameters})
    command = f"apt install ros-$ROS_DISTRO-{package.replace('_', '-')}"
    assert reason.startswith("configure failed: ") and reason.count(f"{package}, which") == 1 and command in reason
    assert next(iter(parameters)) in reason
