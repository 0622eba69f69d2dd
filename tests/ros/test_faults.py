"""What cameras, bags and people do to a node: it says so, goes on, and never answers under a wrong stamp."""

from __future__ import annotations

import itertools
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, image_message, machine_stamps, of_stamp, running, set_stamp, stamp_of, wait_until

pytestmark = pytest.mark.ros

NAME = "/temporal_matcher"
STEP = 50_000_000


class Feed:
    """A camera whose images carry stamps of a counter, and the answers to them."""

    def __init__(self, client: Client, camera: Any, keypoints: list[Any], matches: list[Any]) -> None:
        self.client = client
        self.camera = camera
        self.keypoints = keypoints
        self.matches = matches
        self.stamps: Iterator[int] = machine_stamps()
        self.sent: set[int] = set()

    def send(self, message: Any, stamp: int | None = None) -> int:
        """Publish under the next stamp, or a given one; the stamp."""
        stamp = next(self.stamps) if stamp is None else stamp
        set_stamp(message, stamp)
        self.camera.publish(message)
        self.sent.add(stamp)
        return stamp

    def answer(self, make: Callable[[], Any], outputs: list[Any] | None = None) -> Any:
        """What an image is answered with, sent under new stamps until it is."""
        outputs = self.keypoints if outputs is None else outputs
        for _ in range(20):
            stamp = self.send(make())
            try:
                return wait_until(lambda s=stamp: of_stamp(outputs, s), "an answer", timeout=3.0)
            except AssertionError:
                continue
        raise AssertionError("no answer to 20 images")


def encoded(pixels: np.ndarray, encoding: str) -> Any:
    """An image message of any type of array."""
    pixels = np.ascontiguousarray(pixels)
    message = image_message(np.zeros((1, 1), np.uint8), 0)
    message.height, message.width = pixels.shape[:2]
    message.encoding, message.step = encoding, pixels.strides[0]
    message.data = array("B", pixels.tobytes())
    return message


