"""Poses that most points agree on: by PoseLib's LO-RANSAC (Larsson, 2020), or by OpenCV's where it is not installed.

There is no wheel of PoseLib for ARM (2.0.5), on which most robots run.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError

try:
    import poselib
except ModuleNotFoundError:
    poselib = None

_log = logging.getLogger(__name__)
_CONFIDENCE = 0.9999
# Of a short step, OpenCV's search ends beside the best essential matrix one time in twelve.
_STARTS = 4


def check_poselib(instead: str = "geometry_backend magsac") -> None:
    """Raise where PoseLib was asked for and is not installed.

    Args:
        instead: what the error says that can be taken.

    Raises:
        ConfigError: it is not.
    """
    if poselib is None:
        raise ConfigError(
            f"PoseLib is not installed (it has no wheel for ARM); take {instead}, or build PoseLib "
            "(https://github.com/PoseLib/PoseLib) into this environment"
        )


def magsac(threshold: float, seed: int, iterations: int) -> cv2.UsacParams:
    """Return what ``cv2.USAC_MAGSAC`` stands for (MAGSAC++, Barath et al., CVPR 2020), with a seed.

    Args:
        threshold: distance up to which a point agrees.
        seed: of its random choices.
        iterations: at most.
    """
    parameters = cv2.UsacParams()
    parameters.score = cv2.SCORE_METHOD_MAGSAC
    parameters.loMethod = cv2.LOCAL_OPTIM_SIGMA
    parameters.loIterations = 7
    parameters.loSampleSize = 50
    parameters.sampler = cv2.SAMPLING_UNIFORM
    parameters.neighborsSearch = cv2.NEIGH_GRID
    parameters.maxIterations = iterations
    parameters.confidence = _CONFIDENCE
    parameters.isParallel = False
    parameters.randomGeneratorState = seed
    parameters.threshold = threshold
    return parameters


def sampson(essential: np.ndarray, rays0: np.ndarray, rays1: np.ndarray) -> np.ndarray:
    """Return ``N`` signed Sampson distances of rays from an epipolar geometry (Hartley and Zisserman, eq. 11.9).

    Args:
        essential: ``3 x 3``, ``x1^T E x0 = 0``.
        rays0, rays1: ``N x 2`` float64, x and y on the plane z = 1; the distances have their unit.
    """
    x0, x1 = (np.column_stack([rays, np.ones(len(rays))]) for rays in (rays0, rays1))
    forward, backward = x0 @ essential.T, x1 @ essential
    gradient = (forward[:, :2] ** 2).sum(axis=1) + (backward[:, :2] ** 2).sum(axis=1)
    return (x1 * forward).sum(axis=1) / np.sqrt(np.maximum(gradient, 1e-30))


def relative_pose(
    rays0: np.ndarray, rays1: np.ndarray, focal: float, threshold_px: float, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Estimate where the first camera is in the second one's frame, up to scale.

    Args:
        rays0, rays1: ``N x 2`` float64, x and y on the plane z = 1.
        focal: in pixels, of both.
        threshold_px: Sampson distance up to which a match agrees.
        seed: of its random choices.

    Returns:
        ``3 x 3`` rotation and a translation of 3, ``X1 = R X0 + t``; ``None`` where there is none.
    """
    estimate = _relative_by_opencv if _by_opencv() else _relative_by_poselib
    return _checked(estimate(rays0, rays1, focal, threshold_px, seed))


