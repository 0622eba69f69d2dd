"""sensor_msgs/Image and CompressedImage, made into the RGB or grey arrays that the core takes.

Any object with the message's fields will do: an rclpy message, one that rosbags read, or a dataclass. Nothing of ROS
is needed; colours are converted by ``cv_bridge`` where that works, by ``rosbags.image`` elsewhere. Neither is given
what it handles differently or not at all, so that both give the same pixels: padded rows (rosbags.image ignores the
step) and byte order, YUV (what cv_bridge knows depends on its version), and the way from 16-bit or float values to 8
bits (one truncates, the other rounds, and a generic ``16UC1`` wraps around).

How 16-bit and float images become 8-bit: see :mod:`semantic_matcher_core.io.intensity`. The usual scales:

    ==================================  ==========  =====================================================
    encoding                            full scale  reason
    ==================================  ==========  =====================================================
    mono16, rgb16, bayer_*16, 16UC3 …   65536       intensity over the full range, the same as ``>> 8``
    16UC1                               10000       depth in millimetres (REP 118), white from 10 m on
    32FC1                               10.0        depth in metres (REP 118), white from 10 m on
    ==================================  ==========  =====================================================

In ``32FC1``, NaN and -inf (no measurement, too close: REP 117) become 0, and +inf (too far) becomes 255.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError, MissingPackageError
from semantic_matcher_core.io.decoding import decode
from semantic_matcher_core.io.intensity import FULL_SCALE_16, to_8_bit

Converter = Callable[[np.ndarray, str, str], np.ndarray]

_FULL_SCALE_DEPTH_MM = 10_000.0
_FULL_SCALE_DEPTH_M = 10.0


@dataclass(frozen=True)
class _Encoding:
    """How the bytes of one encoding are laid out, and what they become.

    Attributes:
        dtype: type of one sample.
        samples: samples per pixel in a row.
        target: encoding that the conversion library is asked for; "" where the samples are grey already.
        source: encoding that the conversion library is told; "" for the message's own.
        full_scale: value that becomes white; ``None`` for 8-bit samples.
        yuv: OpenCV's conversion to RGB where the samples are YUV, else ``None``; the width is even then.
        chroma_plane: chroma lies in a plane of half the height below the luma; the height is even then.
    """

    dtype: str
    samples: int
    target: str = ""
    source: str = ""
    full_scale: float | None = None
    yuv: int | None = None
    chroma_plane: bool = False


def _encodings() -> dict[str, _Encoding]:
    mono8 = _Encoding("u1", 1)
    mono16 = _Encoding("u2", 1, full_scale=FULL_SCALE_16)
    table = {
        "mono8": mono8,
        "8UC1": mono8,
        # OpenCV's type names say nothing of colour; what sends them has the channels in OpenCV's order.
        "8UC3": _Encoding("u1", 3, "rgb8", source="bgr8"),
        "8UC4": _Encoding("u1", 4, "rgb8", source="bgra8"),
        "mono16": mono16,
        "16UC1": replace(mono16, full_scale=_FULL_SCALE_DEPTH_MM),
        "16UC3": _Encoding("u2", 3, "rgb16", source="bgr16", full_scale=FULL_SCALE_16),
        "32FC1": _Encoding("f4", 1, full_scale=_FULL_SCALE_DEPTH_M),
        "nv12": replace(mono8, yuv=cv2.COLOR_YUV2RGB_NV12, chroma_plane=True),
        "nv21": replace(mono8, yuv=cv2.COLOR_YUV2RGB_NV21, chroma_plane=True),
        "uyvy": _Encoding("u1", 2, yuv=cv2.COLOR_YUV2RGB_UYVY),
        "yuyv": _Encoding("u1", 2, yuv=cv2.COLOR_YUV2RGB_YUY2),
    }
    for name, samples in {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}.items():
        table[f"{name}8"] = _Encoding("u1", samples, "rgb8")
        table[f"{name}16"] = _Encoding("u2", samples, "rgb16", full_scale=FULL_SCALE_16)
    for pattern in ("rggb", "bggr", "gbrg", "grbg"):
        table[f"bayer_{pattern}8"] = _Encoding("u1", 1, "rgb8")
        table[f"bayer_{pattern}16"] = _Encoding("u2", 1, "rgb16", full_scale=FULL_SCALE_16)
    table["yuv422"] = table["uyvy"]
    table["yuv422_yuy2"] = table["yuyv"]
    return table


_ENCODINGS = _encodings()
ENCODINGS: tuple[str, ...] = tuple(sorted(_ENCODINGS))
"""Image encodings that :func:`image_to_rgb` takes."""


def image_to_rgb(message: Any, *, full_scale: float | None = None, copy: bool = True) -> np.ndarray:
    """Return the pixels of a sensor_msgs/Image as ``H x W x 3`` uint8 RGB, or ``H x W`` uint8 for one-channel
    encodings.

    Args:
        message: ``height``, ``width``, ``encoding``, ``is_bigendian``, ``step`` and ``data`` (bytes, array, list or
            uint8 ndarray). Rows may be padded to any step.
        full_scale: value of 16-bit or float samples that becomes white; ``None`` for the encoding's own (see the
            module's table), or less where the image fills less. Of no effect on 8-bit encodings.
        copy: ``False`` lets the array share the message's memory where that holds RGB or grey already; it may be
            read-only then. For who keeps no message and writes to no image.

    Returns:
        A writable array of its own, independent of the message, unless ``copy`` is ``False``.

    Raises:
        ImageError: unknown encoding, zero area, a step too small for a row, or a wrong amount of data.
        ConfigError: ``full_scale`` is not a positive number.
    """
    encoding = _encoding_of(str(message.encoding))
    samples = _samples(message, encoding, copy)
    if encoding.yuv is not None:
        return cv2.cvtColor(samples, encoding.yuv)
    name = str(message.encoding)
    return _to_8_bit(_to_rgb(samples, name, encoding), name, encoding, full_scale)


def one_channel(
    message: Any, name: str = "image", encodings: tuple[str, ...] = ("mono8", "8UC1", "mono16", "16UC1")
) -> np.ndarray:
    """Return the numbers of a sensor_msgs/Image of one channel as they are, ``H x W``.

    Args:
        message: as for :func:`image_to_rgb`.
        name: how errors call it.
        encodings: those that will do, of one channel each.

    Raises:
        ImageError: another encoding, or data that do not fit it.
    """
    described = str(message.encoding)
    if described not in encodings:
        raise ImageError(f"{name} is of encoding {described!r}; expected one of {', '.join(encodings)}")
    try:
        return _samples(message, _ENCODINGS[described], copy=True)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def compressed_to_rgb(message: Any, *, full_scale: float | None = None) -> np.ndarray:
    """Return the pixels of a sensor_msgs/CompressedImage, as :func:`image_to_rgb` gives them.

    Args:
        message: ``format`` (``"jpeg"``, ``"png"``, or as image_transport writes it, ``"rgb8; jpeg compressed bgr8"``)
            and ``data``. What the data is, JPEG, PNG or another format that OpenCV reads, is told from the data; the
            encoding named in ``format`` says how 16-bit samples are scaled and whether one channel is a Bayer mosaic.
        full_scale: as in :func:`image_to_rgb`.

    Raises:
        ImageError: the data is empty or no image, or is of the depth transport (``compressedDepth``).
        ConfigError: ``full_scale`` is not a positive number.
    """
    described = str(message.format)
    encoding_name, _, codec = (part.strip() for part in described.partition(";"))
    if "compresseddepth" in described.lower():
        raise ImageError(
            f"compressed image format {described!r} is of the depth transport, whose data starts with a header of its "
            "own and is no JPEG or PNG file; subscribe to the raw image instead"
        )
    # Flags that keep 16 bits, and that leave pixels where the calibration has them whatever EXIF says.
    pixels = decode(_bytes_of(message.data), cv2.IMREAD_UNCHANGED, f"the compressed image ({described!r})")
    depth = {"uint8": "8", "uint16": "16"}.get(pixels.dtype.name)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if depth is None or channels not in (1, 3, 4):
        raise ImageError(
            f"the compressed image decodes to {channels} x {pixels.dtype}, expected 1, 3 or 4 x 8 or 16 bits"
        )
    if channels == 1:
        # A mosaic, or depth, that was compressed as it is.
        known = encoding_name in (f"bayer_{p}{depth}" for p in ("rggb", "bggr", "gbrg", "grbg")) or (
            encoding_name == "16UC1" and depth == "16"
        )
        name = encoding_name if known else f"mono{depth}"
    else:
        # image_transport names what it handed to the encoder: "compressed rgb8" is RGB written as if it were BGR.
        order = "rgb" if codec.partition("compressed")[2].strip().startswith("rgb") else "bgr"
        name = f"{order}{'a' if channels == 4 else ''}{depth}"
    encoding = _ENCODINGS[name]
    return _to_8_bit(_to_rgb(np.ascontiguousarray(pixels), name, encoding), name, encoding, full_scale)


def conversion_library() -> str:
    """Return what converts colours here: ``"cv_bridge"`` or ``"rosbags-image"``; imported by then, as threads must find
    it.

    Raises:
        MissingPackageError: neither is installed.
    """
    _converter()
    return "cv_bridge" if _cv_bridge_works() else "rosbags-image"


@lru_cache(maxsize=1)
def _converter() -> Converter:
    return _cv_bridge_converter() if _cv_bridge_works() else _rosbags_converter()


@lru_cache(maxsize=1)
def _cv_bridge_works() -> bool:
    """Return whether cv_bridge is here and converts.

    One built for NumPy 1 still imports beside NumPy 2, and ends the process with a segmentation fault at its first
    image: so its first image is converted in a process of its own.
    """
    if importlib.util.find_spec("cv_bridge") is None:
        return False
    code = (
        "import numpy, sys; from cv_bridge import CvBridge; from types import SimpleNamespace; "
        "image = SimpleNamespace(height=1, width=1, encoding='bgr8', is_bigendian=0, step=3, data=bytes([1, 2, 3])); "
        "sys.exit(CvBridge().imgmsg_to_cv2(image, 'rgb8').tolist() != [[[3, 2, 1]]])"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


def _cv_bridge_converter() -> Converter:
    from cv_bridge import CvBridge

    bridge = CvBridge()
    return lambda pixels, source, target: bridge.imgmsg_to_cv2(_tight_message(pixels, source), target)


def _rosbags_converter() -> Converter:
    try:
        from rosbags.image import image_to_cvimage
    except ImportError as error:
        raise MissingPackageError(
            "converting ROS images needs cv_bridge (from a ROS installation) or rosbags-image, neither installed here: "
            "pip install rosbags-image"
        ) from error
    return lambda pixels, source, target: image_to_cvimage(_tight_message(pixels, source), target)


def _tight_message(pixels: np.ndarray, encoding: str) -> Any:
    """Return an Image without padding and in this machine's byte order: what every library reads the same way."""
    height, width = pixels.shape[:2]
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"),
        step=pixels.strides[0],
        data=pixels.reshape(-1).view(np.uint8),
    )


