"""Images that the demo plays: a video, a folder of images, or the images of a bag. No ROS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from semantic_matcher.demo.errors import DemoError
from semantic_matcher_core.io.bags import BAG_SUFFIXES, BagReader, load_libraries
from semantic_matcher_core.io.images import is_image_file, list_images, read_image
from semantic_matcher_core.io.video import read_video, video_info

Frame = tuple[float, np.ndarray]
"""Seconds since the first frame, and ``H x W x 3`` uint8 RGB."""


@dataclass(frozen=True)
class Source:
    """Something to play.

    Attributes:
        description: what it is, in words.
        count: frames it has, or ``None`` where that is not known beforehand.
        frames: yields the frames.
    """

    description: str
    count: int | None
    frames: Callable[[], Iterator[Frame]]


def open_source(path: Path, topic: str | None = None, rate: float | None = None) -> Source:
    """Return what to play from a path.

    Args:
        path: a video file, a folder of images, a rosbag2 folder, or a ``.mcap``, ``.db3`` or ROS 1 ``.bag`` file.
        topic: image topic of a bag; ``None`` for the one with the most images.
        rate: frames per second instead of the recording's own pace; images of a folder have 5 without it.

    Raises:
        DemoError: the path is none of these.
        SemanticMatcherError: it cannot be read.
    """
    if not path.exists():
        raise DemoError(f"there is no {path}; give a video, a folder of images, or a bag")
    if path.suffix in BAG_SUFFIXES or (path / "metadata.yaml").is_file():
        source = _bag(path, topic)
    elif topic is not None:
        raise DemoError(f"--topic {topic} has no meaning for {path}, which is no bag")
    elif path.is_dir():
        source = _folder(path)
    elif is_image_file(path):
        raise DemoError(f"{path} is one image; matching needs two or more: give the folder they are in")
    else:
        source = _video(path)
    return _paced(source, rate) if rate is not None else source


def _folder(path: Path) -> Source:
    files = list_images(path)
    if len(files) < 2:
        raise DemoError(f"{path} holds one image; matching needs two or more")

    def frames() -> Iterator[Frame]:
        for index, file in enumerate(files):
            yield index / 5.0, read_image(file)

    return Source(f"{len(files)} images of {path}", len(files), frames)


def _video(path: Path) -> Source:
    count = video_info(path).frame_count

    def frames() -> Iterator[Frame]:
        for frame in read_video(path):
            yield frame.stamp_ns * 1e-9, frame.image

    return Source(f"video {path}" + (f" of {count} frames" if count else ""), count, frames)


def _bag(path: Path, topic: str | None) -> Source:
    load_libraries()
    with BagReader(path) as bag:
        if topic is None:
            if not bag.image_topics:
                raise DemoError(f"{path} holds no images; {bag.describe_topics()}")
            chosen = max(bag.image_topics, key=lambda found: found.count)
        else:
            (chosen,) = bag.require_images([topic])
        others = [found.name for found in bag.image_topics if found.name != chosen.name]

    def frames() -> Iterator[Frame]:
        with BagReader(path) as bag:
            first = None
            for image in bag.images([chosen.name]):
                # The stamp of the image where the driver set one.
                time_ns = image.stamp_ns or image.received_ns
                first = time_ns if first is None else first
                pixels = image.decode()
                yield (time_ns - first) * 1e-9, pixels if pixels.ndim == 3 else cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)

    hint = f" (also there: {', '.join(others)}; choose with --topic)" if others else ""
    return Source(f"{chosen.count} images of {chosen.name} in {path}{hint}", chosen.count, frames)


def _paced(source: Source, rate: float) -> Source:
    def frames() -> Iterator[Frame]:
        for index, (_, image) in enumerate(source.frames()):
            yield index / rate, image

    return Source(source.description, source.count, frames)
