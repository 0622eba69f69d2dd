"""Depth image files in metres."""

from __future__ import annotations

import io
from pathlib import Path
from tokenize import TokenError

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.io.decoding import decode
from semantic_matcher_core.io.images import read_bytes


def read_depth(path: str | Path, *, units_per_metre: float = 1000.0) -> np.ndarray:
    """Return ``H x W`` float32 metres; 0 (or what the file has there: NaN, infinity) means no measurement.

    Args:
        path: a 16-bit image of whole units (PNG, TIFF, PGM), or metres in floating point (TIFF, or NumPy's ``.npy``).
        units_per_metre: of 16-bit values: 1000 for millimetres (ROS, Kinect, ScanNet), 5000 for the TUM data sets.

    Raises:
        ImageError: there is no such file, or it is no depth image.
        ConfigError: ``units_per_metre`` is not above 0.
    """
    if not units_per_metre > 0:
        raise ConfigError(f"units_per_metre must be above 0, got {units_per_metre}")
    depth = read_stored_depth(path)
    return depth.astype(np.float32) / (units_per_metre if depth.dtype == np.uint16 else 1.0)


def read_stored_depth(path: str | Path) -> np.ndarray:
    """Read ``H x W`` depth as it is stored: uint16 of a unit that the file does not tell, or floats in metres.

    Raises:
        ImageError: there is no such file, or it is no depth image.
    """
    path = Path(path)
    data = read_bytes(path, "depth")
    if path.suffix.lower() == ".npy":
        depth = _array(path, data)
    else:
        depth = decode(data, cv2.IMREAD_UNCHANGED, str(path))
    if depth.ndim != 2 or 0 in depth.shape or depth.dtype not in (np.uint16, np.float32, np.float64):
        raise ImageError(
            f"{path} is {depth.shape} {depth.dtype}; a depth image has one channel of 16 bits, or of metres in floats"
        )
    return depth


def _array(path: Path, data: bytes) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError, TokenError) as error:
        raise ImageError(f"cannot read depth {path}: {str(error).strip().splitlines()[-1]}") from error
    if not isinstance(array, np.ndarray):
        raise ImageError(f"cannot read depth {path}: it is an archive of several arrays (.npz), not one")
    return array
