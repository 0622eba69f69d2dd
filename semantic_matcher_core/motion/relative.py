"""Relative pose of two calibrated views, up to scale."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, PoseError
from semantic_matcher_core.geometry import robust
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.motion.metric import check_spread, leverage, solved
from semantic_matcher_core.motion.pose import Pose, exp_so3, nearest_rotation, skew
from semantic_matcher_core.motion.view import observation
from semantic_matcher_core.types import Matches

MIN_INLIERS = 15
# There is a step where a rotation alone leaves more than the epipolar geometry by this many standard deviations of what
# chance does; squared residuals are clipped at the second number times the noise.
_SIGNIFICANT, _CLIP = 12.0, 16.0
# As in metric.py: Cauchy's weights, the gate, and the median of chi-squared with one degree of freedom.
_CAUCHY, _GATE, _MEDIAN_1 = 2.385**2, 12.0, 0.455
# The direction of a step that is less certain than this, in radians, is not known.
_MAX_DIRECTION_STD = 0.3
_LEAST_STD_PX = 0.05
# What is nearer than the middle distance divided by this is taken for a wrong match.
_NEAREST = 15.0
# Points this near to where the step leads to, in standard deviations of their noise, tell of it by chance: the line
# that they should lie on turns about them with every change of the step.
_NEAR_EPIPOLE = 20.0
# The second derivative of the cost is taken by steps of this many standard deviations.
_SHARE = 1.0
# A cost that is flatter than that, as a share of what the points' own noise lets expect, has no minimum to speak of.
_FLATTEST = 0.05
_STEP = 1e-6
# Directions that differ by so many standard deviations are of different motions.
_APART = 5.0


@dataclass(frozen=True, eq=False)
class RelativePose:
    """Pose of the second camera in the first one's optical frame; its translation has length 1 (unknown scale).

    Attributes:
        pose: conventions as in :mod:`semantic_matcher_core.motion`. Without a step, its translation is zero.
        has_translation: false where the camera only turned, or moved too little to be told from that.
        covariance: ``6 x 6``; that of the translation is of rank 2, across its direction; zero without a step.
        inliers: ``M`` bool, the matches that agree.
        residual_px: median distance of the inliers from their epipolar lines, in pixels.
    """

    pose: Pose
    has_translation: bool
    covariance: np.ndarray
    inliers: np.ndarray
    residual_px: float


def relative_pose(
    matches: Matches,
    camera0: Camera | np.ndarray,
    camera1: Camera | np.ndarray | None = None,
    *,
    threshold_px: float = 1.0,
    min_inliers: int = MIN_INLIERS,
    seed: int = 0,
) -> RelativePose:
    """Estimate how the camera moved between two images.

    RANSAC over the five-point solver, then the least Sampson error over all that agree, and its covariance
    (Hartley and Zisserman, 2nd ed., 11.4.3). Where a rotation explains the matches as well, the camera only turned.

    Args:
        matches: of one pair; where a geometric check ran, its inliers alone are used.
        camera0, camera1: of the first and second image; one for both where the second is left out. A ``3 x 3`` matrix
            is a camera without distortion.
        threshold_px: largest Sampson distance of an inlier, in pixels.
        min_inliers: fewer matches that agree are no pose.
        seed: of the random numbers; the same seed gives the same result.

    Raises:
        PoseError: too few matches, too few that agree on one motion, or matches that do not tell which motion it was:
            in one place, on one line of an image, or on a plane that two motions explain.
        ConfigError: a threshold that is not positive, or matches of several pairs.

    Example:
        >>> import numpy as np, torch
        >>> from semantic_matcher_core.geometry.camera import Camera
        >>> from semantic_matcher_core.types import Matches
        >>> points = np.random.default_rng(0).uniform((-2, -2, 4), (2, 2, 8), (100, 3))
        >>> camera = Camera(np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]))
        >>> def seen(points): return torch.tensor(points[:, :2] / points[:, 2:] * 500 + (320, 240)).float()
        >>> indices = torch.arange(100)[:, None].expand(-1, 2)
        >>> step = relative_pose(Matches(indices, seen(points), seen(points - (0.3, 0, 0)), torch.ones(100)), camera)
        >>> step.has_translation, step.pose.translation.round(2).tolist()
        (True, [1.0, 0.0, 0.0])
    """
    if matches.batch_size != 1:
        raise ConfigError(f"relative_pose takes the matches of one pair, got {matches.batch_size}; use of_pair()")
    if not (np.isfinite(threshold_px) and threshold_px > 0):
        raise ConfigError(f"threshold_px must be a positive number of pixels, got {threshold_px!r}")
    camera1 = camera0 if camera1 is None else camera1
    views = [
        observation(points.detach().cpu().double().numpy(), camera)
        for points, camera in ((matches.keypoints0, camera0), (matches.keypoints1, camera1))
    ]
    usable = np.isfinite(views[0].rays).all(axis=1) & np.isfinite(views[1].rays).all(axis=1)
    if matches.inlier is not None:
        usable &= matches.inlier.cpu().numpy()
    focal = (views[0].focal + views[1].focal) / 2
    rays = [view.rays[usable] for view in views]
    if len(rays[0]) < min_inliers:
        raise PoseError(f"{len(rays[0])} matches; a relative pose needs {min_inliers}")
    pose, agree = _consensus(rays, focal, threshold_px, seed)
    if agree.sum() < min_inliers:
        raise PoseError(f"{agree.sum()} of {len(agree)} matches agree on one motion; a pose needs {min_inliers}")
    pose, agree, scale = _refined(pose, rays[0], rays[1], agree, min_inliers, (_LEAST_STD_PX / focal) ** 2)
    inliers = np.zeros(len(matches), bool)
    inliers[np.flatnonzero(usable)[agree]] = True
    first, second = (ray[agree] for ray in rays)
    for seen in (first, second):
        centred = seen - seen.mean(axis=0)
        check_spread(np.abs(centred @ np.linalg.svd(centred, full_matrices=False)[2][1]) / np.sqrt(scale))
    distance = np.abs(_sampson(pose, first, second))
    residual_px = float(np.median(distance)) * focal

    rotation = _rotation_between(second, first)
    turned = np.column_stack([second, np.ones(len(second))]) @ rotation.T
    # Noise of both images is in it; each coordinate is then comparable with a Sampson distance.
    left_over = (turned[:, :2] / turned[:, 2:] - first) / np.sqrt(2)
    needed = 1 + _SIGNIFICANT * np.sqrt(2 / len(first))
    rotated, moved = (np.mean(np.minimum(error**2, _CLIP * scale)) for error in (left_over, distance))
    if rotated - moved >= (needed - 1) * scale:
        covariance = _covariance(pose, first, second, scale)
        std = float(np.sqrt(np.trace(covariance[:3, :3])))
        if std <= _MAX_DIRECTION_STD:
            _check_other_motion(pose, first, second, float(moved + (needed - 1) * scale), _CLIP * scale, std)
            return RelativePose(pose, True, covariance, inliers, residual_px)
        # No turn either: most of the flow that a step makes may be alike for all that is seen.
        raise PoseError("the camera moved, but the matches do not tell where to")
    covariance = np.zeros((6, 6))
    # A step too small to be seen turns the result by as much as it could be without being seen; half of the flow that
    # it makes is alike for all depths, and taken for a turn.
    unseen = 2 * max((needed - 1) * scale, float(rotated - moved))
    rotation, spread = _turn_beside_a_step(rotation, second, first, scale)
    covariance[3:, 3:] = spread + unseen * np.eye(3)
    return RelativePose(Pose(rotation, np.zeros(3)), False, covariance, inliers, residual_px)


def _consensus(rays: list[np.ndarray], focal: float, threshold_px: float, seed: int) -> tuple[Pose, np.ndarray]:
    found = robust.relative_pose(rays[0], rays[1], focal, threshold_px, seed)
    length = 0.0 if found is None else float(np.linalg.norm(found[1]))
    if found is None or not length:
        return Pose(), np.zeros(len(rays[0]), bool)
    pose = Pose(found[0], found[1] / length).inverse()
    return pose, np.abs(_sampson(pose, *rays)) <= threshold_px / focal


def _sampson(pose: Pose, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return ``M`` signed Sampson distances of rays from the epipolar geometry, in units of rays."""
    return robust.sampson(skew(pose.translation) @ pose.rotation, second, first)


