"""Homography benchmarks in HPatches' folder layout: matching accuracy and corner errors.

A sequence folder holds images ``1.ppm`` (or .png, .jpg) … ``N.ppm`` and matrices ``H_1_2`` … ``H_1_N`` from the first
image to the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from semantic_matcher_core.io.images import is_image_file, read_image
from training.errors import DataError
from training.evaluation.methods import MatchFunction
from training.evaluation.metrics import accuracy, area_under_curve, corner_error

MATCH_THRESHOLDS_PX = (1.0, 2.0, 3.0, 5.0, 10.0)
CORNER_THRESHOLDS_PX = (1.0, 3.0, 5.0)
RANSAC_THRESHOLD_PX = 3.0


@dataclass(frozen=True)
class HomographyPair:
    """Two images and the true ``3 x 3`` homography from the first to the second."""

    sequence: str
    image0: Path
    image1: Path
    homography: np.ndarray


def homography_pairs(root: str | Path) -> Iterator[HomographyPair]:
    """Yield the pairs of all sequences below a folder, sorted.

    Raises:
        DataError: there are none, or an image or matrix is missing or damaged.
    """
    root = Path(root)
    matrices = sorted(root.glob("*/H_1_*"))
    if not matrices:
        raise DataError(f"no sequences with files H_1_<n> below {root}")
    for matrix in matrices:
        folder, number = matrix.parent, matrix.name.removeprefix("H_1_")
        try:
            homography = np.loadtxt(matrix)
        except ValueError as error:
            raise DataError(f"{matrix} is no 3 x 3 matrix: {error}") from error
        if homography.shape != (3, 3):
            raise DataError(f"{matrix} holds a {homography.shape} matrix, expected 3 x 3")
        yield HomographyPair(folder.name, _image(folder, "1"), _image(folder, number), homography)


def evaluate_homography_pair(pair: HomographyPair, match: MatchFunction) -> dict[str, float | int | str]:
    """Compute figures of one pair: matches, share of them within each threshold, mean corner error of a RANSAC fit."""
    image0, image1 = read_image(pair.image0), read_image(pair.image1)
    points0, points1 = match(image0, image1)
    size = (image0.shape[0], image0.shape[1])
    return {
        "sequence": pair.sequence,
        "image0": pair.image0.name,
        "image1": pair.image1.name,
        **homography_figures(points0, points1, pair.homography, size),
    }


def homography_figures(
    points0: np.ndarray, points1: np.ndarray, homography: np.ndarray, size: tuple[int, int]
) -> dict[str, float | int | str]:
    """Compute figures of ``N x 2`` matches whose images are a ``3 x 3`` homography apart; the first has ``size``."""
    points0, points1 = np.asarray(points0, np.float64), np.asarray(points1, np.float64)
    row: dict[str, float | int | str] = {"matches": len(points0)}
    estimate = None
    if len(points0):
        error = np.linalg.norm(cv2.perspectiveTransform(points0[None], homography)[0] - points1, axis=1)
    else:
        error = np.empty(0)
    for threshold, share in zip(MATCH_THRESHOLDS_PX, accuracy(error, MATCH_THRESHOLDS_PX), strict=True):
        # No match is no correct match: an empty pair must not leave the mean.
        row[f"MMA@{threshold:g}"] = 0.0 if np.isnan(share) else share
    if len(points0) >= 4:
        cv2.setRNGSeed(0)
        estimate, _ = cv2.findHomography(points0, points1, cv2.USAC_MAGSAC, RANSAC_THRESHOLD_PX, maxIters=10000)
    row["corner error px"] = corner_error(homography, estimate, size)
    return row


def summarise_homography(rows: list[dict[str, float | int | str]]) -> dict[str, float]:
    """Average the matching accuracies over pairs, and compute the AUC of the corner errors."""
    summary = {"pairs": float(len(rows)), "matches": float(np.mean([float(row["matches"]) for row in rows]))}
    for threshold in MATCH_THRESHOLDS_PX:
        summary[f"MMA@{threshold:g}"] = float(np.mean([float(row[f"MMA@{threshold:g}"]) for row in rows]))
    errors = [float(row["corner error px"]) for row in rows]
    for threshold, area in zip(CORNER_THRESHOLDS_PX, area_under_curve(errors, CORNER_THRESHOLDS_PX), strict=True):
        summary[f"corner AUC@{threshold:g}px"] = area
    return summary


def _image(folder: Path, number: str) -> Path:
    found = [path for path in sorted(folder.glob(f"{number}.*")) if is_image_file(path)]
    if not found:
        raise DataError(f"{folder} has no image {number}.ppm (or .png, .jpg)")
    return found[0]
