"""Depth from the disparities of a rectified stereo pair."""

from __future__ import annotations

import numpy as np

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.types import Matches

# With at least this many matches, of which less than this share become points, the reason is reported.
_ENOUGH_TO_TELL, _FEW = 20, 0.1
# Of exchanged images this share of the disparities at least is negative.
_OF_ONE_SIGN = 0.8


def points_from_disparity(
    left: np.ndarray, right: np.ndarray, projection_left: np.ndarray, projection_right: np.ndarray
) -> np.ndarray:
    """Return points in space of matched keypoints of a rectified pair.

    Args:
        left, right: ``M x 2`` pixels of the matches.
        projection_left, projection_right: ``3 x 4`` projection matrices of the rectified cameras (``P`` of
            sensor_msgs/CameraInfo): those of one camera, with ``P[0, 3] = -fx * baseline`` on the right.

    Returns:
        ``M x 3`` float64 in the left camera's optical frame (x right, y down, z forward), in the unit of the baseline;
        rows of NaN where the disparity is not positive.

    Raises:
        ShapeError: a projection matrix is not ``3 x 4``.
        ConfigError: focal lengths or baseline are not positive.
    """
    p0, p1 = np.asarray(projection_left, dtype=np.float64), np.asarray(projection_right, dtype=np.float64)
    for name, p in (("left", p0), ("right", p1)):
        if p.shape != (3, 4):
            raise ShapeError(f"the {name} projection matrix must be 3 x 4, got {p.shape}")
        if not (np.isfinite(p).all() and p[0, 0] > 0 and p[1, 1] > 0):
            raise ConfigError(
                f"the {name} camera is not calibrated: P has the focal lengths {p[0, 0]:g} and {p[1, 1]:g} pixels; "
                "calibrate the two as a pair, and have their driver load both files"
            )
    if not np.allclose(p0[0, 0], p1[0, 0], rtol=1e-3):
        raise ConfigError(f"not a rectified pair: focal lengths {p0[0, 0]:g} and {p1[0, 0]:g} pixels")
    # Where the left one is not the origin of the pair, the points are moved to it all the same.
    scaled_baseline = p0[0, 3] - p1[0, 3]
    if not scaled_baseline > 0:
        raise ConfigError(
            f"no baseline: P[0, 3] is {p0[0, 3]:g} on the left and {p1[0, 3]:g} on the right, expected a smaller one "
            f"(-fx * baseline) on the right; {_why_no_baseline(p0, p1)}"
        )
    left = np.asarray(left, dtype=np.float64).reshape(-1, 2)
    right = np.asarray(right, dtype=np.float64).reshape(-1, 2)
    disparity = (left[:, 0] - p0[0, 2]) - (right[:, 0] - p1[0, 2])
    disparity = np.where(disparity > 0, disparity, np.nan)
    depth = scaled_baseline / disparity
    return np.column_stack(
        [(left[:, 0] - p0[0, 2]) * depth / p0[0, 0], (left[:, 1] - p0[1, 2]) * depth / p0[1, 1], depth]
    )


def _why_no_baseline(p0: np.ndarray, p1: np.ndarray) -> str:
    if p0[0, 3] < p1[0, 3]:
        return "are the two sides exchanged?"
    if p0[1, 3] != p1[1, 3]:
        return (
            "P[1, 3] says that the cameras are one above the other: turn the images by a quarter, and calibrate those"
        )
    return "calibrate the two cameras as a pair: each for itself has none"


