"""Which of many matches are drawn: few enough to be told apart, from everywhere, the surest first."""

from __future__ import annotations

import numpy as np


def spread(
    points: np.ndarray, confidence: np.ndarray, good: np.ndarray, limit: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Choose up to ``limit`` matches, the surest of every part of the first image in turn; the surest are drawn last.

    With a geometric check, inliers and outliers are shown in the share that they have.
    """
    if len(points) <= limit:
        chosen = np.arange(len(points))
    else:
        inliers = round(limit * good.mean())
        parts = ((np.flatnonzero(good), inliers), (np.flatnonzero(~good), limit - inliers))
        chosen = np.concatenate([rows[_by_cell(points[rows], confidence[rows], n, shape)] for rows, n in parts])
    return chosen[np.lexsort((confidence[chosen], good[chosen]))]


def _by_cell(points: np.ndarray, confidence: np.ndarray, limit: int, shape: tuple[int, ...]) -> np.ndarray:
    side = max(1.0, np.sqrt(shape[0] * shape[1] / 2 / max(1, limit)))
    cells = np.floor(np.clip(np.nan_to_num(points), -1e6, 1e6) / side).astype(np.int64)
    cell = cells[:, 0] * 100_003 + cells[:, 1]
    order = np.lexsort((-confidence, cell))
    # The rank of each match within its cell: first the best of all cells, then their second best, and so on.
    starts = np.flatnonzero(np.r_[True, np.diff(cell[order]) != 0])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return order[np.lexsort((-confidence[order], rank))][:limit]
