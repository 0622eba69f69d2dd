"""Where recorded images come from: bags, videos, image files. Pixels are decoded when they are asked for."""

from __future__ import annotations

import hashlib
import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.io.bag_files import bag_files
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.depth import read_stored_depth
from semantic_matcher_core.io.exif import Exif, read_exif
from semantic_matcher_core.io.images import read_bytes, read_image
from semantic_matcher_core.io.names import readable
from semantic_matcher_core.io.video import VideoFrame, read_video, video_info

_DIGEST_BYTES = 1 << 20
# The least number that is taken for (nano-, micro-, milli-) seconds since the epoch, and the unit in nanoseconds.
_UNITS = ((10**17, 1), (10**14, 1_000), (10**11, 1_000_000))
# Of builtin_interfaces/Time: 31 bits of seconds.
_STAMP_END = 2**31 * 1_000_000_000
_MOST_FPS = 1e9


@dataclass(frozen=True, eq=False)
class SourceImage:
    """One recorded image.

    Attributes:
        index: its number within the source, over all streams, from 0.
        stream: the topic, or what a video or folder is called.
        name: a relative file name, unique within the source.
        stamp_ns: time of exposure, nanoseconds.
        received_ns: time of recording, nanoseconds.
        frame_id: coordinate frame of the camera, or "".
        decode: gives the ``H x W x 3`` or ``H x W`` uint8 RGB pixels; raises ImageError where it cannot.
        encoded: (format, data) of a sensor_msgs/CompressedImage that was recorded as JPEG or PNG, or ``None``.
        error: why nothing is known of it, not even its stamp; "" for an image that is worth decoding.
        stored_name: what a stored (reference) image is called; "" for recorded ones.
        camera: what took it: images of one name (and size) share their intrinsics; "" for the stream's own.
        exif: gives what its file says of it; how it was turned by ``decode``, above all.
    """

    index: int
    stream: str
    name: str
    stamp_ns: int
    received_ns: int
    frame_id: str
    decode: Callable[[], np.ndarray]
    encoded: tuple[str, Any] | None = None
    error: str = ""
    stored_name: str = ""
    camera: str = ""
    exif: Callable[[], Exif] = Exif


class ImageSource(ABC):
    """Recorded images of one or several streams, in the order of their recording; the same at every reading.

    Attributes:
        path: what it is called in messages.
        streams: names of its streams.
        depth: name of the stream of depth that belongs to the images of the only other one; "" for none. Its images
            come among the others and decode to depth: uint16 of a unit of its own, or float metres.
        total: how many images it holds, or ``None`` where that is not known before reading.
        problems: what is missing of the recording, as far as it was seen by now, one sentence each.
    """

    path: Path
    streams: tuple[str, ...]
    depth: str = ""
    total: int | None

    def __init__(self) -> None:
        self.problems: list[str] = []

    def note_problem(self, text: str) -> None:
        """Keep a sentence about what is missing; once, however often the recording is read."""
        if text not in self.problems:
            self.problems.append(text)

    @abstractmethod
    def images(self) -> Iterator[SourceImage]:
        """Return the images.

        Raises:
            BagError, ImageError: the recording is damaged.
        """

    def digest(self) -> str:
        """Return a hash that tells this recording from others, without reading all of it."""
        return _digest(self.files())

    def files(self) -> list[Path]:
        """Return the files that are read."""
        return []

    def settings(self) -> dict[str, Any]:
        """Return everything else that decides which images come, with which stamps and pixels (JSON)."""
        return {}

    def calibration(self, stream: str) -> Any:
        """Return the sensor_msgs/CameraInfo recorded with a stream, or ``None``."""
        return None


