"""Relative pose of image pairs: matches to poses by RANSAC, at the published thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from semantic_matcher_core.errors import check_choice
from semantic_matcher_core.geometry.robust import check_poselib
from semantic_matcher_core.process_pool import process_pool
from training.errors import DataError
from training.evaluation.metrics import area_under_curve, pose_errors

RANSAC_THRESHOLDS_PX = tuple(0.5 * step for step in range(1, 13))
POSE_THRESHOLDS_DEG = (5.0, 10.0, 20.0)
BACKENDS = ("poselib", "opencv")
_CONFIDENCE = 0.99999


@dataclass(frozen=True)
class PosePair:
    """A pair of images with its truth.

    Attributes:
        image0, image1: paths.
        camera0, camera1: ``3 x 3`` intrinsics of the images *as the pair file was made for* (ScanNet-1500's belong to
            1296 x 968 colour images).
        transform: ``4 x 4`` from camera 0 to camera 1.
    """

    image0: Path
    image1: Path
    camera0: np.ndarray
    camera1: np.ndarray
    transform: np.ndarray


def read_pose_pairs(pairs_file: str | Path, data_path: str | Path) -> list[PosePair]:
    """Return pairs of the published lists: ScanNet-1500's (38 fields a line) and MegaDepth-1500's (32 fields).

    Raises:
        DataError: the file is missing, empty, or a line is of neither kind.
    """
    path, root = Path(pairs_file), Path(data_path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    pairs = [_parsed(line.split(), root, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not pairs:
        raise DataError(f"{path} lists no pairs")
    return pairs


def estimate_pose(
    points0: np.ndarray,
    points1: np.ndarray,
    camera0: np.ndarray,
    camera1: np.ndarray,
    threshold_px: float,
    backend: str = "poselib",
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return rotation ``3 x 3``, translation ``3`` and inliers ``N`` bool, or ``None`` where nothing can be estimated.

    Args:
        points0, points1: ``N x 2`` matched pixels.
        camera0, camera1: ``3 x 3`` intrinsics.
        threshold_px: of RANSAC's epipolar error.
        backend: ``poselib`` (LO-RANSAC with refinement) or ``opencv`` (``findEssentialMat``).

    Raises:
        ConfigError: an unknown backend, or one that is not installed.
    """
    check_choice("pose estimator", backend, BACKENDS)
    if backend == "poselib":
        check_poselib("--estimator opencv")
    if len(points0) < 5:
        return None
    points0, points1 = np.asarray(points0, np.float64), np.asarray(points1, np.float64)
    return (_by_poselib if backend == "poselib" else _by_opencv)(points0, points1, camera0, camera1, threshold_px)


def pose_error_of(
    points0: np.ndarray, points1: np.ndarray, pair: PosePair, threshold_px: float, backend: str
) -> tuple[float, float, int]:
    """Return errors of translation and rotation in degrees (infinite without an estimate), and how many inliers."""
    found = estimate_pose(points0, points1, pair.camera0, pair.camera1, threshold_px, backend)
    if found is None:
        return float("inf"), float("inf"), 0
    rotation, translation, inliers = found
    return *pose_errors(pair.transform, rotation, translation), int(inliers.sum())


def pose_error_table(
    matches: Sequence[tuple[np.ndarray, np.ndarray]],
    pairs: Sequence[PosePair],
    *,
    thresholds_px: Sequence[float] = RANSAC_THRESHOLDS_PX,
    backend: str = "poselib",
    workers: int = 1,
) -> np.ndarray:
    """Return ``thresholds x pairs x 3``: translation and rotation error in degrees, inliers."""
    jobs = [
        (points0, points1, pair, threshold, backend)
        for threshold in thresholds_px
        for (points0, points1), pair in zip(matches, pairs, strict=True)
    ]
    if workers > 1:
        with process_pool(workers) as pool:
            rows = list(pool.map(_job, jobs, chunksize=16))
    else:
        rows = [_job(job) for job in jobs]
    return np.array(rows).reshape(len(thresholds_px), len(pairs), 3)


def pose_auc_by_threshold(table: np.ndarray) -> np.ndarray:
    """Return ``thresholds x 3`` AUC at 5, 10 and 20 degrees, of the larger of the two errors of each pair."""
    worst = np.where(np.isnan(table[..., :2]), np.inf, table[..., :2]).max(axis=-1)
    return np.array([area_under_curve(errors, POSE_THRESHOLDS_DEG) for errors in worst])


def _job(job: tuple[np.ndarray, np.ndarray, PosePair, float, str]) -> tuple[float, float, int]:
    return pose_error_of(*job)


def _parsed(fields: list[str], root: Path, where: str) -> PosePair:
    try:
        if len(fields) == 38:
            numbers = np.array(fields[4:], dtype=np.float64)
            transform: np.ndarray = numbers[18:34].reshape(4, 4)
        elif len(fields) == 32:
            numbers = np.array(fields[2:], dtype=np.float64)
            transform = np.eye(4)
            transform[:3, :3], transform[:3, 3] = numbers[18:27].reshape(3, 3), numbers[27:30]
        else:
            raise DataError(f"{where}: {len(fields)} fields, expected 38 (ScanNet-1500) or 32 (MegaDepth-1500)")
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: {error}") from error
    return PosePair(
        root / fields[0], root / fields[1], numbers[:9].reshape(3, 3), numbers[9:18].reshape(3, 3), transform
    )


def _by_poselib(
    points0: np.ndarray, points1: np.ndarray, camera0: np.ndarray, camera1: np.ndarray, threshold_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    import poselib

    pose, details = poselib.estimate_relative_pose(
        points0,
        points1,
        _poselib_camera(camera0),
        _poselib_camera(camera1),
        {"max_iterations": 10000, "success_prob": _CONFIDENCE, "max_epipolar_error": threshold_px},
        {},
    )
    return pose.R, pose.t, np.array(details["inliers"], dtype=bool)


def _poselib_camera(camera: np.ndarray) -> dict[str, object]:
    return {
        "model": "PINHOLE",
        "width": int(2 * camera[0, 2]),
        "height": int(2 * camera[1, 2]),
        "params": [camera[0, 0], camera[1, 1], camera[0, 2], camera[1, 2]],
    }


def _by_opencv(
    points0: np.ndarray, points1: np.ndarray, camera0: np.ndarray, camera1: np.ndarray, threshold_px: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    focal = np.mean([camera0[0, 0], camera1[1, 1], camera0[0, 0], camera1[1, 1]])  # as published
    normalised = [
        (points - camera[[0, 1], [2, 2]]) / camera[[0, 1], [0, 1]]
        for points, camera in ((points0, camera0), (points1, camera1))
    ]
    essential, mask = cv2.findEssentialMat(
        normalised[0], normalised[1], np.eye(3), method=cv2.RANSAC, prob=_CONFIDENCE, threshold=threshold_px / focal
    )
    if essential is None:
        return None
    best: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    most = 0
    for candidate in np.split(essential, len(essential) // 3):
        count, rotation, translation, *_ = cv2.recoverPose(
            candidate, normalised[0], normalised[1], np.eye(3), 1e9, mask=mask.copy()
        )
        if count > most:
            most, best = count, (rotation, translation[:, 0], mask.ravel() > 0)
    return best