def test_one_camera_after_another_trouble(client: Client, log: Path, textured: Callable[..., np.ndarray]) -> None:
    """One node goes through all of it: that each fault leaves no trace in what follows is part of the test."""
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from sensor_msgs.msg import Image

    pixels = textured(160, 200, seed=60)
    keypoints = client.listen(Keypoints, f"{NAME}/keypoints")
    matches = client.listen(Matches, f"{NAME}/matches")
    diagnostics = client.diagnostics()

    def good() -> Any:
        return image_message(pixels, 0)

    def reported(text: str, send: Callable[[], Any]) -> None:
        """An error with this text in the diagnostics, in answer to what is sent."""

        def seen() -> bool:
            send()
            time.sleep(0.2)
            return any(s.level == 2 and text in s.message for s in diagnostics.of(NAME))

        wait_until(seen, f"an error {text!r}")

    with running("temporal_matcher", log, {**PLAIN_SIFT, "geometry": "homography"}) as node:
        feed = Feed(client, client.publisher(Image, "/image"), keypoints, matches)
        count = len(feed.answer(good).scores)
        assert count > 100

        # Mislabelled encodings: more bytes or fewer than the label asks for, and a label of another family.
        for label, data, text in (
            ("rgb8", pixels[..., 0], "step of 200 bytes"),
            ("16UC1", pixels[..., 0], "step of 200 bytes"),
            ("32FC1", pixels[..., 0], "step of 200 bytes"),
            ("jpeg", pixels, "'jpeg'"),
            ("", pixels, "''"),
        ):
            reported(text, lambda d=data, e=label: feed.send(encoded(d, e)))
        assert len(feed.answer(good).scores) == count

        # A float image with holes, as depth cameras send them.
        holes = pixels.mean(axis=2, dtype=np.float32) / 25.6  # metres, white from 10 on
        holes[40:60, 50:90] = np.nan
        holes[100, 100] = np.inf
        message = feed.answer(lambda: encoded(holes, "32FC1"))
        positions = np.asarray(message.xy)
        assert len(message.scores) > 50 and np.isfinite(positions).all() and np.isfinite(message.scores).all()
        everywhere = np.full((160, 200), np.nan, np.float32)
        assert len(feed.answer(lambda: encoded(everywhere, "32FC1")).scores) == 0

        # Black frames: nothing to find on one side, on both, and on the other.
        black = np.zeros_like(pixels)
        for image in (pixels, black, black, pixels):
            previous, message = feed.keypoints[-1], feed.answer(lambda p=image: image_message(p, 0), matches)
            found = of_stamp(keypoints, stamp_of(message.header))
            assert (len(found.scores) == 0) == (image is black)
            if image is black or len(previous.scores) == 0:
                assert len(message.index0) == len(message.inlier) == 0 and message.model_type == ""
        feed.answer(good)

        # Another resolution in mid-stream.
        other = textured(120, 264, seed=61)
        message = feed.answer(lambda: image_message(other, 0))
        assert (message.width, message.height) == (264, 120)
        message = feed.answer(lambda: image_message(other, 0), matches)
        assert len(message.index0) > 0.8 * len(keypoints[-1].scores)

        # Equal and late stamps are skipped and counted.
        feed.answer(good)
        newest = stamp_of(keypoints[-1].header)
        heard = len(keypoints)
        key = "images skipped (time stamp repeated or late)"
        for wrong in (newest, newest - STEP):
            before = int(diagnostics.of(NAME)[-1].values[key])

            def skipped(stamp: int = wrong, before: int = before) -> bool:
                feed.send(good(), stamp)
                time.sleep(0.2)
                return int(diagnostics.of(NAME)[-1].values[key]) > before

            wait_until(skipped, "a skipped image")
        assert len(keypoints) == heard

        # A bag that plays in a loop begins again: so does matching.
        feed.stamps = itertools.count(1_600_000_000_000_000_000, STEP)
        message = feed.answer(good)
        node.wait_for("time went back: matching begins anew")
        message = feed.answer(good, matches)
        assert stamp_of(message.reference_header) >= 1_600_000_000_000_000_000
        assert stamp_of(message.header) < 1_700_000_000_000_000_000
        # Such stamps are of another time than the node's, which is said until they are not.
        diagnostics.wait_for(NAME, lambda s: "if a recording is played, set use_sim_time" in s.message, "the clocks")
        feed.stamps = machine_stamps()
        feed.answer(good)

        # The camera's driver is started again, and with another reliability.
        for reliable in (False, True):
            client.node.destroy_publisher(feed.camera)
            wait_until(lambda: client.node.count_publishers("/image") == 0, "the end of the camera")
            feed.camera = client.publisher(Image, "/image", reliable=reliable)
            assert len(feed.answer(good).scores) == count

        # Two drivers on one topic are named.
        second = client.node.create_publisher(Image, "/image", 1)
        diagnostics.wait_for(NAME, lambda s: "2 publishers on /image" in s.message, "two publishers")
        client.node.destroy_publisher(second)

        # Whatever happened: each answer is to an image that was sent, and no stamp was answered twice.
        for outputs in (keypoints, matches):
            stamps = [stamp_of(m.header) for m in outputs]
            assert set(stamps) <= feed.sent and len(stamps) == len(set(stamps))
        assert {stamp_of(m.reference_header) for m in matches} <= {stamp_of(m.header) for m in keypoints}
        feed.answer(good)
        diagnostics.wait_for(NAME, lambda s: s.level == 0, "OK")
        recent = diagnostics.of(NAME)[-1].values
        assert float(recent["memory [MB]"]) > 50 and recent["weights (SHA-256)"] == "none"
        assert node.stop() == 0 and "Traceback" not in node.output