class BagSource(ImageSource):
    """Image topics of a bag.

    Args:
        path: see :class:`~semantic_matcher_core.io.bags.BagReader`.
        topics: image topics; none for the bag's only one.
        depth: topic of the depth registered to the images: Image of 16UC1 or 32FC1, or compressedDepth.
        full_scale: value of 16-bit and float images that becomes white; ``None`` for what fits them.

    Raises:
        BagError: no such bag or topic, no images in it, or a choice is needed; the message lists the topics.
        ConfigError: depth is named as the topic of the images.
    """

    def __init__(
        self, path: Path, topics: Sequence[str] = (), *, depth: str = "", full_scale: float | None = None
    ) -> None:
        super().__init__()
        self.path = path
        self._full_scale = full_scale
        with BagReader(path, report=self.note_problem) as bag:
            depths = bag.require_images([depth]) if depth else []
            found = bag.require_images(topics) if topics else [bag.only_image_topic([t.name for t in depths])]
        self.streams = tuple(topic.name for topic in found)
        self.depth = depths[0].name if depths else ""
        if depths and self.depth in self.streams:
            raise ConfigError(f"{self.depth} is the topic of the images and of their depth; name two topics")
        self.total = sum(topic.count for topic in [*found, *depths])

    def images(self) -> Iterator[SourceImage]:
        with BagReader(self.path, report=self.note_problem) as bag:
            topics = [*self.streams, *([self.depth] if self.depth else [])]
            for index, image in enumerate(bag.images(topics)):
                decode = partial(image.decode, full_scale=self._full_scale)
                is_png = image.encoded is not None and bytes(image.encoded[1][:4]) == b"\x89PNG"
                name = f"{image.topic.strip('/')}/{image.index:06d}.{'png' if is_png else 'jpg'}"
                yield SourceImage(
                    index,
                    image.topic,
                    name,
                    image.stamp_ns,
                    image.received_ns,
                    image.frame_id,
                    image.depth if self.depth and image.topic == self.depth else decode,
                    image.encoded,
                    image.error and f"image {image.index} of {image.topic}: {image.error}",
                )

    def files(self) -> list[Path]:
        return bag_files(self.path, lambda _: None)[0]

    def settings(self) -> dict[str, Any]:
        return {"full_scale": self._full_scale, **({"depth": self.depth} if self.depth else {})}

    def calibration(self, stream: str) -> Any:
        with BagReader(self.path, report=self.note_problem) as bag:
            return bag.camera_info(stream)


