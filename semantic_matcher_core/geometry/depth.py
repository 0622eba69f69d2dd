"""Depth images between their pixels."""

from __future__ import annotations

import numpy as np

# Depth that changes by more than this share within a pixel of the keypoint lies on an edge: it may be either side's.
_EDGE_SHARE = 0.05


def sample_depth(depth: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Find the depth at points between pixels, where the surface is whole.

    Args:
        depth: ``H x W``; 0 and what is not finite is unknown.
        points: ``N x 2`` pixels.

    Returns:
        ``N`` float64, bilinear in inverse depth (which is linear on a plane); NaN outside the image, where one of the
        four pixels around is unknown, and across an edge.
    """
    height, width = depth.shape
    x, y = points[:, 0], points[:, 1]
    # Half a pixel beyond the centres of the outermost pixels still lies on them.
    inside = (x >= -0.5) & (y >= -0.5) & (x <= width - 0.5) & (y <= height - 0.5)
    x, y = np.clip(np.where(inside, x, 0), 0, width - 1), np.clip(np.where(inside, y, 0), 0, height - 1)
    column, row = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    right, below = np.minimum(column + 1, width - 1), np.minimum(row + 1, height - 1)
    corners = np.stack([depth[row, column], depth[row, right], depth[below, column], depth[below, right]])
    corners = corners.astype(np.float64)
    known = (np.isfinite(corners) & (corners > 0)).all(axis=0) & inside
    corners = np.where(known, corners, 1.0)
    u, v = x - column, y - row
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])
    whole = corners.max(axis=0) <= corners.min(axis=0) * (1 + _EDGE_SHARE)
    return np.where(known & whole, 1.0 / (weights / corners).sum(axis=0), np.nan)