def sparse_points(
    matches: Matches,
    projection_left: np.ndarray,
    projection_right: np.ndarray,
    *,
    max_row_difference: float,
    min_disparity: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points in space that matches between rectified images give.

    Args:
        matches: of one pair, left and right; where a geometric check ran, its inliers alone are used.
        projection_left, projection_right: as for :func:`points_from_disparity`.
        max_row_difference: matches whose rows differ by more pixels are left out: they contradict rectification.
        min_disparity: matches of a smaller disparity, in pixels, are left out: their depth says little.

    Returns:
        ``K x 3`` float32 points, as of :func:`points_from_disparity`, and ``K`` float32 confidences of their matches.
    """
    keep = np.ones(len(matches), bool) if matches.inlier is None else matches.inlier.cpu().numpy()
    left, right = matches.keypoints0.cpu().numpy(), matches.keypoints1.cpu().numpy()
    disparity = (left[:, 0] - projection_left[0, 2]) - (right[:, 0] - projection_right[0, 2])
    keep = keep & (np.abs(left[:, 1] - right[:, 1]) <= max_row_difference) & (disparity >= min_disparity)
    points = points_from_disparity(left[keep], right[keep], projection_left, projection_right)
    confidence = matches.confidence.cpu().numpy()[keep]
    finite = np.isfinite(points).all(axis=1)
    return points[finite].astype(np.float32), confidence[finite].astype(np.float32)


def why_few_points(
    matches: Matches,
    measured: Matches,
    points: int,
    projection_left: np.ndarray,
    projection_right: np.ndarray,
    *,
    max_row_difference: float,
    min_disparity: float,
) -> str:
    """Return what most of the matches of a pair were left out for, in words; empty where enough became points.

    Args:
        matches: of one pair, left and right.
        measured: those whose disparity could be measured.
        points: how many points they became.
        projection_left, projection_right, max_row_difference, min_disparity: as for :func:`sparse_points`.
    """
    number = len(matches) if matches.inlier is None else int(matches.inlier.sum())
    if number < _ENOUGH_TO_TELL or points >= _FEW * number:
        return ""
    text = f"{points} of {number} matches became points: "
    if len(measured) < _FEW * number:
        return text + (
            f"of {len(matches) - len(measured)} the disparity cannot be measured, because what is around them differs "
            "between left and right; see that both images are rectified and sharp"
        )
    left, right = measured.keypoints0.cpu().numpy(), measured.keypoints1.cpu().numpy()
    disparity = (left[:, 0] - projection_left[0, 2]) - (right[:, 0] - projection_right[0, 2])
    rows, middle = float(np.median(np.abs(left[:, 1] - right[:, 1]))), float(np.median(disparity))
    if rows > max_row_difference:
        return text + (
            f"their rows differ by {rows:.1f} pixels (median), and {max_row_difference:g} are allowed "
            "(epipolar_band, or else geometry_threshold); see that both images are rectified"
        )
    if middle <= 0 and float(np.mean(disparity <= 0)) < _OF_ONE_SIGN:
        return text + (
            "their disparities are of either sign, as of matches that are wrong: see that the rows of what is seen in "
            f"both images differ by at most {max_row_difference:g} pixels, as those of rectified images do"
        )
    if middle <= 0:
        return text + (
            f"their disparity is {middle:.1f} pixels (median), as of images that are exchanged: give the left camera's "
            "as left, with its own camera_info"
        )
    return text + (
        f"their disparity is {middle:.2f} pixels (median), less than min_disparity ({min_disparity:g}) or hardly more: "
        "what is seen is far for this baseline"
    )


def point_colours(points: np.ndarray, projection_left: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return ``K x 3`` uint8 RGB of points in space, as the left image shows them.

    Args:
        points: ``K x 3``, as of :func:`sparse_points`.
        projection_left: of the left image, as there.
        image: the left image, ``H x W x 3`` RGB or ``H x W``, uint8.
    """
    p = np.asarray(projection_left, dtype=np.float64)
    height, width = image.shape[:2]
    pixels = points[:, :2] / points[:, 2:] * (p[0, 0], p[1, 1]) + (p[0, 2], p[1, 2])
    column, row = np.round(pixels).astype(np.intp).reshape(-1, 2).T
    found = image[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return np.repeat(found[:, None], 3, axis=1) if image.ndim == 2 else found