def absolute_pose(
    points: np.ndarray, rays: np.ndarray, focal: float, threshold_px: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Estimate where the points' frame is in a camera's.

    Args:
        points: ``N x 3`` float64.
        rays: ``N x 2`` float64, where they are seen: x and y on the plane z = 1.
        focal: in pixels.
        threshold_px: distance in the image up to which a point agrees.
        seed: of its random choices.

    Returns:
        ``3 x 3`` rotation, a translation of 3, ``X_camera = R X + t``, and ``N`` bool, which points agree; ``None``
        where there is none.
    """
    if _by_opencv():
        found, agree = _absolute_by_opencv(points, rays, focal, threshold_px, seed)
    else:
        found, agree = _absolute_by_poselib(points, rays, focal, threshold_px, seed)
    checked = _checked(found)
    return None if checked is None else (*checked, agree)


def _checked(found: tuple[Any, Any] | None) -> tuple[np.ndarray, np.ndarray] | None:
    if found is None:
        return None
    rotation, translation = (np.asarray(part, dtype=np.float64) for part in found)
    usable = np.isfinite(rotation).all() and np.isfinite(translation).all()
    return (rotation, translation.reshape(3)) if usable else None


def _relative_by_poselib(
    rays0: np.ndarray, rays1: np.ndarray, focal: float, threshold_px: float, seed: int
) -> tuple[Any, Any] | None:
    camera = {"model": "SIMPLE_PINHOLE", "width": 2, "height": 2, "params": [1.0, 0.0, 0.0]}
    threshold = threshold_px / focal
    options = {"max_epipolar_error": threshold, "seed": seed, "max_iterations": 10_000, "success_prob": _CONFIDENCE}
    found, info = poselib.estimate_relative_pose(rays0, rays1, camera, camera, options, {})
    agree = np.asarray(info["inliers"], dtype=bool).reshape(-1)
    if len(agree) != len(rays0) or not info["num_inliers"]:
        return None
    bundle = {"loss_type": "CAUCHY", "loss_scale": threshold / 2, "max_iterations": 50}
    refined, _ = poselib.refine_relative_pose(rays0[agree], rays1[agree], found, camera, camera, bundle)
    return refined.R, refined.t


def _relative_by_opencv(
    rays0: np.ndarray, rays1: np.ndarray, focal: float, threshold_px: float, seed: int
) -> tuple[Any, Any] | None:
    camera = np.diag([focal, focal, 1.0])
    found: list[tuple[float, np.ndarray, np.ndarray]] = []
    for start in range(_STARTS):
        parameters = magsac(threshold_px, _STARTS * seed + start, 10_000)
        try:
            essential, _ = cv2.findEssentialMat(rays0 * focal, rays1 * focal, camera, camera, None, None, parameters)
        except cv2.error:
            # OpenCV raises for degenerate sets (all points in one place) instead of finding nothing.
            continue
        if essential is not None and essential.shape == (3, 3):
            distance = np.abs(sampson(essential, rays0, rays1)) * focal
            cost = float(np.square(np.minimum(distance, threshold_px)).sum())
            found.append((cost, essential, distance <= threshold_px))
    if not found:
        return None
    _, essential, agree = min(found, key=lambda one: one[0])
    first, second = (np.column_stack([r, np.ones(len(r))])[agree] for r in (rays0, rays1))
    *turns, translation = cv2.decomposeEssentialMat(essential)
    # Of two turns that differ by half a turn about the step, the one that takes the rays nearer to each other; cv2's
    # recoverPose asks for points at a finite distance, which a camera that only turned does not have.
    rotation = max(turns, key=lambda turn: float(((first @ turn.T) * second).sum()))
    turned, translation = first @ rotation.T, np.asarray(translation, np.float64).ravel()
    # lambda1 second = lambda0 turned + translation: the sign that puts most points in front.
    depth = -(np.cross(second, translation) * np.cross(second, turned)).sum(axis=1)
    return rotation, translation if (depth > 0).sum() >= (depth < 0).sum() else -translation


def _absolute_by_poselib(
    points: np.ndarray, rays: np.ndarray, focal: float, threshold_px: float, seed: int
) -> tuple[tuple[Any, Any] | None, np.ndarray]:
    # In pixels about the principal point: PoseLib's own scales then fit.
    camera = {"model": "SIMPLE_PINHOLE", "width": 2, "height": 2, "params": [focal, 0.0, 0.0]}
    options = {
        "max_reproj_error": threshold_px,
        "seed": seed,
        "max_iterations": 2000,
        "min_iterations": 20,
        "success_prob": _CONFIDENCE,
        # Its default is three times what the probability asks for.
        "dyn_num_trials_mult": 1.0,
    }
    found, info = poselib.estimate_absolute_pose(rays * focal, points, camera, options, {})
    agree = np.asarray(info["inliers"], dtype=bool).reshape(-1)
    return (found.R, found.t) if len(agree) == len(points) and info["num_inliers"] else None, agree


def _absolute_by_opencv(
    points: np.ndarray, rays: np.ndarray, focal: float, threshold_px: float, seed: int
) -> tuple[tuple[Any, Any] | None, np.ndarray]:
    agree = np.zeros(len(points), bool)
    camera, pixels = np.diag([focal, focal, 1.0]), rays * focal
    try:
        found, _, turn, translation, chosen = cv2.solvePnPRansac(
            points, pixels, camera, None, params=magsac(threshold_px, seed, 2000)
        )
        if not found or chosen is None:
            return None, agree
        chosen = chosen.reshape(-1)
        turn, translation = cv2.solvePnPRefineLM(points[chosen], pixels[chosen], camera, None, turn, translation)
    except cv2.error:
        return None, agree
    seen = cv2.projectPoints(points, turn, translation, camera, None)[0][:, 0]
    rotation = cv2.Rodrigues(turn)[0]
    agree = np.linalg.norm(seen - pixels, axis=1) <= threshold_px
    agree &= points @ rotation[2] + translation.reshape(3)[2] > 0
    return (rotation, translation), agree


@functools.cache
def _by_opencv() -> bool:
    """Return whether OpenCV has to do, and say it the first time."""
    if poselib is None:
        _log.warning("PoseLib is not installed (it has no wheel for ARM): poses are estimated by OpenCV's RANSAC")
    return poselib is None
