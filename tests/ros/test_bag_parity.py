"""A node and the offline path give the same messages for the same images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core.recordings import (
    BASELINE,
    DISPARITY,
    FOCAL,
    PERIOD_NS,
    START_NS,
    camera_info,
    view,
    write_rectified_bag,
)
from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, image_message, of_stamp, running, set_stamp, stamp_of, wait_until

pytestmark = pytest.mark.ros

OPTIONS = {**PLAIN_SIFT, "geometry": "homography", "geometry_threshold": 1.5}
# Later than the bag's: when its images come, the node sees time go back and begins anew, as a run of the bag does.
WARM_UP_NS = START_NS + 3_600_000_000_000


def offline(bag: Path, output: Path, mode: str, topics: list[str], **options: Any) -> Callable[[str], list[Any]]:
    """Run the bag; a function that gives the messages of a topic."""
    from semantic_matcher_core.io.bags import BagReader
    from semantic_matcher_core.offline.options import RunOptions
    from semantic_matcher_core.offline.run import run
    from semantic_matcher_core.offline.sources import BagSource
    from semantic_matcher_core.pipeline import SemanticMatcher

    matcher = SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=500)
    given = {"geometry": "homography", "geometry_threshold": 1.5, "descriptors": True, **options}
    choices = RunOptions(mode=mode, **given)
    run(BagSource(bag, topics), matcher, output, choices)

    def messages(topic: str) -> list[Any]:
        with BagReader(output) as reader:
            return [item.message for item in reader.messages([topic])]

    return messages


def assert_same(from_node: Any, from_bag: Any, fields: list[str]) -> None:
    for header in ("header", "reference_header"):
        if hasattr(from_bag, header):
            ours, theirs = getattr(from_node, header), getattr(from_bag, header)
            assert stamp_of(ours) == stamp_of(theirs) and ours.frame_id == theirs.frame_id
    for field in fields:
        np.testing.assert_array_equal(np.asarray(getattr(from_node, field)), getattr(from_bag, field), field)


KEYPOINTS = ["width", "height", "xy", "scores"]
DESCRIPTORS = ["variant", "dim", "data", "semantic_dim", "semantic_data"]
MATCHES = ["mode", "index0", "index1", "xy0", "xy1", "confidence", "inlier", "model", "model_type"]


def play(publishers: list[Any], messages: list[Any], stamp_ns: int, answers: list[list[Any]]) -> list[Any]:
    """Publish until each list of answers has a message of this stamp; those messages."""
    for _ in range(20):
        for publisher, message in zip(publishers, messages, strict=True):
            publisher.publish(message)
        try:
            return wait_until(
                lambda: found if all(found := [of_stamp(a, stamp_ns) for a in answers]) else None, "answers", 3.0
            )
        except AssertionError:
            continue
    raise AssertionError(f"no answer to the images of {stamp_ns}")


def latched_infos(client: Client, infos: dict[str, Any]) -> None:
    """Publish calibrations once, as drivers do, for nodes that come later."""
    from rclpy.qos import QoSDurabilityPolicy, QoSProfile
    from sensor_msgs.msg import CameraInfo

    latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    for topic, info in infos.items():
        message = CameraInfo(height=info.height, width=info.width, distortion_model=info.distortion_model)
        message.k, message.p, message.d = list(info.k), list(info.p), list(info.d)
        client.node.create_publisher(CameraInfo, topic, latched).publish(message)


def warm_up(cameras: list[Any], message: Any, first_ns: int, heard: list[list[Any]]) -> None:
    """Publish pictures of later stamps until every topic is connected."""
    before = [len(messages) for messages in heard]
    for i in range(20):
        set_stamp(message, first_ns + i * PERIOD_NS)
        for camera in cameras:
            camera.publish(message)
        try:
            wait_until(
                lambda: all(len(messages) > n for messages, n in zip(heard, before, strict=True)), "messages", 3.0
            )
            return
        except AssertionError:
            continue


def test_temporal(client: Client, log: Path, tmp_path: Path, textured_image: np.ndarray) -> None:
    from semantic_matcher_msgs.msg import Descriptors, Keypoints, Matches
    from sensor_msgs.msg import Image

    bag = write_rectified_bag(tmp_path / "in.mcap", textured_image, count=4)
    latched_infos(client, {"/left/camera_info": camera_info()})
    names = {"keypoints": Keypoints, "descriptors": Descriptors, "matches": Matches}
    heard = {name: client.listen(kind, f"/temporal_matcher/{name}") for name, kind in names.items()}
    stamps = [START_NS + n * PERIOD_NS for n in range(4)]
    frames = [image_message(view(textured_image, i), stamp, "left_optical") for i, stamp in enumerate(stamps)]
    with running("temporal_matcher", log, OPTIONS, ("-r", "image:=/left/image_rect")):
        camera = client.publisher(Image, "/left/image_rect")
        for kind in ("homography", "essential"):
            output = tmp_path / f"{kind}.mcap"
            recorded = offline(bag, output, "temporal", ["/left/image_rect"], geometry=kind)
            assert client.set_parameter("/temporal_matcher", "geometry", kind).successful
            message = image_message(view(textured_image, 0), 0)
            warm_up([camera], message, WARM_UP_NS, list(heard.values()))
            for messages in heard.values():
                messages.clear()
            for i, (frame, stamp) in enumerate(zip(frames, stamps, strict=True)):
                wanted = [heard["keypoints"], heard["descriptors"], *([heard["matches"]] if i else [])]
                play([camera], [frame], stamp, wanted)
            for i, stamp in enumerate(stamps):
                for name, fields in (("keypoints", KEYPOINTS), ("descriptors", DESCRIPTORS)):
                    assert_same(of_stamp(heard[name], stamp), recorded(f"/temporal_matcher/{name}")[i], fields)
                if i:
                    expected = recorded("/temporal_matcher/matches")[i - 1]
                    assert_same(of_stamp(heard["matches"], stamp), expected, MATCHES)
                    assert expected.model_type == kind and len(expected.inlier) > 50
            assert of_stamp(heard["matches"], stamps[0]) is None


def test_stereo(client: Client, log: Path, tmp_path: Path, textured_image: np.ndarray) -> None:
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from sensor_msgs.msg import Image, PointCloud2

    infos = {"/left/camera_info": camera_info(), "/right/camera_info": camera_info(-FOCAL * BASELINE)}
    bag = write_rectified_bag(tmp_path / "in.mcap", textured_image)
    chosen = {"geometry": "essential", "rectified": True, "epipolar_band": 1.5, "min_disparity": 2.0}
    topics = ["/left/image_rect", "/right/image_rect"]
    recorded = offline(bag, tmp_path / "out.mcap", "stereo", topics, slop_s=0.01, **chosen)
    latched_infos(client, infos)
    heard = {side: client.listen(Keypoints, f"/stereo_matcher/{side}/keypoints") for side in ("left", "right")}
    matches = client.listen(Matches, "/stereo_matcher/matches")
    points = client.listen(PointCloud2, "/stereo_matcher/points")
    arguments = tuple(a for side in heard for a in ("-r", f"{side}/image:=/{side}/image_rect"))
    with running("stereo_matcher", log, {**OPTIONS, "slop": 0.01, **chosen}, arguments):
        cameras = [client.publisher(Image, topic) for topic in topics]
        warm_up(cameras, image_message(view(textured_image, 0), 0), WARM_UP_NS, [*heard.values(), matches])
        for i in range(3):
            stamp = START_NS + i * PERIOD_NS
            pair = [
                image_message(view(textured_image, i), stamp, "left_optical"),
                image_message(view(textured_image, i, DISPARITY), stamp, "right_optical"),
            ]
            play(cameras, pair, stamp, [*heard.values(), matches, points])
    for i in range(3):
        stamp = START_NS + i * PERIOD_NS
        for side, messages in heard.items():
            assert_same(of_stamp(messages, stamp), recorded(f"/stereo_matcher/{side}/keypoints")[i], KEYPOINTS)
        expected = recorded("/stereo_matcher/matches")[i]
        assert_same(of_stamp(matches, stamp), expected, MATCHES)
        rows = expected.xy0.reshape(-1, 2)[:, 1] - expected.xy1.reshape(-1, 2)[:, 1]
        assert expected.model_type == "essential" and len(rows) > 50 and np.abs(rows).max() <= 1.5
        cloud = recorded("/stereo_matcher/points")[i]
        assert cloud.width > 40
        assert_same(of_stamp(points, stamp), cloud, ["width", "height", "point_step", "row_step", "is_dense", "data"])
