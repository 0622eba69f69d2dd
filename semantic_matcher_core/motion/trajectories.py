"""How far a trajectory is from the true one: absolute and relative errors, as the field's benchmarks have them.

ATE and RPE are those of Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems" (IROS 2012); the alignment
is Umeyama's (PAMI 1991) without a scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from semantic_matcher_core.errors import PoseError, ShapeError
from semantic_matcher_core.motion.pose import Pose, exp_so3, log_so3, nearest_rotation

# Between true poses farther apart than this the camera's place is not known.
_LARGEST_GAP_NS = 250_000_000


@dataclass(frozen=True)
class TrajectoryErrors:
    """Root mean squares.

    Attributes:
        ate_m: distance from the true positions, metres, after the best rigid alignment.
        rpe_m, rpe_deg: of the motion from one pose to the next, metres and degrees; NaN where there are no neighbours.
        poses: how many were compared.
    """

    ate_m: float
    rpe_m: float
    rpe_deg: float
    poses: int


def alignment(points: np.ndarray, onto: np.ndarray) -> Pose:
    """Find the rigid motion that takes ``N x 3`` points closest to others, by least squares.

    Raises:
        ShapeError: not ``N x 3`` both.
    """
    points, onto = np.asarray(points, np.float64), np.asarray(onto, np.float64)
    if points.shape != onto.shape or points.ndim != 2 or points.shape[1] != 3:
        raise ShapeError(f"points to align are N x 3 both, got {points.shape} and {onto.shape}")
    if not len(points):
        return Pose()
    middle, target = points.mean(axis=0), onto.mean(axis=0)
    rotation = nearest_rotation((onto - target).T @ (points - middle))
    return Pose(rotation, target - rotation @ middle)


def trajectory_errors(
    true: Sequence[Pose], found: Sequence[Pose], *, neighbours: Sequence[int] | None = None
) -> TrajectoryErrors:
    """Measure the errors of poses against the true ones of the same moments.

    Args:
        true, found: of ``N`` moments in order, in any two frames.
        neighbours: number of each moment; those that follow each other without a gap count for the relative errors.
            ``None`` for all.

    Raises:
        ShapeError: different numbers of poses.
        PoseError: fewer than three.
    """
    if len(true) != len(found):
        raise ShapeError(f"each pose needs its true one, got {len(found)} and {len(true)}")
    if len(found) < 3:
        raise PoseError(f"errors of a trajectory need three poses, got {len(found)}")
    places, truth = (np.array([pose.translation for pose in poses]) for poses in (found, true))
    distance = np.linalg.norm(alignment(places, truth).apply(places) - truth, axis=1)
    numbers = range(len(found)) if neighbours is None else neighbours
    wrong = [
        (true[i].inverse() @ true[j]).inverse() @ (found[i].inverse() @ found[j])
        for i, j in pairwise(range(len(found)))
        if numbers[j] == numbers[i] + 1
    ]
    moved = [float(np.linalg.norm(pose.translation)) for pose in wrong]
    turned = [np.degrees(pose.angle) for pose in wrong]
    return TrajectoryErrors(_rms(distance), _rms(moved), _rms(turned), len(found))


def poses_at(stamps: np.ndarray, poses: Sequence[Pose], when: np.ndarray) -> list[Pose | None]:
    """Find where a trajectory was at some moments, between its poses by interpolation.

    Args:
        stamps: ``N`` nanoseconds, in order.
        poses: of them.
        when: ``M`` nanoseconds.

    Returns:
        ``M`` poses; ``None`` before the first and after the last, and in gaps of more than a quarter of a second.
    """
    stamps, when = np.asarray(stamps, np.int64), np.asarray(when, np.int64)
    found: list[Pose | None] = []
    for moment, after in zip(when.tolist(), np.searchsorted(stamps, when).tolist(), strict=True):
        if after < len(stamps) and stamps[after] == moment:
            found.append(poses[after])
        elif after in (0, len(stamps)) or stamps[after] - stamps[after - 1] > _LARGEST_GAP_NS:
            found.append(None)
        else:
            first, second = poses[after - 1], poses[after]
            share = float(moment - stamps[after - 1]) / float(stamps[after] - stamps[after - 1])
            turn = exp_so3(share * log_so3(second.rotation @ first.rotation.T))
            place = first.translation + share * (second.translation - first.translation)
            found.append(Pose(turn @ first.rotation, place))
    return found


def _rms(values: Sequence[float] | np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else float("nan")
