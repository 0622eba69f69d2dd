"""Images that cannot be used are refused, with an error in log and diagnostics, and the next good one works."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, NodeProcess, image_message, machine_stamps, of_stamp, running, wait_until

pytestmark = pytest.mark.ros

NAME = "/temporal_matcher"
STAMPS = machine_stamps()


def _wrong_size(message: Any) -> None:
    message.height += 1


def _unknown_encoding(message: Any) -> None:
    message.encoding = "rgb9"


def _no_area(message: Any) -> None:
    message.width = message.height = message.step = 0
    message.data = array("B")


def _truncated(message: Any) -> None:
    message.data = message.data[:-100]


def _small_step(message: Any) -> None:
    message.step = 10


BAD = {
    "holds 76800 bytes": _wrong_size,
    "'rgb9'": _unknown_encoding,
    "no area": _no_area,
    "holds 76700 bytes": _truncated,
    "step of 10 bytes": _small_step,
}


class Camera:
    """Sends one picture, whole or spoilt, to a running node.

    Args:
        client: the test's node.
        node: the node under test, for its output when something does not come.
        pixels: the picture.
    """

    def __init__(self, client: Client, node: NodeProcess, pixels: np.ndarray) -> None:
        from sensor_msgs.msg import Image

        self._publisher = client.publisher(Image, "/image")
        self._node = node
        self._pixels = pixels

    def send_until(self, condition: Callable[[int], Any], what: str, spoil: Callable[[Any], None] | None = None) -> Any:
        """Send images under new stamps until ``condition(stamp)`` holds; what it gave."""
        for _ in range(20):
            stamp = next(STAMPS)
            message = image_message(self._pixels, stamp)
            if spoil is not None:
                spoil(message)
            self._publisher.publish(message)
            try:
                return wait_until(lambda s=stamp: condition(s), what, timeout=3.0)
            except AssertionError:
                continue
        raise AssertionError(f"no {what} after 20 images:\n{self._node.output}")


def test_bad_images_between_good_ones(client: Client, log: Path, textured: Callable[..., np.ndarray]) -> None:
    from semantic_matcher_msgs.msg import Keypoints

    keypoints = client.listen(Keypoints, f"{NAME}/keypoints")
    diagnostics = client.diagnostics()
    with running("temporal_matcher", log, PLAIN_SIFT) as node:
        camera = Camera(client, node, textured(160, 160, seed=2))
        refused: list[str] = []
        for text, spoil in BAD.items():
            good = camera.send_until(lambda stamp: of_stamp(keypoints, stamp), "keypoints of a good image")
            assert len(good.scores) > 20
            before = len(keypoints)

            def reported(_: int, text: str = text) -> Any:
                return next((s for s in diagnostics.of(NAME) if text in s.values["last error"]), None)

            status = camera.send_until(reported, f"diagnostics with {text!r}", spoil)
            refused.append(status.values["images refused"])
            assert len(keypoints) == before
            errors = [s for s in diagnostics.of(NAME) if s.level == 2 and text in s.message]
            assert errors, "the level was not ERROR"
        camera.send_until(lambda stamp: of_stamp(keypoints, stamp), "keypoints of a good image")
        # In the end all is well again, and the counter remembers.
        recovered = diagnostics.wait_for(
            NAME, lambda s: s.level == 0 and int(s.values["images refused"]) >= len(BAD), "OK after the errors"
        )
        assert [int(count) for count in refused] == sorted(int(count) for count in refused)
        assert recovered.values["state"] == "active"
        assert "Traceback" not in node.output


def test_the_first_bad_image_of_a_kind_is_in_log_and_diagnostics(
    client: Client, log: Path, textured: Callable[..., np.ndarray]
) -> None:
    from semantic_matcher_msgs.msg import Keypoints

    keypoints = client.listen(Keypoints, f"{NAME}/keypoints")
    diagnostics = client.diagnostics()
    bad = {"the 160 x 161 image": _wrong_size, "'rgb9'": _unknown_encoding, "no area": _no_area}
    with running("temporal_matcher", log, PLAIN_SIFT) as node:
        camera = Camera(client, node, textured(160, 160, seed=2))
        for text, spoil in bad.items():

            def reported(_: int, text: str = text) -> Any:
                return next((s for s in diagnostics.of(NAME) if s.level == 2 and text in s.message), None)

            status = camera.send_until(reported, f"diagnostics with {text!r}", spoil)
            assert text in status.values["last error"]
            wait_until(lambda text=text: [line for line in errors_of(node) if text in line], f"{text!r} in the log")
        assert all(any(text in line for text in bad) for line in errors_of(node))
        assert not keypoints
        good = camera.send_until(lambda stamp: of_stamp(keypoints, stamp), "keypoints of a good image")
        assert len(good.scores) > 20
        diagnostics.wait_for(NAME, lambda s: s.level == 0 and int(s.values["images refused"]) >= 3, "OK again")
        assert "Traceback" not in node.output


def errors_of(node: NodeProcess) -> list[str]:
    """The lines of a node's log that refuse an image."""
    return [line for line in node.output.splitlines() if "[ERROR]" in line and "image refused: " in line]


@pytest.mark.parametrize("shape", [(16, 2048), (1500, 12)], ids=["a lidar's signal image", "a tall strip"])
def test_images_of_extreme_shape_have_pictures_and_results(
    client: Client, log: Path, textured: Callable[..., np.ndarray], shape: tuple[int, int]
) -> None:
    """2048 x 16 mono8 at the default height became wider than a JPEG can be, and took the descriptors along."""
    import cv2
    from semantic_matcher_msgs.msg import Descriptors, Keypoints
    from sensor_msgs.msg import CompressedImage

    pixels = np.ascontiguousarray(textured(*shape)[..., 0])
    keypoints = client.listen(Keypoints, f"{NAME}/keypoints")
    descriptors = client.listen(Descriptors, f"{NAME}/descriptors")
    pictures = client.listen(CompressedImage, f"{NAME}/debug_image/compressed")
    with running("temporal_matcher", log, PLAIN_SIFT) as node:
        camera = Camera(client, node, pixels)
        for _ in range(2):
            stamp = camera.send_until(lambda s: of_stamp(descriptors, s) and s, "descriptors")
            assert of_stamp(keypoints, stamp)
        picture = wait_until(lambda: pictures, "a picture")[-1]
        decoded = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None and max(decoded.shape[:2]) < 65500 and decoded.size < 50_000_000
        assert "ERROR" not in node.output and "Traceback" not in node.output
