"""Masks of a running node: a file's, and those on a topic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, configure_refusal, image_message, machine_stamps, of_stamp, running, wait_until

pytestmark = pytest.mark.ros

HEIGHT, WIDTH = 120, 160
NODE = "/temporal_matcher"


def test_a_file_and_a_topic_say_where_keypoints_are_wanted(
    client: Client, log: Path, tmp_path: Path, textured_image: np.ndarray
) -> None:
    from rclpy.qos import QoSDurabilityPolicy, QoSProfile
    from semantic_matcher_msgs.msg import Keypoints
    from sensor_msgs.msg import Image

    left = np.zeros((HEIGHT, WIDTH), np.uint8)
    left[:, : WIDTH // 2] = 255
    top = np.zeros((HEIGHT, WIDTH), np.uint8)
    top[: HEIGHT // 2] = 1
    path = tmp_path / "mask.png"
    cv2.imwrite(str(path), left)
    found = client.listen(Keypoints, f"{NODE}/keypoints")
    diagnostics = client.diagnostics()
    latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    masks = client.node.create_publisher(Image, "/segmentation/mask", latched)
    # One path as people write it, not a list.
    arguments = ("-r", "mask:=/segmentation/mask")
    with running("temporal_matcher", log, {**PLAIN_SIFT, "mask": str(path)}, arguments) as node:
        camera = client.publisher(Image, "/image")
        stamps = machine_stamps()

        def look(until: Any = lambda message: True) -> np.ndarray:
            """Keypoints of the first image from now on that meet a condition."""
            for _ in range(60):
                stamp = next(stamps)
                camera.publish(image_message(textured_image[:HEIGHT, :WIDTH], stamp))
                try:
                    message = wait_until(lambda s=stamp: of_stamp(found, s), "keypoints", 1.0)
                except AssertionError:
                    continue
                xy = np.reshape(message.xy, (-1, 2))
                if until(xy):
                    return xy
            raise AssertionError("no such keypoints")

        xy = look()
        assert len(xy) > 20 and xy[:, 0].max() < WIDTH / 2 and xy[:, 1].max() > HEIGHT / 2
        masks.publish(image_message(top, 0))
        xy = look(lambda xy: len(xy) and xy[:, 1].max() < HEIGHT / 2)
        assert len(xy) > 5 and xy[:, 0].max() < WIDTH / 2
        node.wait_for("taking masks from /segmentation/mask")
        share = "mask: share of the image that is wanted"
        diagnostics.wait_for(NODE, lambda s: s.values.get(share) == "0.250", "a share")
        # Nothing is left of it: that is said, and over when it is over. A mask that is later does not hold yet.
        masks.publish(image_message(top * 0, next(stamps)))
        assert len(look(lambda xy: not len(xy))) == 0
        nothing = "the mask on /segmentation/mask leaves nothing of the image"
        node.wait_for(nothing)
        diagnostics.wait_for(NODE, lambda s: s.level == 1 and nothing in s.message, "nothing is left")
        masks.publish(image_message(top, next(stamps)))
        look(lambda xy: len(xy))
        node.wait_for(f"over: {nothing}")
        masks.publish(image_message(top * 0, next(stamps) + 3600 * 10**9))
        assert len(look()) > 0
        masks.publish(image_message(top[:, :80], next(stamps)))

        def refused() -> bool:
            camera.publish(image_message(textured_image[:HEIGHT, :WIDTH], next(stamps)))
            return "is 80 x 120, but the image is 160 x 120; a mask has the size of its images" in node.output

        wait_until(refused, "a refusal", every=0.2)


def test_a_mask_that_leaves_nothing_is_refused(ros: None, tmp_path: Path) -> None:
    path = tmp_path / "black.png"
    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH), np.uint8))
    refusal = configure_refusal("stereo_matcher", {**PLAIN_SIFT, "mask": [str(path)]})
    assert f"configure failed: the mask {path} is zero everywhere: nothing would be left" in refusal
    refusal = configure_refusal("temporal_matcher", {**PLAIN_SIFT, "mask": ["a.png", "b.png"]})
    assert "2 masks, but images of 1 camera(s); give one for all, or one for each in their order" in refusal
