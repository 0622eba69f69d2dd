"""A map of the plane as a lattice: where points of one image, evenly spaced, lie in another.

A lattice is ``R x C x 2`` float32: row r, column c is the point ``(c (W - 1) / (C - 1), r (H - 1) / (R - 1))`` of an
``H x W`` image, and its value the (x, y) pixel in the other image. Between its points the map is bilinear.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.geometry.thin_plate import ThinPlateSpline

# Pixels of float32 rounding at coordinates of a few thousand.
_ROUNDING = 1e-3


def lattice_points(size: tuple[int, int], step_px: int) -> np.ndarray:
    """Return ``R x C x 2`` float32 points from corner to corner of a ``(height, width)`` image, at most ``step_px``
    apart.
    """
    rows, columns = (max(2, -(-(pixels - 1) // step_px) + 1) for pixels in size)
    return lattice_points_of(size, rows, columns)


def lattice_points_of(size: tuple[int, int], rows: int, columns: int) -> np.ndarray:
    """Return ``rows x columns x 2`` float32 points from corner to corner of a ``(height, width)`` image."""
    x, y = np.linspace(0, size[1] - 1, columns), np.linspace(0, size[0] - 1, rows)
    return np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32)


def lattice_of_spline(spline: ThinPlateSpline, size: tuple[int, int], step_px: int) -> np.ndarray:
    """Return ``R x C x 2`` float32: where the spline takes :func:`lattice_points`."""
    points = lattice_points(size, step_px)
    moved: Tensor = spline(torch.from_numpy(points.reshape(-1, 2)).to(spline.control))
    return moved.cpu().numpy().astype(np.float32).reshape(points.shape)


def resampled(lattice: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return ``rows x columns x 2`` float32: the same map as a lattice of other spacing, at least two points a side."""
    given = torch.from_numpy(np.ascontiguousarray(lattice)).permute(2, 0, 1)[None]
    return F.interpolate(given, (rows, columns), mode="bilinear", align_corners=True)[0].permute(1, 2, 0).numpy()


def warp(image: np.ndarray, lattice: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the other image seen through the lattice's map.

    Args:
        image: ``H' x W' x 3`` uint8, the image that the lattice points into.
        size: ``(height, width)`` of the image that the lattice covers.

    Returns:
        ``height x width x 3`` uint8, black where the map leaves ``image``; and ``height x width`` bool, false there.
    """
    at = resampled(lattice, *size)
    x, y = (np.ascontiguousarray(at[..., axis]) for axis in range(2))
    warped = np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))
    right, bottom = image.shape[1] - 1 + _ROUNDING, image.shape[0] - 1 + _ROUNDING
    inside = (x >= -_ROUNDING) & (x <= right) & (y >= -_ROUNDING) & (y <= bottom)
    return warped, inside
