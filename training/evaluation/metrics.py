"""Figures of merit: pose errors and their area under the curve, matching accuracy, corner errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pose_errors(truth: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> tuple[float, float]:
    """Compute angles in degrees between a true and an estimated relative pose, whose translation has no scale or sign.

    Args:
        truth: ``3 x 4`` or ``4 x 4``.
        rotation: ``3 x 3``.
        translation: ``3``.

    Returns:
        Of the translation's direction (NaN where either is zero) and of the rotation.
    """
    true_translation = truth[:3, 3]
    norms = np.linalg.norm(translation) * np.linalg.norm(true_translation)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.dot(translation, true_translation) / norms
    angle = float(np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0))))
    turn = (np.trace(rotation.T @ truth[:3, :3]) - 1) / 2
    return min(angle, 180.0 - angle), float(np.rad2deg(np.abs(np.arccos(np.clip(turn, -1.0, 1.0)))))


def area_under_curve(errors: Sequence[float] | np.ndarray, thresholds: Sequence[float]) -> list[float]:
    """Compute the area under the recall curve up to each threshold, as a share of the best possible, as SuperGlue does.

    Args:
        errors: one for each pair; infinite where nothing was estimated.
        thresholds: in the unit of the errors.
    """
    ordered = np.sort(np.asarray(errors, dtype=np.float64))
    if ordered.size == 0:
        return [float("nan")] * len(thresholds)
    recall = np.r_[0.0, (np.arange(len(ordered)) + 1) / len(ordered)]
    ordered = np.r_[0.0, ordered]
    areas = []
    for threshold in thresholds:
        last = int(np.searchsorted(ordered, threshold))
        x, y = np.r_[ordered[:last], threshold], np.r_[recall[:last], recall[last - 1]]
        areas.append(float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / threshold))
    return areas


def accuracy(errors: Sequence[float] | np.ndarray, thresholds: Sequence[float]) -> list[float]:
    """Return share of errors below each threshold."""
    values = np.asarray(errors, dtype=np.float64)
    return [float((values < threshold).mean()) if values.size else float("nan") for threshold in thresholds]


def corner_error(truth: np.ndarray, estimate: np.ndarray | None, size: tuple[int, int]) -> float:
    """Return mean distance in pixels of the four corners of a ``(height, width)`` image through two homographies."""
    if estimate is None:
        return float("inf")
    height, width = size
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [width - 1, height - 1, 1], [0, height - 1, 1]], np.float64)
    moved = []
    for homography in (truth, estimate):
        homogeneous = corners @ np.asarray(homography, np.float64).T
        if np.any(np.abs(homogeneous[:, 2]) < 1e-12):
            return float("inf")
        moved.append(homogeneous[:, :2] / homogeneous[:, 2:])
    return float(np.linalg.norm(moved[0] - moved[1], axis=1).mean())
