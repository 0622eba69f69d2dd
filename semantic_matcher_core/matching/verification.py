"""Geometric check of matches: which of them agree with one homography, fundamental or essential matrix.

The model is estimated robustly by OpenCV's MAGSAC++ (Barath et al., CVPR 2020) or by PoseLib's LO-RANSAC (Larsson,
2020). Which matches are inliers is then decided here, by one rule for both: the distance to the model in pixels is at
most ``threshold_px``. So the flags mean the same whatever estimated the model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.errors import ConfigError, ShapeError, check_choice
from semantic_matcher_core.geometry import robust
from semantic_matcher_core.settings import GEOMETRIES as KINDS
from semantic_matcher_core.settings import GEOMETRY_BACKENDS as BACKENDS
from semantic_matcher_core.types import Matches

# What the first of them was called before it had one name everywhere.
_ALIASES = {"opencv": "magsac"}
MINIMUM_MATCHES = {"homography": 4, "fundamental": 8, "essential": 5}

_MAX_ITERATIONS = 10_000
_CONFIDENCE = 0.9999


def verify(
    matches: Matches,
    kind: str,
    *,
    threshold_px: float = 2.0,
    K0: Tensor | np.ndarray | None = None,
    K1: Tensor | np.ndarray | None = None,
    backend: str = "magsac",
    seed: int = 0,
) -> Matches:
    """Return the same matches with ``inlier``, and with ``model`` and ``model_type`` where a model was found.

    Args:
        matches: of one pair or of several; each pair is checked on its own.
        kind: ``"homography"`` (a plane, or a camera that only turns; at least 4 matches), ``"fundamental"`` (a rigid
            scene, cameras unknown; at least 8) or ``"essential"`` (a rigid scene, cameras known; at least 5).
        threshold_px: largest distance of an inlier from the model in pixels: in the second image from the mapped point
            (homography), or the Sampson distance to the epipolar geometry (the other two).
        K0, K1: ``3 x 3`` camera matrices of the first and second image in pixels; for ``"essential"`` alone.
            Lens distortion is to be removed from the keypoints before.
        backend: ``"magsac"``, OpenCV's MAGSAC++, or ``"poselib"``, PoseLib's LO-RANSAC.
        seed: start of the random numbers; the same seed gives the same result.

    Returns:
        Matches whose ``inlier`` is set. ``model`` is the ``3 x 3`` float64 matrix from the first image to the second
        (``x1 ~ H x0``, ``x1' F x0 = 0``, or ``E`` likewise in normalised coordinates), with ``H[2, 2] = 1`` or unit
        Frobenius norm for ``F`` and ``E``. With too few matches, or none that fit together, nothing is an inlier,
        ``model`` is ``None`` and ``model_type`` is "". Of several pairs the models are not kept (see ``Matches``).

    Raises:
        ConfigError: unknown kind or backend, one that is not installed, a threshold that is not positive, or camera
            matrices missing or given needlessly.
        ShapeError: a camera matrix is not ``3 x 3``.
    """
    check_choice("geometry", kind, KINDS)
    backend = _ALIASES.get(backend, backend)
    check_choice("verification backend", backend, BACKENDS)
    if backend == "poselib":
        robust.check_poselib()
    if not (np.isfinite(threshold_px) and threshold_px > 0):
        raise ConfigError(f"threshold_px must be a positive number of pixels, got {threshold_px!r}")
    cameras = _cameras(kind, K0, K1)
    points0 = matches.keypoints0.detach().cpu().double().contiguous().numpy()
    points1 = matches.keypoints1.detach().cpu().double().contiguous().numpy()
    if matches.batch_size == 1:
        model, inlier = _verify_pair(points0, points1, kind, threshold_px, cameras, backend, seed)
        return replace(
            matches,
            inlier=torch.from_numpy(inlier).to(matches.keypoints0.device),
            model=None if model is None else torch.from_numpy(model).to(matches.keypoints0.device),
            model_type="" if model is None else kind,
        )
    assert matches.pair is not None
    pair = matches.pair.cpu().numpy()
    inlier = np.zeros(len(matches), bool)
    for index in range(matches.batch_size):
        rows = pair == index
        inlier[rows] = _verify_pair(points0[rows], points1[rows], kind, threshold_px, cameras, backend, seed)[1]
    return replace(matches, inlier=torch.from_numpy(inlier).to(matches.keypoints0.device), model=None, model_type="")


def residuals(model: np.ndarray, kind: str, points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    """Return distance in pixels of each of ``M`` matches from a model.

    Args:
        model: ``3 x 3``, a homography, or a fundamental matrix (an essential one is given as ``K1^-T E K0^-1``).
        kind: ``"homography"`` for the distance in the second image, anything else for the Sampson distance.
        points0, points1: ``M x 2`` pixels.
    """
    ones = np.ones((len(points0), 1))
    x0, x1 = np.hstack([points0, ones]), np.hstack([points1, ones])
    forward = x0 @ model.T
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "homography":
            distance = np.linalg.norm(forward[:, :2] / forward[:, 2:] - points1, axis=1)
        else:
            # Hartley & Zisserman, Multiple View Geometry, 2nd ed., eq. 11.9.
            backward = x1 @ model
            gradient = np.sqrt((forward[:, :2] ** 2).sum(axis=1) + (backward[:, :2] ** 2).sum(axis=1))
            distance = np.abs((x1 * forward).sum(axis=1)) / gradient
    return np.nan_to_num(distance, nan=np.inf, posinf=np.inf)


def _cameras(kind: str, k0: Any, k1: Any) -> tuple[np.ndarray, np.ndarray] | None:
    if kind != "essential":
        if k0 is not None or k1 is not None:
            raise ConfigError(
                f"camera matrices are of no use for geometry {kind!r}; use 'essential', or leave them out"
            )
        return None
    if k0 is None or k1 is None:
        raise ConfigError("geometry 'essential' needs the camera matrices K0 and K1; without them use 'fundamental'")
    cameras = []
    for name, matrix in (("K0", k0), ("K1", k1)):
        array = np.asarray(matrix.detach().cpu() if isinstance(matrix, Tensor) else matrix, dtype=np.float64)
        if array.shape != (3, 3):
            raise ShapeError(f"{name} must be a 3 x 3 camera matrix, got {array.shape}")
        if not (np.isfinite(array).all() and array[0, 0] > 0 and array[1, 1] > 0):
            raise ConfigError(f"{name} is no camera matrix: focal lengths {array[0, 0]:g} and {array[1, 1]:g} pixels")
        # OpenCV's estimator reads nine numbers in a row, also of a part of P, which has twelve.
        cameras.append(np.ascontiguousarray(array))
    return cameras[0], cameras[1]


def _verify_pair(
    points0: np.ndarray,
    points1: np.ndarray,
    kind: str,
    threshold: float,
    cameras: tuple[np.ndarray, np.ndarray] | None,
    backend: str,
    seed: int,
) -> tuple[np.ndarray | None, np.ndarray]:
    nothing = np.zeros(len(points0), bool)
    if len(points0) < MINIMUM_MATCHES[kind]:
        return None, nothing
    estimate = _estimate_opencv if backend == "magsac" else _estimate_poselib
    model = estimate(points0, points1, kind, threshold, cameras, seed)
    if model is None or model.shape != (3, 3) or not np.isfinite(model).all() or not np.abs(model).max() > 0:
        return None, nothing
    in_pixels = model
    if cameras is not None:
        in_pixels = np.linalg.inv(cameras[1]).T @ model @ np.linalg.inv(cameras[0])
    inlier = residuals(in_pixels, kind, points0, points1) <= threshold
    # A model that fewer matches agree with than it takes to make one says nothing.
    if inlier.sum() < MINIMUM_MATCHES[kind]:
        return None, nothing
    return _normalised(model, kind), inlier


def _normalised(model: np.ndarray, kind: str) -> np.ndarray:
    if kind == "homography" and abs(model[2, 2]) > 1e-12 * np.abs(model).max():
        return np.ascontiguousarray(model / model[2, 2])
    model = model / np.linalg.norm(model)
    # The sign is free; the largest entry positive makes it the same for both backends.
    return np.ascontiguousarray(model * np.sign(model.flat[np.abs(model).argmax()]))


def _estimate_opencv(
    points0: np.ndarray,
    points1: np.ndarray,
    kind: str,
    threshold: float,
    cameras: tuple[np.ndarray, np.ndarray] | None,
    seed: int,
) -> np.ndarray | None:
    parameters = robust.magsac(threshold, seed, _MAX_ITERATIONS)
    try:
        if kind == "homography":
            model, _ = cv2.findHomography(points0, points1, parameters)
        elif kind == "fundamental":
            model, _ = cv2.findFundamentalMat(points0, points1, parameters)
        else:
            assert cameras is not None
            model, _ = cv2.findEssentialMat(points0, points1, cameras[0], cameras[1], None, None, parameters)
    except cv2.error:
        # OpenCV raises for degenerate sets (all points in one place) instead of finding nothing.
        return None
    return None if model is None else model[:3].astype(np.float64)


def _estimate_poselib(
    points0: np.ndarray,
    points1: np.ndarray,
    kind: str,
    threshold: float,
    cameras: tuple[np.ndarray, np.ndarray] | None,
    seed: int,
) -> np.ndarray | None:
    poselib = robust.poselib
    options = {"seed": seed, "max_iterations": _MAX_ITERATIONS, "success_prob": _CONFIDENCE}
    if kind == "homography":
        model, info = poselib.estimate_homography(points0, points1, {**options, "max_reproj_error": threshold}, {})
    elif kind == "fundamental":
        model, info = poselib.estimate_fundamental(points0, points1, {**options, "max_epipolar_error": threshold}, {})
    else:
        assert cameras is not None
        # Normalised by us: PoseLib's camera models have no skew. The threshold becomes one of the mean focal length.
        focal = float(np.mean([camera[i, i] for camera in cameras for i in (0, 1)]))
        identity = {"model": "PINHOLE", "width": 2, "height": 2, "params": [1.0, 1.0, 0.0, 0.0]}
        pose, info = poselib.estimate_relative_pose(
            _in_camera(points0, cameras[0]),
            _in_camera(points1, cameras[1]),
            identity,
            identity,
            {**options, "max_epipolar_error": threshold / focal},
            {},
        )
        x, y, z = np.asarray(pose.t, dtype=np.float64)
        model = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]) @ np.asarray(pose.R)
    # PoseLib returns an identity where it found nothing.
    return np.asarray(model, dtype=np.float64) if info["num_inliers"] else None


def _in_camera(points: np.ndarray, camera: np.ndarray) -> np.ndarray:
    rays = np.hstack([points, np.ones((len(points), 1))]) @ np.linalg.inv(camera).T
    return rays[:, :2] / rays[:, 2:]
