"""Images that cannot be used are refused, with an error in log and diagnostics, and the next good one works."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, image_message, of_stamp, running, wait_until

pytestmark = pytest.mark.ros

STAMPS = itertools.count(1_700_000_000_000_000_000, 50_000_000)


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


def test_bad_images_between_good_ones(client: Client, log: Path, textured: Callable[..., np.ndarray]) -> None:
    from semantic_matcher_msgs.msg import Keypoints
    from sensor_msgs.msg import Image

    pixels = textured(160, 160, seed=2)
    keypoints = client.listen(Keypoints, "/temporal_matcher/keypoints")
    diagnostics = client.diagnostics()
    name = "/temporal_matcher"
    with running("temporal_matcher", log, PLAIN_SIFT) as node:
        camera = client.publisher(Image, "/image")

        def send_until(condition: Callable[[int], Any], what: str, spoil: Callable[[Any], None] | None = None) -> Any:
            """Send images under new stamps until ``condition(stamp)`` holds."""
            for _ in range(20):
                stamp = next(STAMPS)
                message = image_message(pixels, stamp)
                if spoil is not None:
                    spoil(message)
                camera.publish(message)
                try:
                    return wait_until(lambda s=stamp: condition(s), what, timeout=3.0)
                except AssertionError:
                    continue
            raise AssertionError(f"no {what} after 20 images:\n{node.output}")

        refused: list[str] = []
        for text, spoil in BAD.items():
            good = send_until(lambda stamp: of_stamp(keypoints, stamp), "keypoints of a good image")
            assert len(good.scores) > 20
            before = len(keypoints)

            def reported(_: int, text: str = text) -> Any:
                return next((s for s in diagnostics.of(name) if text in s.values["last error"]), None)

            status = send_until(reported, f"diagnostics with {text!r}", spoil)
            refused.append(status.values["images refused"])
            assert len(keypoints) == before
            errors = [s for s in diagnostics.of(name) if s.level == 2 and text in s.message]
            assert errors, "the level was not ERROR"
        send_until(lambda stamp: of_stamp(keypoints, stamp), "keypoints of a good image")
        # In the end all is well again, and the counter remembers.
        recovered = diagnostics.wait_for(
            name, lambda s: s.level == 0 and int(s.values["images refused"]) >= len(BAD), "OK after the errors"
        )
        assert [int(count) for count in refused] == sorted(int(count) for count in refused)
        assert recovered.values["state"] == "active"
        assert "image refused: the 160 x 161 image" in node.output
        assert "Traceback" not in node.output