def _refined(
    pose: Pose, first: np.ndarray, second: np.ndarray, agree: np.ndarray, min_inliers: int, least: float
) -> tuple[Pose, np.ndarray, float]:
    """Return the pose of least Sampson distances with Cauchy's weights, who agrees with it, and the noise found,
    squared.
    """
    for _ in range(2):
        scale = max(float(np.median(_sampson(pose, first[agree], second[agree]) ** 2)) / _MEDIAN_1, least)
        for _ in range(8):
            residual, jacobian, basis = _linearised(pose, first[agree], second[agree])
            weight = _away(pose, first[agree], scale) / (1 + residual**2 / (_CAUCHY * scale))
            normal = (jacobian * weight[:, None]).T @ jacobian
            step = -basis @ solved(normal, jacobian.T @ (weight * residual))
            pose = _unit(pose.moved(step))
            if np.abs(step).max() < 1e-9:
                break
        now = (_sampson(pose, first, second) ** 2 <= _GATE * scale) & _plausible(pose, first, second, agree, scale)
        if now.sum() < min_inliers:
            raise PoseError(f"{now.sum()} of {len(now)} matches agree on one motion; a pose needs {min_inliers}")
        agree = now
    return pose, agree, scale


def _plausible(pose: Pose, first: np.ndarray, second: np.ndarray, agree: np.ndarray, scale: float) -> np.ndarray:
    """Return ``M`` bool: in front of both cameras as far as the noise lets tell, and not much nearer than everything
    else.

    A wrong match that lies on its epipolar line by chance is seen by nothing else, and would move a small step far.
    """
    turned = np.column_stack([second, np.ones(len(second))]) @ pose.rotation.T
    flow = turned[:, :2] / turned[:, 2:] - first
    # Points in front move away from the point that the step leads to.
    away = pose.translation[2] * first - pose.translation[:2]
    along = (flow * away).sum(axis=1) / np.maximum(np.linalg.norm(away, axis=1), 1e-12)
    slack = 4 * np.sqrt(2 * scale)
    return (along >= -slack) & (np.abs(along) <= _NEAREST * np.median(np.abs(along[agree])) + slack)