def _encoding_of(name: str) -> _Encoding:
    if name not in _ENCODINGS:
        raise ImageError(f"unknown image encoding {name!r}; known are {', '.join(ENCODINGS)}")
    return _ENCODINGS[name]


def _bytes_of(data: Any) -> np.ndarray:
    """Return the field ``data`` as flat uint8, without a copy where its memory is one block."""
    if isinstance(data, (list, tuple)):
        try:
            data = bytes(data)
        except (TypeError, ValueError) as error:
            raise ImageError(f"image data must be bytes: {error}") from error
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8:
            raise ImageError(f"image data must be uint8, got an array of {data.dtype}")
        return np.ascontiguousarray(data).reshape(-1)
    try:
        return np.frombuffer(data, dtype=np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise ImageError(f"image data must be bytes, an array or an ndarray, got {type(data).__name__}") from error


def _samples(message: Any, encoding: _Encoding, copy: bool) -> np.ndarray:
    """Return rows without padding, in this machine's byte order: ``H x W`` or ``H x W x samples``; ``copy``: of its
    own.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    what = f"{width} x {height} image of encoding {str(message.encoding)!r}"
    if height <= 0 or width <= 0:
        raise ImageError(f"the {what} has no area")
    if encoding.yuv is not None and width % 2:
        raise ImageError(f"the {what} has an odd width, but two pixels of a row share their chroma in it")
    if encoding.chroma_plane and height % 2:
        raise ImageError(f"the {what} has an odd height, but two rows share their chroma in it")
    dtype = np.dtype(encoding.dtype).newbyteorder(">" if message.is_bigendian else "<")
    row = width * encoding.samples * dtype.itemsize
    rows = height + height // 2 if encoding.chroma_plane else height
    if step < row:
        raise ImageError(f"the {what} has a step of {step} bytes, but a row takes {row}")
    data = _bytes_of(message.data)
    # The last row's padding may be left out.
    least, most = step * (rows - 1) + row, step * rows
    if not least <= data.size <= most:
        expected = str(most) if least == most else f"{least} to {most}"
        raise ImageError(f"the {what} and step {step} holds {data.size} bytes, expected {expected}")
    if step == row and not copy:
        tight = data.reshape(rows, row)
    else:
        # A copy also of rows without padding: the message's memory belongs to the message.
        tight = np.array(np.lib.stride_tricks.as_strided(data, (rows, row), (step, 1), writeable=False), order="C")
    samples = tight.view(dtype).astype(dtype.newbyteorder("="), copy=False)
    return samples if encoding.samples == 1 else samples.reshape(rows, width, encoding.samples)


def _to_rgb(samples: np.ndarray, name: str, encoding: _Encoding) -> np.ndarray:
    source = encoding.source or name
    if not encoding.target or source == encoding.target:
        return samples
    return _converter()(samples, source, encoding.target)


def _to_8_bit(pixels: np.ndarray, name: str, encoding: _Encoding, full_scale: float | None) -> np.ndarray:
    if full_scale is not None and not full_scale > 0:
        raise ConfigError(f"full_scale must be a positive number, got {full_scale!r}")
    if encoding.full_scale is None:
        return pixels
    return to_8_bit(pixels, encoding.full_scale, full_scale, f"{name} images")
