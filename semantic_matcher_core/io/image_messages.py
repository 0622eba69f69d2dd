"""sensor_msgs/Image and CompressedImage, made into the RGB or grey arrays that the core takes.

Any object with the message's fields will do: an rclpy message, one that rosbags read, or a dataclass. Nothing of ROS
is needed, cv_bridge included: OpenCV converts the colours, so that the pixels are the same everywhere.

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

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.io.decoding import decode
from semantic_matcher_core.io.intensity import FULL_SCALE_16, to_8_bit

_FULL_SCALE_DEPTH_MM = 10_000.0
_FULL_SCALE_DEPTH_M = 10.0


@dataclass(frozen=True)
class _Encoding:
    """How the bytes of one encoding are laid out, and what they become.

    Attributes:
        dtype: type of one sample.
        samples: samples per pixel in a row.
        to_rgb: OpenCV's conversion to RGB; ``None`` where the samples are RGB or grey already.
        full_scale: value that becomes white; ``None`` for 8-bit samples.
        shared_chroma: two pixels of a row share their chroma; the width is even then.
        chroma_plane: chroma lies in a plane of half the height below the luma; the height is even then.
        full_chroma: it lies there for every pixel, in rows of twice the width.
    """

    dtype: str
    samples: int
    to_rgb: int | None = None
    full_scale: float | None = None
    shared_chroma: bool = False
    chroma_plane: bool = False
    full_chroma: bool = False


def _encodings() -> dict[str, _Encoding]:
    mono8 = _Encoding("u1", 1)
    mono16 = _Encoding("u2", 1, full_scale=FULL_SCALE_16)
    planes = replace(mono8, shared_chroma=True, chroma_plane=True)
    table = {
        "mono8": mono8,
        "8UC1": mono8,
        "mono16": mono16,
        "16UC1": replace(mono16, full_scale=_FULL_SCALE_DEPTH_MM),
        "32FC1": _Encoding("f4", 1, full_scale=_FULL_SCALE_DEPTH_M),
        "nv12": replace(planes, to_rgb=cv2.COLOR_YUV2RGB_NV12),
        "nv21": replace(planes, to_rgb=cv2.COLOR_YUV2RGB_NV21),
        "nv24": replace(mono8, to_rgb=cv2.COLOR_YUV2RGB_YUY2, full_chroma=True),
        "uyvy": _Encoding("u1", 2, cv2.COLOR_YUV2RGB_UYVY, shared_chroma=True),
        "yuyv": _Encoding("u1", 2, cv2.COLOR_YUV2RGB_YUY2, shared_chroma=True),
    }
    orders = {
        "rgb": (3, None),
        "bgr": (3, cv2.COLOR_BGR2RGB),
        "rgba": (4, cv2.COLOR_RGBA2RGB),
        "bgra": (4, cv2.COLOR_BGRA2RGB),
        # OpenCV names a pattern by the second and third pixel of its second row.
        "bayer_rggb": (1, cv2.COLOR_BayerBG2RGB),
        "bayer_bggr": (1, cv2.COLOR_BayerRG2RGB),
        "bayer_gbrg": (1, cv2.COLOR_BayerGR2RGB),
        "bayer_grbg": (1, cv2.COLOR_BayerGB2RGB),
    }
    for name, (samples, to_rgb) in orders.items():
        table[f"{name}8"] = _Encoding("u1", samples, to_rgb)
        table[f"{name}16"] = _Encoding("u2", samples, to_rgb, FULL_SCALE_16)
    # OpenCV's type names say nothing of colour; what sends them has the channels in OpenCV's order.
    names = {"8UC3": "bgr8", "8UC4": "bgra8", "16UC3": "bgr16", "yuv422": "uyvy", "yuv422_yuy2": "yuyv"}
    return table | {name: table[same] for name, same in names.items()}


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
    name = str(message.encoding)
    if name not in _ENCODINGS:
        raise ImageError(f"unknown image encoding {name!r}; known are {', '.join(ENCODINGS)}")
    return _to_rgb(_samples(message, _ENCODINGS[name], copy), name, full_scale)


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
    return _to_rgb(pixels, name, full_scale)


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
    if encoding.shared_chroma and width % 2:
        raise ImageError(f"the {what} has an odd width, but two pixels of a row share their chroma in it")
    if encoding.chroma_plane and height % 2:
        raise ImageError(f"the {what} has an odd height, but two rows share their chroma in it")
    dtype = np.dtype(encoding.dtype).newbyteorder(">" if message.is_bigendian else "<")
    row = width * encoding.samples * dtype.itemsize
    rows = height + (height // 2 if encoding.chroma_plane else 2 * height if encoding.full_chroma else 0)
    if step < row:
        raise ImageError(f"the {what} has a step of {step} bytes, but a row takes {row}")
    data = _bytes_of(message.data)
    # The last row's padding may be left out.
    least, most = step * (rows - 1) + row, step * rows
    if not least <= data.size <= most:
        expected = str(most) if least == most else f"{least} to {most}"
        raise ImageError(f"the {what} and step {step} holds {data.size} bytes, expected {expected}")
    if encoding.full_chroma:
        return _pairs(np.concatenate([data, np.zeros(most - data.size, np.uint8)]).reshape(rows, step), width)
    if step == row and not copy:
        tight: np.ndarray = data.reshape(rows, row)
    else:
        # A copy also of rows without padding: the message's memory belongs to the message.
        tight = np.array(np.lib.stride_tricks.as_strided(data, (rows, row), (step, 1), writeable=False), order="C")
    samples = tight.view(dtype).astype(dtype.newbyteorder("="), copy=False)
    return samples if encoding.samples == 1 else samples.reshape(rows, width, encoding.samples)


def _pairs(rows: np.ndarray, width: int) -> np.ndarray:
    """Return ``H x 2 W x 2``, each pixel twice as the pair that shares its chroma, of the ``3 H`` rows of luma and
    chroma, with their padding.
    """
    height, step = len(rows) // 3, rows.shape[1]
    luma = rows[:height, :width]
    # A row of chroma goes on behind what would be the padding of luma.
    chroma = rows[height:].reshape(height, 2 * step)[:, : 2 * width].reshape(height, width, 2)
    return np.stack([luma, chroma[..., 0], luma, chroma[..., 1]], axis=2).reshape(height, 2 * width, 2)


def _to_rgb(samples: np.ndarray, name: str, full_scale: float | None) -> np.ndarray:
    encoding = _ENCODINGS[name]
    if full_scale is not None and not full_scale > 0:
        raise ConfigError(f"full_scale must be a positive number, got {full_scale!r}")
    pixels = samples if encoding.to_rgb is None else cv2.cvtColor(samples, encoding.to_rgb)
    if encoding.full_chroma:
        return np.ascontiguousarray(pixels[:, ::2])
    if encoding.full_scale is None:
        return pixels
    return to_8_bit(pixels, encoding.full_scale, full_scale, f"{name} images")
