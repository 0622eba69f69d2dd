"""Compressed images, the geometric check, the debug picture, QoS that does not fit, and XFeat."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, floats, image_message, of_stamp, running, set_stamp, stamp_of, wait_until

pytestmark = pytest.mark.ros

NAME = "/temporal_matcher"
STAMPS = itertools.count(1_700_000_000_000_000_000, 50_000_000)


def send_until(camera: Any, make: Callable[[int], Any], answered: Callable[[], Any], what: str) -> Any:
    """Publish messages under new stamps until there is an answer."""
    for _ in range(20):
        camera.publish(make(next(STAMPS)))
        try:
            return wait_until(answered, what, timeout=3.0)
        except AssertionError:
            continue
    raise AssertionError(f"no {what} after 20 images")


def test_compressed_images_checked_and_drawn(client: Client, log: Path, textured: Callable[..., np.ndarray]) -> None:
    from semantic_matcher_msgs.msg import Matches
    from sensor_msgs.msg import CompressedImage, Image

    picture = textured(300, 400, seed=7)
    views = [picture[20:260, 20:340], picture[30:270, 40:360]]
    parameters = {**PLAIN_SIFT, "image_transport": "compressed", "geometry": "homography", "debug_height": 120}
    matches = client.listen(Matches, f"{NAME}/matches")
    turn = itertools.count()

    def compressed(stamp: int) -> CompressedImage:
        _, data = cv2.imencode(".png", cv2.cvtColor(views[next(turn) % 2], cv2.COLOR_RGB2BGR))
        message = CompressedImage(format="rgb8; png compressed bgr8", data=array("B", data.tobytes()))
        set_stamp(message, stamp)
        message.header.frame_id = "cam"
        return message

    with running("temporal_matcher", log, parameters, arguments=("-r", "image:=/rig/image_raw")) as node:
        camera = client.publisher(CompressedImage, "/rig/image_raw/compressed")
        message = send_until(camera, compressed, lambda: matches and matches[-1], "matches")
        inlier = floats(message.inlier).astype(bool)
        assert message.model_type == "homography"
        assert len(inlier) == len(message.confidence) > 50 and inlier.mean() > 0.8
        moved = floats(message.xy1).reshape(-1, 2) - floats(message.xy0).reshape(-1, 2)
        sign = np.sign(moved[inlier].mean(axis=0))
        assert (np.abs(moved[inlier]) - (20, 10) < 3).all()
        np.testing.assert_allclose(message.model.reshape(3, 3)[:2, 2], sign * (20, 10), atol=1.0)

        # Drawn only now that somebody looks.
        pictures = client.listen(Image, f"{NAME}/debug_image")
        drawn = send_until(camera, compressed, lambda: pictures and pictures[-1], "a debug image")
        assert drawn.encoding == "rgb8" and drawn.header.frame_id == "cam"
        assert drawn.width == 160 and drawn.height > 120  # one image, 320 x 240, and the strip
        assert len(drawn.data) == drawn.step * drawn.height == 3 * drawn.width * drawn.height
        assert np.unique(np.frombuffer(drawn.data, np.uint8)).size > 100

        # And both go without a new start: the check, and with it the model.
        assert client.set_parameter(NAME, "geometry", "none").successful
        send_until(camera, compressed, lambda: matches[-1].model_type == "", "matches without a check")
        assert len(matches[-1].inlier) == 0

        # A JPEG with a gap, which OpenCV would fill with grey, is refused; the next picture is taken.
        data = cv2.imencode(".jpg", views[0])[1].tobytes()
        message = compressed(next(STAMPS))
        message.format, message.data = "jpeg", array("B", data[: len(data) // 2] + data[len(data) // 2 + 500 :])
        camera.publish(message)
        node.wait_for("image refused: the compressed image ('jpeg') is a JPEG, but damaged within")
        known = len(matches)
        send_until(camera, compressed, lambda: len(matches) > known, "matches after it")
        assert "Traceback" not in node.output


def test_qos_that_does_not_fit_is_named(client: Client, log: Path, tmp_path: Path) -> None:
    from rclpy.qos import QoSProfile, QoSReliabilityPolicy
    from semantic_matcher_msgs.msg import Keypoints
    from sensor_msgs.msg import Image

    best_effort = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    client.node.create_publisher(Image, "/image", best_effort)
    client.listen(Keypoints, f"{NAME}/keypoints")
    diagnostics = client.diagnostics()
    overrides = tmp_path / "overrides.yaml"
    overrides.write_text(
        "/**:\n  ros__parameters:\n    qos_overrides:\n"
        "      /image: {subscription: {reliability: reliable}}\n"
        f"      {NAME}/keypoints: {{publisher: {{reliability: best_effort}}}}\n"
    )
    with running("temporal_matcher", log, PLAIN_SIFT, arguments=("--params-file", str(overrides))) as node:
        node.wait_for("a publisher on /image offers incompatible QoS (RELIABILITY)")
        node.wait_for(f"a subscriber of {NAME}/keypoints requests incompatible QoS (RELIABILITY)")
        named = "qos_overrides./image.subscription.reliability"
        diagnostics.wait_for(NAME, lambda s: s.level == 1 and named in s.message, "a warning that names the override")
        client.node.create_publisher(Image, "/image", best_effort)
        diagnostics.wait_for(NAME, lambda s: "2 publishers on /image" in s.message, "two publishers")


def test_xfeat_agrees_with_the_core(client: Client, log: Path, shared: Path) -> None:
    from semantic_matcher_msgs.msg import Descriptors, Keypoints, Matches
    from sensor_msgs.msg import Image

    from semantic_matcher_core import SemanticMatcher

    frames = sorted((shared / "data" / "sequences" / "tum").iterdir())[:2]
    images = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)[::2, ::2] for path in frames]
    weights = str(shared / "weights")
    matcher = SemanticMatcher.from_pretrained("plain:xfeat", device="cpu", max_keypoints=300, weights=weights)
    features = [matcher.extract(image) for image in images]
    expected = matcher.match(*features)

    outputs = [
        client.listen(kind, f"{NAME}/{topic}")
        for kind, topic in ((Keypoints, "keypoints"), (Descriptors, "descriptors"), (Matches, "matches"))
    ]
    parameters = {**PLAIN_SIFT, "variant": "", "descriptor": "xfeat", "dino": "none", "max_keypoints": 300}
    with running("temporal_matcher", log, {**parameters, "weights": weights}):
        camera = client.publisher(Image, "/image")
        sent: list[int] = []

        def answered() -> list[Any] | None:
            found = [of_stamp(output, sent[-1]) for output in outputs]
            return found if all(found) else None

        for image in images:

            def make(stamp: int, image: np.ndarray = image) -> Any:
                sent.append(stamp)
                return image_message(image, stamp)

            if image is images[0]:
                # Twice, so that it has been matched, and is the reference.
                send_until(camera, make, answered, "messages")
            keypoints, descriptors, matches = send_until(camera, make, answered, "messages")
    assert (descriptors.variant, descriptors.dim) == ("plain:xfeat", 64)
    assert stamp_of(matches.header) == sent[-1]
    n = features[1].keypoints.shape[1]
    np.testing.assert_allclose(floats(keypoints.xy).reshape(n, 2), features[1].keypoints[0], atol=1e-4)
    np.testing.assert_allclose(floats(descriptors.data).reshape(n, 64), features[1].descriptors[0], atol=1e-4)
    np.testing.assert_array_equal(floats(matches.index0), expected.indices[:, 0])
    np.testing.assert_array_equal(floats(matches.index1), expected.indices[:, 1])
    np.testing.assert_allclose(floats(matches.confidence), expected.confidence, atol=1e-4)
    assert len(expected) > 30