def test_left_without_right(client: Client, log: Path, textured: Callable[..., np.ndarray]) -> None:
    from semantic_matcher_msgs.msg import Matches
    from sensor_msgs.msg import Image

    name = "/stereo_matcher"
    pixels = textured(120, 160, seed=62)
    matches = client.listen(Matches, f"{name}/matches")
    diagnostics = client.diagnostics()
    stamps = machine_stamps()
    parameters = {**PLAIN_SIFT, "no_image_warning_period": 1.0, "queue_size": 3}
    with running("stereo_matcher", log, parameters) as node:
        left, right = (client.publisher(Image, f"/{side}/image") for side in ("left", "right"))
        given_up = "images without a partner"

        def alone() -> Any:
            left.publish(image_message(pixels, next(stamps)))
            time.sleep(0.1)
            statuses = diagnostics.of(name)
            return next(
                (s for s in statuses if "no image on /right/image" in s.message and int(s.values[given_up]) > 3), None
            )

        status = wait_until(alone, "a warning about the right camera")
        assert status.level == 1 and "/left/image" not in status.message and "1 publisher(s)" in status.message
        assert not matches
        node.wait_for("no image on /right/image")

        def paired() -> Any:
            stamp = next(stamps)
            for camera in (left, right):
                camera.publish(image_message(pixels, stamp))
            try:
                return wait_until(lambda: of_stamp(matches, stamp), "matches", timeout=2.0)
            except AssertionError:
                return None

        assert stamp_of(wait_until(paired, "a pair").reference_header) > 0

        # Without keypoints on one side, there are no matches, and that is said.
        def dark() -> Any:
            stamp = next(stamps)
            left.publish(image_message(pixels, stamp))
            right.publish(image_message(np.zeros_like(pixels), stamp))
            try:
                return wait_until(lambda: of_stamp(matches, stamp), "matches", timeout=2.0)
            except AssertionError:
                return None

        assert len(wait_until(dark, "an empty message").index0) == 0
        diagnostics.wait_for(name, lambda s: s.values.get("matches") == "0", "no matches")
        assert "Traceback" not in node.output


def test_weights_that_vanish_before_the_node_is_configured_again(client: Client, log: Path, tmp_path: Path) -> None:
    import torch

    from semantic_matcher_core.extractors.xfeat import XFeat

    torch.manual_seed(0)
    weights = tmp_path / "weights" / "xfeat.pt"
    weights.parent.mkdir()
    torch.save(XFeat().state_dict(), weights)
    parameters = {**PLAIN_SIFT, "variant": "plain:xfeat", "weights": str(weights.parent), "autostart": False}
    parameters |= {"warmup_width": 64, "warmup_height": 64, "device": "cpu"}
    environment = {"SEMANTIC_MATCHER_HOME": str(tmp_path / "home"), "SEMANTIC_MATCHER_WEIGHTS": ""}
    diagnostics = client.diagnostics()
    with running("temporal_matcher", log, parameters, ready="", environment=environment) as node:
        for label in ("configure", "activate", "deactivate", "cleanup"):
            assert client.change_state(NAME, label), node.output
        hashed = diagnostics.wait_for(NAME, lambda s: "weights (SHA-256)" in s.values, "the weights")
        assert len(hashed.values["weights (SHA-256)"]) == 16
        content = weights.read_bytes()
        weights.unlink()
        assert not client.change_state(NAME, "configure")
        assert client.state(NAME) == "unconfigured"
        assert diagnostics.wait_for(NAME, lambda s: s.level == 2, "the error").values["state"] == "unconfigured"
        assert "configure failed" in node.output and "xfeat" in node.output
        # Half of it, as after a full disk.
        weights.write_bytes(content[: len(content) // 2])
        assert not client.change_state(NAME, "configure")
        weights.write_bytes(content)
        for label in ("configure", "activate"):
            assert client.change_state(NAME, label), node.output
        assert client.state(NAME) == "active"
        assert "Traceback" not in node.output
