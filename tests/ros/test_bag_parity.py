"""A node and the offline path give the same messages for the same images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.core.recordings import PERIOD_NS, START_NS, view, write_camera_bag, write_stereo_bag
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
    choices = RunOptions(mode=mode, geometry="homography", geometry_threshold=1.5, descriptors=True, **options)
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


def test_temporal(client: Client, log: Path, tmp_path: Path, textured_image: np.ndarray) -> None:
    from semantic_matcher_msgs.msg import Descriptors, Keypoints, Matches
    from sensor_msgs.msg import Image

    stamps = [START_NS + n * PERIOD_NS for n in range(5)]
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, len(stamps), stamps=stamps)
    recorded = offline(bag, tmp_path / "out.mcap", "temporal", ["/camera/image"])
    names = {"keypoints": Keypoints, "descriptors": Descriptors, "matches": Matches}
    heard = {name: client.listen(kind, f"/temporal_matcher/{name}") for name, kind in names.items()}
    with running("temporal_matcher", log, OPTIONS):
        camera = client.publisher(Image, "/image")
        frames = [image_message(view(textured_image, i), stamp, "camera_optical") for i, stamp in enumerate(stamps)]
        # Pictures of later stamps, until every topic is connected.
        message = image_message(view(textured_image, 0), 0)
        for i in range(20):
            set_stamp(message, WARM_UP_NS + i * PERIOD_NS)
            camera.publish(message)
            try:
                wait_until(lambda: all(heard.values()), "first messages", 3.0)
                break
            except AssertionError:
                continue
        for i, (frame, stamp) in enumerate(zip(frames, stamps, strict=True)):
            wanted = [heard["keypoints"], heard["descriptors"], *([heard["matches"]] if i else [])]
            play([camera], [frame], stamp, wanted)
    for i, stamp in enumerate(stamps):
        assert_same(of_stamp(heard["keypoints"], stamp), recorded("/temporal_matcher/keypoints")[i], KEYPOINTS)
        assert_same(of_stamp(heard["descriptors"], stamp), recorded("/temporal_matcher/descriptors")[i], DESCRIPTORS)
        if i:
            assert_same(of_stamp(heard["matches"], stamp), recorded("/temporal_matcher/matches")[i - 1], MATCHES)
            assert len(recorded("/temporal_matcher/matches")[i - 1].inlier) > 50
    assert of_stamp(heard["matches"], stamps[0]) is None


def test_stereo(client: Client, log: Path, tmp_path: Path, textured_image: np.ndarray) -> None:
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from sensor_msgs.msg import Image

    from tests.core.recordings import DISPARITY

    offset = 2_000_000
    bag = write_stereo_bag(tmp_path / "in.mcap", textured_image, 3, offset_ns=offset)
    recorded = offline(bag, tmp_path / "out.mcap", "stereo", ["/left/image", "/right/image"], slop_s=0.01)
    heard = {side: client.listen(Keypoints, f"/stereo_matcher/{side}/keypoints") for side in ("left", "right")}
    matches = client.listen(Matches, "/stereo_matcher/matches")
    with running("stereo_matcher", log, {**OPTIONS, "slop": 0.01}):
        cameras = [client.publisher(Image, f"/{side}/image") for side in ("left", "right")]
        for i in range(20):
            stamp = WARM_UP_NS + i * PERIOD_NS
            for camera in cameras:
                camera.publish(image_message(view(textured_image, 0), stamp))
            try:
                wait_until(lambda: all([*heard.values(), matches]), "first messages", 3.0)
                break
            except AssertionError:
                continue
        for i in range(3):
            stamp = START_NS + i * PERIOD_NS
            pair = [
                image_message(view(textured_image, i), stamp, "left_optical"),
                image_message(view(textured_image, i, DISPARITY), stamp + offset, "right_optical"),
            ]
            play(cameras, pair, stamp + offset, [heard["right"], matches])
    for i in range(3):
        stamp = START_NS + i * PERIOD_NS
        left = wait_until(lambda stamp=stamp: of_stamp(heard["left"], stamp), "left keypoints", 3.0)
        assert_same(left, recorded("/stereo_matcher/left/keypoints")[i], KEYPOINTS)
        right = of_stamp(heard["right"], stamp + offset)
        assert_same(right, recorded("/stereo_matcher/right/keypoints")[i], KEYPOINTS)
        assert_same(of_stamp(matches, stamp + offset), recorded("/stereo_matcher/matches")[i], MATCHES)
