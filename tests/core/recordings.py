"""Recordings with known motion for tests of bags and of what is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.mcap import McapWriter
from semantic_matcher_core.io.messages import (
    CAMERA_INFO,
    compressed_image_message,
    header_message,
    image_message,
    typestore,
)

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
RECORDED_NS = 4_000_000
"""How long after its exposure an image was recorded."""
SHIFT = (3, 2)
"""A point at (x, y) of one frame lies at (x, y) + SHIFT in the next."""
DISPARITY = 7
SIZE = (120, 160)
FOCAL, BASELINE = 200.0, 0.12
"""Of rectified pairs: pixels, and metres."""


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


def camera_info(offset: float = 0.0, size: tuple[int, int] = SIZE, distortion: tuple[float, ...] = ()) -> Any:
    """A camera without distortion whose ``P[0, 3]`` is ``offset``."""
    types = typestore().types
    height, width = size
    k = np.array([FOCAL, 0, width / 2, 0, FOCAL, height / 2, 0, 0, 1])
    p = np.array([FOCAL, 0, width / 2, offset, 0, FOCAL, height / 2, 0, 0, 0, 1, 0])
    region = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    header = header_message(START_NS, "camera_optical")
    model = "plumb_bob" if distortion else ""
    return types[CAMERA_INFO](
        header, height, width, model, np.array(distortion), k, np.eye(3).reshape(-1), p, 0, 0, region
    )


def write_rectified_bag(
    path: Path, picture: np.ndarray, *, infos: bool = True, size: tuple[int, int] = SIZE, count: int = 3
) -> Path:
    """Left and right of a rectified pair, their infos before them; rows of the right one are those of the left."""
    with McapWriter(path) as writer:
        if infos:
            writer.write("/left/camera_info", camera_info(size=size), START_NS)
            writer.write("/right/camera_info", camera_info(-FOCAL * BASELINE, size), START_NS)
        for i in range(count):
            stamp = START_NS + i * PERIOD_NS
            for side, disparity in (("left", 0), ("right", DISPARITY)):
                image = image_message(view(picture, i, disparity), header_message(stamp, f"{side}_optical"))
                writer.write(f"/{side}/image_rect", image, stamp)
    return path


def messages(path: Path, topic: str) -> list[Any]:
    """Read the messages of a topic of a bag."""
    with BagReader(path) as bag:
        return [item.message for item in bag.messages([topic])]


def topics(path: Path) -> dict[str, int]:
    """Count the messages of each topic of a bag."""
    with BagReader(path) as bag:
        return {topic.name: topic.count for topic in bag.topics}
