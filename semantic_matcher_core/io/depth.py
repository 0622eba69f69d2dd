"""Depth image files in metres."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError


def read_depth(path: str | Path, *, units_per_metre: float = 1000.0) -> np.ndarray:
    """``H x W`` float32 metres; 0 (or what the file has there: NaN, infinity) means no measurement.

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
    if not path.is_file():
        raise ImageError(f"no such depth file: {path}")
    try:
        if path.suffix.lower() == ".npy":
            depth = np.load(path, allow_pickle=False)
        else:
            data = np.frombuffer(path.read_bytes(), np.uint8)
            depth = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except (OSError, ValueError, cv2.error) as error:
        raise ImageError(f"cannot read depth {path}: {str(error).strip().splitlines()[-1]}") from error
    if depth is None:
        raise ImageError(f"{path} is no image that can be decoded (or is damaged)")
    if depth.ndim != 2 or 0 in depth.shape or depth.dtype not in (np.uint16, np.float32, np.float64):
        raise ImageError(
            f"{path} is {depth.shape} {depth.dtype}; a depth image has one channel of 16 bits, or of metres in floats"
        )
    return depth