def _away(pose: Pose, first: np.ndarray, scale: float) -> np.ndarray:
    """Return ``M`` weights, 0 to 1: of what lies where the step leads to, and of what lies away from there."""
    distance = ((pose.translation[2] * first - pose.translation[:2]) ** 2).sum(axis=1)
    return distance / (distance + _NEAR_EPIPOLE**2 * scale)


def _linearised(pose: Pose, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return Sampson distances ``M``, their Jacobian ``M x 5``, and the basis ``6 x 5`` of the changes it is of."""
    # Two directions across the translation, and three of the rotation: what the matches can tell.
    basis = np.zeros((6, 5))
    basis[:3, :2] = np.linalg.svd(pose.translation[None])[2][1:].T
    basis[3:, 2:] = np.eye(3)
    columns = [
        _sampson(_unit(pose.moved(_STEP * column)), first, second)
        - _sampson(_unit(pose.moved(-_STEP * column)), first, second)
        for column in basis.T
    ]
    return _sampson(pose, first, second), np.column_stack(columns) / (2 * _STEP), basis


def _unit(pose: Pose) -> Pose:
    return Pose(pose.rotation, pose.translation / np.linalg.norm(pose.translation))


def _covariance(pose: Pose, first: np.ndarray, second: np.ndarray, scale: float) -> np.ndarray:
    """Return ``6 x 6``: of the rotation, and of the translation across its direction (Huber's sandwich, as in
    metric.py).
    """
    residual, jacobian, basis = _linearised(pose, first, second)
    away = _away(pose, first, scale)
    weight = away / (1 + residual**2 / (_CAUCHY * scale))
    score = jacobian * (weight * residual)[:, None]
    # Steps along the axes of the ellipsoid of errors: along those of the parameters they would leave the narrow valley
    # in which turning and moving make up for each other.
    values, vectors = np.linalg.eigh(solved((jacobian * weight[:, None]).T @ jacobian, np.eye(5)) * scale)
    axes = vectors * (_SHARE * np.sqrt(np.maximum(values, 0.0)))

    def cost(change: np.ndarray) -> float:
        distance = _sampson(_unit(pose.moved(basis @ axes @ change)), first, second)
        return float((away * np.log1p(distance**2 / (_CAUCHY * scale))).sum()) * _CAUCHY * scale / 2

    # The bread is the cost's own second derivative. Jᵀ J would count the noise of the points as knowledge: where the
    # step is small, they seem to move as much by noise as by the step.
    curvature = np.empty((5, 5))
    unit, middle = np.eye(5), cost(np.zeros(5))
    for i in range(5):
        curvature[i, i] = cost(unit[i]) - 2 * middle + cost(-unit[i])
        for j in range(i):
            plus, minus = unit[i] + unit[j], unit[i] - unit[j]
            curvature[i, j] = curvature[j, i] = (cost(plus) - cost(minus) - cost(-minus) + cost(-plus)) / 4
    # In these coordinates a quadratic cost would be the same in all directions. Where the true one is flatter, less is
    # known; where it is steeper, that is a ripple, which few points make.
    found, directions = np.linalg.eigh(curvature / (_SHARE**2 * scale))
    if found[0] <= _FLATTEST:
        return np.full((6, 6), np.inf)
    axes = axes @ directions / _SHARE
    inverse = (axes / np.minimum(found, 1.0)) @ axes.T / scale
    score /= 1 - leverage(np.einsum("ma,ab,mb->m", jacobian, inverse, jacobian) * weight)[:, None]
    # Where few points decide they fit themselves, and their residuals tell too little: they have the noise of all.
    spread, turned = np.linalg.eigh(axes.T @ (score.T @ score) @ axes / scale**2)
    axes = (axes / np.minimum(found, 1.0)) @ turned
    covariance = basis @ (axes * np.maximum(spread, 1.0)) @ axes.T @ basis.T
    return (covariance + covariance.T) / 2


def _check_other_motion(
    pose: Pose, first: np.ndarray, second: np.ndarray, limit: float, clip: float, std: float
) -> None:
    """Refuse matches on a plane, which two motions explain to the last digit (Longuet-Higgins, 1986).

    Args:
        pose: the one that was found.
        first, second: rays of the matches.
        limit, clip: up to which mean of squared residuals, each clipped, one plane explains them.
        std: of the direction of the step, in radians.

    Raises:
        PoseError: all lie on one plane, and another motion than ``pose`` has it in front of both cameras, too.
    """
    plane, _ = cv2.findHomography(first, second, 0)
    if plane is None:
        return
    x0 = np.column_stack([first, np.ones(len(first))])
    mapped = x0 @ plane.T
    left_over = (mapped[:, :2] / mapped[:, 2:] - second) / np.sqrt(2)
    if not np.mean(np.minimum(left_over**2, clip)) <= limit:
        return
    for rotation, step, normal in zip(*cv2.decomposeHomographyMat(plane, np.eye(3))[1:], strict=True):
        ahead = x0 @ normal > 0
        ahead &= (x0 @ rotation.T + x0 @ normal @ step.T)[:, 2:] > 0
        other = -rotation.T @ step[:, 0]
        if ahead.mean() > 0.99 and other @ pose.translation < np.cos(_APART * std) * np.linalg.norm(other):
            raise PoseError(
                "the matches lie on a plane, and two motions explain them; there is one where something before or "
                "behind the plane is matched, too"
            )


def _rotation_between(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the rotation that takes rays to others, least squares with Cauchy's weights (Wahba's problem; Kabsch)."""
    x = [np.column_stack([rays, np.ones(len(rays))]) for rays in (source, target)]
    x = [rays / np.linalg.norm(rays, axis=1, keepdims=True) for rays in x]
    weight = np.ones(len(source))
    rotation = np.eye(3)
    for _ in range(10):
        rotation = nearest_rotation((x[1] * weight[:, None]).T @ x[0])
        distance = ((x[0] @ rotation.T - x[1]) ** 2).sum(axis=1)
        weight = 1 / (1 + distance / (4 * np.median(distance) + 1e-18))
    return rotation


def _turn_beside_a_step(
    rotation: np.ndarray, source: np.ndarray, target: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a rotation that takes rays to others, and its covariance, whatever step there is over a plane.

    A step before a plane that faces the camera moves everything nearly as a turn does: what sees little of it would
    take all of the step for a turn. So both are estimated, and the step is let go.
    """
    step = np.zeros(3)
    for _ in range(3):
        turned = np.column_stack([source, np.ones(len(source))]) @ rotation.T
        ray = turned / turned[:, 2:]
        # A turn by δθ moves the ray (x, y, 1) by δθ × ray, of which the plane z = 1 sees the part below; of a step by
        # that share of the plane's distance likewise.
        motion = np.concatenate([-skew(ray), np.broadcast_to(np.eye(3), (len(ray), 3, 3))], axis=2)
        jacobian = motion[:, :2] - ray[:, :2, None] * motion[:, 2:]
        error = ray[:, :2] + jacobian[:, :, 3:] @ step - target
        weighted = jacobian / (1 + (error**2).sum(axis=1) / (2 * _CAUCHY * scale))[:, None, None]
        normal = np.einsum("mia,mib->ab", weighted, jacobian)
        change = solved(normal, -np.einsum("mia,mi->a", weighted, error))
        rotation, step = exp_so3(change[:3]) @ rotation, step + change[3:]
    return nearest_rotation(rotation), solved(normal, np.eye(6))[:3, :3] * 2 * scale
