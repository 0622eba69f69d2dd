"""Video files to and from RGB frames with time stamps."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError, OutputError
from semantic_matcher_core.io.atomic import atomic_output, check_output
from semantic_matcher_core.io.names import readable

_log = logging.getLogger(__name__)
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"})
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "mp4v"}


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """One decoded frame.

    Attributes:
        index: number of the frame in the file, from 0.
        stamp_ns: presentation time from the start of the file, nanoseconds, strictly increasing.
        image: ``H x W x 3`` uint8 RGB, upright as the container says.
    """

    index: int
    stamp_ns: int
    image: np.ndarray


@dataclass(frozen=True)
class VideoInfo:
    """What the container says of itself.

    Attributes:
        frame_count: number of frames, or ``None`` where the container does not know.
        fps: frames a second, 0 where the container does not know.
        width, height: pixels of a frame.
    """

    frame_count: int | None
    fps: float
    width: int
    height: int


def video_info(path: str | Path) -> VideoInfo:
    """Read size, rate and (claimed) length of a video file.

    Raises:
        ImageError: there is no such file, or OpenCV cannot open it as a video.
    """
    capture = _open(Path(path))
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return VideoInfo(
            frame_count=count if count > 0 else None,
            fps=_fps(capture),
            width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )
    finally:
        capture.release()


def read_video(
    path: str | Path, *, every: int = 1, report: Callable[[str], None] | None = None
) -> Iterator[VideoFrame]:
    """Yield frames of a video file, in order.

    Args:
        path: a file that OpenCV's FFmpeg reads.
        every: yield each ``every``-th frame; the others are skipped without being converted.
        report: takes a sentence where fewer frames can be read than the file states; by default it becomes a warning in
            the log.

    Raises:
        ImageError: there is no such file, it is no video, or not one frame of it decodes.
        ConfigError: ``every`` is below 1.
    """
    path = Path(path)
    if every < 1:
        raise ConfigError(f"every must be a whole number from 1 up, got {every}")
    capture = _open(path)
    try:
        fps = _fps(capture)
        stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        stamp_ns, index, decoded_any, undecoded = -1, -1, False, 0
        while capture.grab():
            index += 1
            stamp_ns = _stamp(capture.get(cv2.CAP_PROP_POS_MSEC), index, fps, stamp_ns)
            if index % every:
                continue
            decoded, frame = capture.retrieve()
            if not decoded or frame is None:
                undecoded += 1
                continue
            decoded_any = True
            if frame.ndim == 2:
                frame = cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
            yield VideoFrame(index, stamp_ns, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        if not decoded_any:
            raise ImageError(f"video {path} has no frame that decodes; it is empty, cut short, or its codec is missing")
        if index + 1 < stated or undecoded:
            (report or _log.warning)(
                f"video {path} states {stated} frames, of which {index + 1 - undecoded} can be read: "
                "it is cut short, damaged, or of a frame rate that varies"
            )
    finally:
        capture.release()


class VideoWriter:
    """A video file from RGB frames of one size; it appears under its name when closed, and not at all after an error.

    Args:
        path: ``.mp4``, ``.mov``, ``.m4v``, ``.mkv`` (MPEG-4) or ``.avi`` (Motion JPEG).
        fps: frames a second, above 0.

    Raises:
        OutputError: unknown suffix, missing folder, no encoder for it in this OpenCV, or, at the end, no room for it.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in _CODECS:
            raise OutputError(
                f"cannot write {path}: unknown video suffix {self.path.suffix!r}; use {' '.join(sorted(_CODECS))}"
            )
        if not fps > 0:
            raise ConfigError(f"fps must be above 0, got {fps}")
        if readable(str(self.path)) != str(self.path):
            raise OutputError(f"cannot write {self.path}: the encoder takes names in UTF-8 only")
        check_output(self.path)
        self.fps = fps
        self._context = atomic_output(self.path)
        self._temporary: Path | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size: tuple[int, int] | None = None
        self._frames = 0

    def __enter__(self) -> VideoWriter:
        self._temporary = self._context.__enter__()
        return self

    def write(self, image: np.ndarray) -> None:
        """Append one ``H x W x 3`` uint8 RGB frame.

        Raises:
            ImageError: type or shape is wrong, or the size is not that of the first frame.
            OutputError: OpenCV has no encoder for this file.
        """
        if self._temporary is None:
            raise OutputError("VideoWriter is used outside its `with` block")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
            raise ImageError(f"expected an H x W x 3 uint8 frame, got {image.shape} {image.dtype}")
        size = (image.shape[1], image.shape[0])
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*_CODECS[self.path.suffix.lower()])
            self._writer = cv2.VideoWriter(str(self._temporary), codec, self.fps, size)
            self._size = size
            if not self._writer.isOpened():
                raise OutputError(f"cannot write {self.path}: this OpenCV has no encoder for {size[0]}x{size[1]} there")
        if size != self._size:
            raise ImageError(f"frame is {size[0]}x{size[1]}, but the video is {self._size}; resize frames first")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._frames += 1

    def __exit__(self, kind: type[BaseException] | None, *more: Any) -> None:
        temporary, self._temporary = self._temporary, None
        if self._writer is not None:
            self._writer.release()
        trouble = self._trouble(str(temporary)) if kind is None else ""
        if trouble:
            error = OutputError(f"cannot write {self.path}: {trouble}")
            self._context.__exit__(OutputError, error, None)
            raise error
        self._context.__exit__(kind, *more)

    def _trouble(self, name: str) -> str:
        """Return what is wrong with the file; OpenCV tells nobody that its encoder could not write, so it is read."""
        if self._writer is None:
            return "no frame was given"
        capture, count = cv2.VideoCapture(name), 0
        while capture.grab():
            count += 1
        capture.release()
        return f"{count} of {self._frames} frames are in it; is the disk full?" if count < self._frames else ""


def _open(path: Path) -> cv2.VideoCapture:
    if not path.is_file():
        what = "a folder, no video" if path.is_dir() else "no video" if path.exists() else ""
        raise ImageError(f"{path} is {what}" if what else f"no such video file: {path}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ImageError(f"cannot read video {path}: {error.strerror}") from error
    with _utf8_name(path) as name:
        capture = cv2.VideoCapture(name)
    if not path.stat().st_size:
        raise ImageError(f"{path} is empty (0 bytes)")
    if not capture.isOpened():
        raise ImageError(f"{path} is no video that can be read (unknown format, missing codec, cut short or damaged)")
    return capture


@contextmanager
def _utf8_name(path: Path) -> Iterator[str]:
    """Give a name that OpenCV takes: it wants UTF-8, and file systems allow more."""
    name = str(path)
    if readable(name) == name:
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / f"video{readable(path.suffix)}"
        link.symlink_to(path.absolute())
        yield str(link)


def _fps(capture: cv2.VideoCapture) -> float:
    fps = capture.get(cv2.CAP_PROP_FPS)
    return float(fps) if np.isfinite(fps) and 0 < fps < 10_000 else 0.0


def _stamp(position_ms: float, index: int, fps: float, previous_ns: int) -> int:
    # Some containers report 0 or step back; then the frame rate decides, and at worst a nanosecond keeps the order.
    stamp = round(position_ms * 1e6) if np.isfinite(position_ms) and position_ms >= 0 else -1
    if stamp <= previous_ns and fps > 0:
        stamp = round(index / fps * 1e9)
    return max(stamp, previous_ns + 1)