class VideoSource(ImageSource):
    """One video, or a left and a right one that started together.

    Args:
        paths: the videos; the streams are called ``video``, or ``left`` and ``right``.
        every: take each ``every``-th frame.

    Raises:
        ImageError: no such file, or no video.
        ConfigError: neither one nor two videos.
    """

    def __init__(self, paths: Sequence[Path], every: int = 1) -> None:
        super().__init__()
        self._files = dict(zip(_stream_names("video", paths), paths, strict=True))
        self._every = every
        self.path = paths[0]
        self.streams = tuple(self._files)
        counts = [video_info(path).frame_count for path in paths]
        self.total = None if None in counts else sum(-(-(count or 0) // every) for count in counts)

    def images(self) -> Iterator[SourceImage]:
        readers = [
            map(partial(_named_frame, stream), read_video(path, every=self._every, report=self.note_problem))
            for stream, path in self._files.items()
        ]
        # Left before right where both have the same stamp: merge keeps the order of its arguments.
        merged = heapq.merge(*readers, key=lambda image: image.stamp_ns)
        return (replace(image, index=index) for index, image in enumerate(merged))

    def files(self) -> list[Path]:
        return list(self._files.values())

    def settings(self) -> dict[str, Any]:
        return {"every": self._every}


class FilesSource(ImageSource):
    """Image files in a given order, or a left and a right sequence of as many.

    Args:
        sequences: one or two lists of (name, path); the streams are called ``images``, or ``left`` and ``right``. Names
            are paths below one folder, which is COLMAP's image folder; each folder in it is a camera of its own.
        depths: (name, path) of depth images (16-bit or floats) of the only sequence: one for each image, or with
            ``stamps_from_names`` as many as there are, which belong to the images nearest in time.
        fps: images a second, for the time stamps.
        stamps_from_names: take the stamps from the files' names instead: see :func:`stamps_in_names`.
        orientation, full_scale: see :func:`~semantic_matcher_core.io.images.read_image`.

    Raises:
        ConfigError: neither one nor two sequences, two of unlike length (or depth of another length), or a name that is
            no time stamp.
    """

    def __init__(
        self,
        sequences: Sequence[Sequence[tuple[str, Path]]],
        *,
        depths: Sequence[tuple[str, Path]] = (),
        fps: float = 10.0,
        stamps_from_names: bool = False,
        orientation: str = "exif",
        full_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.streams = tuple(_stream_names("images", sequences))
        if len({len(sequence) for sequence in sequences}) > 1:
            raise ConfigError(
                f"left has {len(sequences[0])} images and right {len(sequences[1])}; they are paired by their order"
            )
        if depths and len(sequences) > 1:
            raise ConfigError("depth belongs to the images of one sequence, and a left and a right one were given")
        if depths and len(depths) != len(sequences[0]) and not stamps_from_names:
            raise ConfigError(
                f"{len(depths)} depth images for {len(sequences[0])} images; they belong together by their order, or "
                "by the time stamps in their names (--stamps-from-names)"
            )
        if not 0 < fps <= _MOST_FPS:
            raise ConfigError(f"fps must be above 0 and at most {_MOST_FPS:g}, got {fps}: stamps are nanoseconds")
        if (len(sequences[0]) - 1) / fps >= _STAMP_END / 1e9:
            raise ConfigError(
                f"{len(sequences[0])} images at {fps:g} a second take longer than stamps can tell, 68 years"
            )
        self.path = sequences[0][0][1].parent
        self.depth = "depth" if depths else ""
        self.total = sum(len(sequence) for sequence in sequences) + len(depths)
        self._settings = {"fps": fps, "stamps_from_names": stamps_from_names, "orientation": orientation,
                          "full_scale": full_scale}  # fmt: skip
        self._paths = [path for sequence in [*sequences, depths] for _, path in sequence]
        self._names = [name for sequence in [*sequences, depths] for name, _ in sequence]
        stamps = stamps_in_names(self._paths) if stamps_from_names else {}
        # The same folder given twice: names must differ all the same.
        alike = len(set(self._names)) < len(self._names)
        self._items: list[SourceImage] = []
        for position, row in enumerate(zip(*sequences, strict=True)):
            for stream, (name, path) in zip(self.streams, row, strict=True):
                stamp = stamps.get(path, round(position / fps * 1e9))
                unique = f"{stream}/{name}" if alike else name
                decode = partial(read_image, path, orientation=orientation, full_scale=full_scale)
                camera = f"{stream} {unique.rpartition('/')[0]}".strip()
                exif = partial(_exif_of, path, orientation)
                image = SourceImage(len(self._items), stream, unique, stamp, stamp, stream, decode)
                self._items.append(replace(image, camera=camera, exif=exif))
        for position, (name, path) in enumerate(depths):
            stamp = stamps.get(path, round(position / fps * 1e9))
            decode = partial(read_stored_depth, path)
            self._items.append(SourceImage(0, self.depth, f"depth/{name}", stamp, stamp, self.depth, decode))
        if depths:
            in_time = sorted(self._items, key=lambda image: image.stamp_ns)
            self._items = [replace(image, index=index) for index, image in enumerate(in_time)]

    def images(self) -> Iterator[SourceImage]:
        return iter(self._items)

    def files(self) -> list[Path]:
        return list(self._paths)

    def settings(self) -> dict[str, Any]:
        return {**self._settings, "names": self._names}


def _exif_of(path: Path, orientation: str) -> Exif:
    found = read_exif(read_bytes(path))
    return found if orientation == "exif" else replace(found, orientation=1)


def _stream_names(single: str, given: Sequence[Any]) -> list[str]:
    if len(given) not in (1, 2):
        raise ConfigError(f"expected one sequence, or a left and a right one, got {len(given)}")
    return [single] if len(given) == 1 else ["left", "right"]


def _named_frame(stream: str, frame: VideoFrame) -> SourceImage:
    image = frame.image
    return SourceImage(
        0, stream, f"{stream}/{frame.index:06d}.jpg", frame.stamp_ns, frame.stamp_ns, stream, lambda: image
    )


def stamps_in_names(paths: Sequence[Path]) -> dict[Path, int]:
    """Return time stamps in nanoseconds of files that are named by them.

    The unit is told from the size of the largest number before the point, for all files alike: seconds since the epoch
    have up to 11 digits until the year 5138, milliseconds 12 to 14, microseconds 15 to 17, nanoseconds 18 or 19.

    Raises:
        ConfigError: a name is no number, or no time that a message can hold; it says which names are.
    """
    parts = {}
    for path in paths:
        whole, _, fraction = path.stem.partition(".")
        if not (_is_number(whole) and (not fraction or _is_number(fraction))):
            raise ConfigError(
                f"{readable(path.name)} is named by no time stamp: expected a number of seconds "
                "(1311868169.163498.png), milliseconds, microseconds or nanoseconds (1403636579763555584.png)"
            )
        parts[path] = (int(whole), fraction)
    largest = max((whole for whole, _ in parts.values()), default=0)
    unit = next((unit for least, unit in _UNITS if largest >= least), 1_000_000_000)
    digits = len(str(unit)) - 1
    # Not through a float: it has too few digits for nanoseconds since the epoch.
    stamps = {
        path: whole * unit + int(f"{fraction:0<{digits}.{digits}}" or 0) for path, (whole, fraction) in parts.items()
    }
    for path, stamp in stamps.items():
        if stamp >= _STAMP_END:
            raise ConfigError(
                f"{readable(path.name)} is no time stamp that a message can hold: it is after the year 2038"
            )
    return stamps


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _digest(files: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        try:
            size = path.stat().st_size
            total.update(f"{readable(path.name)}\0{size}\0".encode())
            with path.open("rb") as file:
                total.update(file.read(_DIGEST_BYTES))
                file.seek(max(0, size - _DIGEST_BYTES))
                total.update(file.read(_DIGEST_BYTES))
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    return total.hexdigest()
