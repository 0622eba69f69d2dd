"""Recordings with known motion for tests of bags and of what is made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semantic_matcher_core.io.mcap import McapWriter
from semantic_matcher_core.io.messages import compressed_image_message, header_message, image_message

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
RECORDED_NS = 4_000_000
"""How long after its exposure an image was recorded."""
SHIFT = (3, 2)
"""A point at (x, y) of one frame lies at (x, y) + SHIFT in the next."""
DISPARITY = 7
SIZE = (120, 160)


def view(picture: np.ndarray, index: int, disparity: int = 0) -> np.ndarray:
    """The frame of a camera that moves over a picture; with a disparity, of the one to its right."""
    height, width = SIZE
    x, y = 200 - SHIFT[0] * index + disparity, 150 - SHIFT[1] * index
    return np.ascontiguousarray(picture[y : y + height, x : x + width])


def write_camera_bag(
    path: Path,
    picture: np.ndarray,
    count: int = 8,
    *,
    stamps: list[int] | None = None,
    broken: tuple[int, ...] = (),
    compressed: bool = False,
) -> Path:
    """An MCAP file with ``/camera/image``; ``stamps`` are the frames' own, ``broken`` ones do not decode."""
    with McapWriter(path) as writer:
        for i in range(count):
            stamp = START_NS + i * PERIOD_NS if stamps is None else stamps[i]
            header = header_message(stamp, "camera_optical")
            message = (compressed_image_message if compressed else image_message)(view(picture, i), header)
            if i in broken:
                message.data = message.data[:100]
            topic = "/camera/image/compressed" if compressed else "/camera/image"
            writer.write(topic, message, START_NS + i * PERIOD_NS + RECORDED_NS)
    return path


def write_stereo_bag(
    path: Path, picture: np.ndarray, count: int = 5, *, offset_ns: int = 0, missing: tuple[int, ...] = ()
) -> Path:
    """An MCAP file with ``/left/image`` and ``/right/image``, right ``offset_ns`` later; some right images missing."""
    with McapWriter(path) as writer:
        for i in range(count):
            stamp = START_NS + i * PERIOD_NS
            left = image_message(view(picture, i), header_message(stamp, "left_optical"))
            writer.write("/left/image", left, stamp + RECORDED_NS)
            if i not in missing:
                right = image_message(view(picture, i, DISPARITY), header_message(stamp + offset_ns, "right_optical"))
                writer.write("/right/image", right, stamp + offset_ns + RECORDED_NS)
    return path
