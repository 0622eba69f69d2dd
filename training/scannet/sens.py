"""Reading ScanNet's ``.sens`` recordings as a stream: one frame in memory, those not asked for skipped unread."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from training.errors import DataError

VERSION = 4
COLOUR_COMPRESSION = {0: "raw", 1: "png", 2: "jpeg"}
DEPTH_COMPRESSION = {0: "raw_ushort", 1: "zlib_ushort", 2: "occi_ushort"}
_FRAME_HEADER = struct.Struct("<16f4Q")
# No colour image or depth map of any ScanNet sensor comes near this; a larger size means a damaged file.
_LARGEST_BYTES = 1 << 28


@dataclass(frozen=True)
class SensHeader:
    """What holds for a whole recording.

    Attributes:
        sensor: its name.
        intrinsic_colour, extrinsic_colour, intrinsic_depth, extrinsic_depth: ``4 x 4`` float32.
        colour_compression, depth_compression: names as in the format's description.
        colour_size, depth_size: ``(height, width)`` pixels.
        depth_shift: depth units in a metre (1000: millimetres).
        frames: how many.
    """

    sensor: str
    intrinsic_colour: np.ndarray
    extrinsic_colour: np.ndarray
    intrinsic_depth: np.ndarray
    extrinsic_depth: np.ndarray
    colour_compression: str
    depth_compression: str
    colour_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_shift: float
    frames: int


@dataclass(frozen=True)
class SensFrame:
    """One frame, still compressed.

    Attributes:
        index: in the recording, from 0.
        pose: ``4 x 4`` float32 camera to world, metres; all minus infinity where tracking was lost.
        time_colour, time_depth: the sensor's time stamps.
        colour, depth: compressed bytes.
    """

    index: int
    pose: np.ndarray
    time_colour: int
    time_depth: int
    colour: bytes
    depth: bytes


class SensFile:
    """A recording, open for reading: ``with SensFile(path) as sens: for frame in sens.frames(every=15): …``

    Raises:
        DataError: not a ``.sens`` file of version 4, or truncated.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file: BinaryIO = open(self.path, "rb")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise DataError(f"{self.path} cannot be opened: {error.strerror}") from error
        try:
            self.header = self._read_header()
            self._first_frame = self._file.tell()
        except DataError:
            self._file.close()
            raise

    def __enter__(self) -> SensFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def frames(self, every: int = 1) -> Iterator[SensFrame]:
        """Yield every ``every``-th frame, from the first.

        Raises:
            DataError: the file ends before its last frame.
        """
        self._file.seek(self._first_frame)
        end = self.path.stat().st_size
        for index in range(self.header.frames):
            values = _FRAME_HEADER.unpack(self._exactly(_FRAME_HEADER.size, f"frame {index}"))
            time_colour, time_depth, colour_bytes, depth_bytes = values[16:]
            if max(colour_bytes, depth_bytes) > _LARGEST_BYTES or self._file.tell() + colour_bytes + depth_bytes > end:
                raise self._truncated(f"frame {index} of {self.header.frames}")
            if index % every:
                self._file.seek(colour_bytes + depth_bytes, 1)
                continue
            yield SensFrame(
                index,
                np.array(values[:16], dtype=np.float32).reshape(4, 4),
                time_colour,
                time_depth,
                self._exactly(colour_bytes, f"colour of frame {index}"),
                self._exactly(depth_bytes, f"depth of frame {index}"),
            )

    def colour(self, frame: SensFrame) -> np.ndarray:
        """Return ``H x W x 3`` uint8 RGB."""
        height, width = self.header.colour_size
        if self.header.colour_compression == "raw":
            if len(frame.colour) != height * width * 3:
                raise DataError(f"{self.path}: raw colour of frame {frame.index} is {len(frame.colour)} bytes")
            return np.frombuffer(frame.colour, np.uint8).reshape(height, width, 3)
        image = cv2.imdecode(np.frombuffer(frame.colour, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"{self.path}: colour of frame {frame.index} is no {self.header.colour_compression} image")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def depth(self, frame: SensFrame) -> np.ndarray:
        """Return ``H x W`` uint16 in units of ``1 / depth_shift`` metres; 0 where nothing was measured."""
        if self.header.depth_compression == "occi_ushort":
            raise DataError(f"{self.path}: occi depth compression is not used by ScanNet and not supported")
        data = frame.depth
        if self.header.depth_compression == "zlib_ushort":
            try:
                data = zlib.decompress(data)
            except zlib.error as error:
                raise DataError(f"{self.path}: depth of frame {frame.index} is damaged: {error}") from error
        height, width = self.header.depth_size
        if len(data) != height * width * 2:
            raise DataError(
                f"{self.path}: depth of frame {frame.index} is {len(data)} bytes, expected {height} x {width} uint16"
            )
        return np.frombuffer(data, "<u2").reshape(height, width)

    def _read_header(self) -> SensHeader:
        (version,) = self._values("<I", "version")
        if version != VERSION:
            raise DataError(f"{self.path} is no .sens file of version {VERSION} (it starts with {version})")
        (length,) = self._values("<Q", "sensor name")
        if length > 1 << 16:
            raise DataError(f"{self.path} is damaged: a sensor name of {length} bytes")
        sensor = self._exactly(length, "sensor name").decode("utf-8", errors="replace")
        matrices = [np.array(self._values("<16f", "matrices"), np.float32).reshape(4, 4) for _ in range(4)]
        colour, depth = self._values("<2i", "compression")
        if colour not in COLOUR_COMPRESSION or depth not in DEPTH_COMPRESSION:
            raise DataError(f"{self.path}: unknown compression types {colour} (colour) and {depth} (depth)")
        colour_width, colour_height, depth_width, depth_height = self._values("<4I", "sizes")
        (shift,) = self._values("<f", "depth shift")
        (frames,) = self._values("<Q", "frame count")
        return SensHeader(
            sensor,
            matrices[0],
            matrices[1],
            matrices[2],
            matrices[3],
            COLOUR_COMPRESSION[colour],
            DEPTH_COMPRESSION[depth],
            (colour_height, colour_width),
            (depth_height, depth_width),
            shift,
            frames,
        )

    def _values(self, layout: str, what: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self._exactly(struct.calcsize(layout), what))

    def _exactly(self, count: int, what: str) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise self._truncated(what)
        return data

    def _truncated(self, where: str) -> DataError:
        return DataError(f"{self.path} is truncated: it ends within {where}; remove it and download it again")
