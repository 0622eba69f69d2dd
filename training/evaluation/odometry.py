"""Odometry with depth on recorded sequences, beside OpenCV's ORB and PnP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.io.depth import read_stored_depth
from semantic_matcher_core.io.images import read_image
from semantic_matcher_core.io.trajectory import read_matrices, read_tum
from semantic_matcher_core.motion.odometry import Odometry
from semantic_matcher_core.motion.pose import Pose
from semantic_matcher_core.motion.trajectories import trajectory_errors
from semantic_matcher_core.motion.view import depth_view
from training.errors import DataError

BASELINE = "opencv:orb+pnp"
# Intrinsics of the TUM benchmark's freiburg1, whose files do not carry them.
_FREIBURG1 = Camera(
    np.array([[517.3, 0, 318.6], [0, 516.5, 255.3], [0, 0, 1]]),
    "plumb_bob",
    np.array([0.2624, -0.9531, -0.0054, 0.0026, 1.1633]),
)
_TUM_SCALE, _MILLIMETRE = 1 / 5000, 1e-3
_ORB_FEATURES, _ORB_MIN_INLIERS = 2000, 12


@dataclass(frozen=True, eq=False)
class Sequence:
    """Images with depth and true poses.

    Attributes:
        images, depths: files, in order.
        stamps: nanoseconds of each.
        poses: of each, the camera in the world.
        camera: that took them.
        depth_scale: metres of a depth of 1.
    """

    name: str
    images: list[Path]
    depths: list[Path]
    stamps: list[int]
    poses: list[Pose]
    camera: Camera
    depth_scale: float


def read_sequence(folder: Path, period_s: float = 0.1) -> Sequence:
    """Read a folder of ``rgb/``, ``depth/`` and true poses, one for each image in order of name.

    Args:
        folder: with ``poses_tum.txt`` (depth is 5000 a metre; freiburg1's camera unless ``K.txt`` is there), or with
            ``poses.txt`` (matrices, depth in millimetres) and ``K.txt``.
        period_s: seconds from image to image, where there are no stamps.

    Raises:
        DataError: parts are missing, or their numbers differ.
    """
    images, depths = (sorted(p for p in (folder / n).glob("*") if p.is_file()) for n in ("rgb", "depth"))
    if (folder / "poses_tum.txt").is_file():
        stamps, rows = read_tum(folder / "poses_tum.txt")
        poses, scale = [Pose.from_quaternion(row[3:], row[:3]) for row in rows], _TUM_SCALE
    elif (folder / "poses.txt").is_file():
        poses = [Pose.from_matrix(matrix) for matrix in read_matrices(folder / "poses.txt")]
        stamps, scale = np.round(np.arange(len(poses)) * period_s * 1e9).astype(np.int64), _MILLIMETRE
    else:
        raise DataError(f"{folder}: no true poses (poses_tum.txt, or poses.txt and K.txt)")
    if not len(images) == len(depths) == len(poses) > 1:
        raise DataError(f"{folder}: {len(images)} images, {len(depths)} depth images and {len(poses)} poses")
    calibration = folder / "K.txt"
    if not calibration.is_file() and scale == _MILLIMETRE:
        raise DataError(f"{folder}: no K.txt, the 3 x 3 camera matrix")
    camera = Camera(np.loadtxt(calibration)) if calibration.is_file() else _FREIBURG1
    return Sequence(folder.name, images, depths, [int(s) for s in stamps], poses, camera, scale)


def follow(sequence: Sequence, matcher: Any) -> list[Pose | None]:
    """Follow the camera by this library's odometry; ``None`` for images where it is lost or began anew."""
    odometry, poses = Odometry(matcher), []
    for path, depth, stamp in zip(sequence.images, sequence.depths, sequence.stamps, strict=True):
        image = read_image(path)
        view = depth_view(
            matcher.extract(image),
            read_stored_depth(depth),
            sequence.camera,
            image=image,
            scale=sequence.depth_scale,
            stamp=stamp,
        )
        step = odometry.process(view)
        poses.append(step.pose if step.segment == 0 else None)
    return poses


def follow_with_orb(sequence: Sequence) -> list[Pose | None]:
    """Return the textbook's odometry: ORB, mutual nearest neighbours, PnP with RANSAC from frame to frame, refined."""
    detector = cv2.ORB.create(_ORB_FEATURES)
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    poses: list[Pose | None] = []
    pose, before = Pose(), None
    for path, depth_path in zip(sequence.images, sequence.depths, strict=True):
        grey = cv2.cvtColor(read_image(path), cv2.COLOR_RGB2GRAY)
        found, descriptors = detector.detectAndCompute(grey, None)
        pixels = np.array([k.pt for k in found]).reshape(-1, 2)
        depth = read_stored_depth(depth_path) * sequence.depth_scale
        step = Pose() if before is None else _orb_step(matcher, before, (pixels, descriptors), sequence.camera)
        before = (pixels, descriptors, depth)
        if step is not None:
            pose = pose @ step
        poses.append(None if step is None else pose)
    return poses


def _orb_step(matcher: Any, before: tuple[Any, ...], now: tuple[Any, ...], camera: Camera) -> Pose | None:
    pixels0, descriptors0, depth = before
    pixels1, descriptors1 = now
    if descriptors0 is None or descriptors1 is None:
        return None
    matches = matcher.match(descriptors0, descriptors1)
    rows0, rows1 = np.array([m.queryIdx for m in matches], int), np.array([m.trainIdx for m in matches], int)
    column, row = np.round(pixels0[rows0]).astype(int).T
    z = depth[row.clip(0, depth.shape[0] - 1), column.clip(0, depth.shape[1] - 1)]
    known = z > 0
    if known.sum() < _ORB_MIN_INLIERS:
        return None
    k = camera.matrix
    points = np.column_stack([(camera.undistorted(pixels0[rows0]) - k[:2, 2]) / k[[0, 1], [0, 1]], np.ones(len(z))])
    points, seen = (points * z[:, None])[known], camera.undistorted(pixels1[rows1])[known]
    good, turn, shift, inliers = cv2.solvePnPRansac(
        points, seen, k, None, reprojectionError=2.0, iterationsCount=1000, confidence=0.999
    )
    if not good or inliers is None or len(inliers) < _ORB_MIN_INLIERS:
        return None
    turn, shift = cv2.solvePnPRefineLM(points[inliers[:, 0]], seen[inliers[:, 0]], k, None, turn, shift)
    return Pose(cv2.Rodrigues(turn)[0], shift[:, 0]).inverse()


def errors(sequence: Sequence, poses: list[Pose | None]) -> dict[str, float]:
    """Return errors of a trajectory against the true one.

    Returns:
        ``tracked`` (share of the images with a pose), ``ATE [cm]`` (root mean square after the best rigid alignment),
        ``RPE [mm]`` and ``RPE [deg]`` (root mean squares from one image to the next), ``way [m]``.

    Raises:
        DataError: fewer than three images have a pose.
    """
    known = [i for i, pose in enumerate(poses) if pose is not None]
    if len(known) < 3:
        raise DataError(f"{sequence.name}: {len(known)} of {len(poses)} images have a pose; errors need three")
    found = [pose for pose in poses if pose is not None]
    measured = trajectory_errors([sequence.poses[i] for i in known], found, neighbours=known)
    way = np.linalg.norm(np.diff([pose.translation for pose in sequence.poses], axis=0), axis=1).sum()
    return {
        "tracked": len(known) / len(poses),
        "ATE [cm]": 100 * measured.ate_m,
        "RPE [mm]": 1000 * measured.rpe_m,
        "RPE [deg]": measured.rpe_deg,
        "way [m]": float(way),
    }


def method(name: str, load: Callable[[], Any]) -> Callable[[Sequence], list[Pose | None]]:
    """Return the odometry of a method's name: :data:`BASELINE`, or what ``load`` makes a matcher of."""
    if name == BASELINE:
        return follow_with_orb
    matcher = load()
    return lambda sequence: follow(sequence, matcher)
