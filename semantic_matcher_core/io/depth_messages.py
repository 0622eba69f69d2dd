"""Depth images as ROS has them: sensor_msgs/Image, and CompressedImage of the depth transport."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io.decoding import decode
from semantic_matcher_core.io.image_messages import one_channel

_ENCODINGS = ("16UC1", "mono16", "32FC1")
# compressed_depth_image_transport puts the kind of compression and two numbers of the quantisation before its PNG.
_HEADER = struct.Struct("<iff")
# What no depth camera sees the middle of its image at; and of how many pixels in a row and column one is looked at.
_FARTHEST_M, _NEAREST_MM, _EVERY = 200.0, 20.0, 8
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
    if message.encoding not in _ENCODINGS:
        raise ImageError(f"depth of encoding {message.encoding!r}; expected 16UC1 (millimetres) or 32FC1 (metres)")
    return one_channel(message, "depth", _ENCODINGS)


def unit_doubt(depth: np.ndarray) -> str:
    """Return why depth is hardly in the unit that its type stands for, in words; empty where it may be.

    Args:
        depth: as of :func:`depth_of`.
    """
    some = depth[::_EVERY, ::_EVERY]
    known = some[np.isfinite(some) & (some > 0)]
    if not known.size:
        return ""
    middle = float(np.median(known))
    if depth.dtype.kind == "f" and middle > _FARTHEST_M:
        return f"depth is {middle:.0f} m (median): 32FC1 is taken as metres (REP-118); millimetres are sent as 16UC1"
    if depth.dtype.kind == "u" and middle < _NEAREST_MM:
        return f"depth is {middle:.0f} mm (median): 16UC1 is taken as millimetres (REP-118); metres are sent as 32FC1"
    return ""


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
