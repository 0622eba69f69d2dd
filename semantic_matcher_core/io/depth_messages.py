"""Depth images as ROS has them: sensor_msgs/Image, and CompressedImage of the depth transport."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io.decoding import decode

_TYPES = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
# compressed_depth_image_transport puts the kind of compression and two numbers of the quantisation before its PNG.
_HEADER = struct.Struct("<iff")
_PNG = b"\x89PNG"


def depth_of(message: Any) -> np.ndarray:
    """Read the ``H x W`` depth of an image message: uint16 millimetres, or float32 metres (REP-118).

    Args:
        message: a sensor_msgs/Image (``16UC1``, ``mono16``, ``32FC1``), or a CompressedImage of the transports
            ``compressedDepth`` (PNG) and ``compressed`` (16-bit PNG).

    Raises:
        ImageError: another encoding, or less data than its size says.
    """
    if not hasattr(message, "encoding"):
        return _decompressed(str(message.format), bytes(message.data))
    kind = _TYPES.get(message.encoding)
    if kind is None:
        raise ImageError(f"depth of encoding {message.encoding!r}; expected 16UC1 (millimetres) or 32FC1 (metres)")
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    width = message.width * dtype.itemsize
    step = message.step or width
    if step < width or len(message.data) < step * message.height or not message.height:
        raise ImageError(
            f"depth of {message.width} x {message.height} {message.encoding} with {len(message.data)} bytes in rows of "
            f"{step}: its data do not fit its size"
        )
    rows = np.frombuffer(message.data, np.uint8, step * message.height).reshape(message.height, step)
    values = np.ascontiguousarray(rows[:, :width]).view(dtype)
    return values.astype(dtype.newbyteorder("="))


def _decompressed(described: str, data: bytes) -> np.ndarray:
    encoding = described.partition(";")[0].strip()
    transport = "compresseddepth" in described.lower()
    what = f"the compressed depth ({described!r})"
    start = _HEADER.size if transport else 0
    if data[start : start + 4] != _PNG:
        raise ImageError(
            f"{what} is no PNG; depth compressed otherwise (RVL, JPEG) is not read: record it raw, or as PNG"
        )
    values = decode(np.frombuffer(data, np.uint8)[start:], cv2.IMREAD_UNCHANGED, what)
    if values.ndim != 2 or values.dtype != np.uint16:
        raise ImageError(f"{what} holds {values.shape} {values.dtype}; expected one channel of 16 bits")
    if not transport or encoding != "32FC1":
        return values
    # Metres became 16 bits in inverse depth: a / z + b.
    _, quantum, offset = _HEADER.unpack_from(data)
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = np.float32(quantum) / (values.astype(np.float32) - np.float32(offset))
    return np.where(values > 0, metres, np.nan).astype(np.float32)
