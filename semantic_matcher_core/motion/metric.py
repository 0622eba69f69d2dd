"""Metric pose between two views, the first with depth: PnP, then a refinement that weighs what each point knows.

The consensus is found by RANSAC over P3P (:mod:`semantic_matcher_core.geometry.robust`). The refinement minimises, over
the pose alone, the differences in pixels and in inverse depth where the second view has it too, each weighted by the
noise of both views: the noise of a stereo camera's disparity, or of a depth camera, is close to normal in inverse depth
(Montiel, Civera and Davison, RSS 2006).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from semantic_matcher_core.errors import PoseError, ShapeError
from semantic_matcher_core.geometry import robust
from semantic_matcher_core.motion.pose import Pose, skew

# Points that two views must share before a pose is believed.
MIN_INLIERS = 12
# Noise of keypoints, in pixels, that they are weighed with; the covariance follows the noise really seen.
_KEYPOINT_STD_PX = 0.5
# Where patches are aligned.
_ALIGNED_STD_PX = 0.1
# How much the noise of depth may differ from what is expected, squared.
_LEAST_DEPTH_FACTOR, _MOST_DEPTH_FACTOR = 1 / 16, 100.0
# What stands still to the last bit is not known to better than this.
_LEAST_STD_PX = 0.01
# A point this many standard deviations away, squared, does not belong.
_GATE = 16.0
# Cauchy's weight function falls to a half here, squared (Huber, Robust Statistics: 95 % efficiency).
_CAUCHY = 2.385**2
# Parts of an image, each way, over which errors are summed.
_CELLS = 3
# Medians of the chi-squared distribution with one, two and three degrees of freedom.
_MEDIAN_1, _MEDIAN_2, _MEDIAN_3 = 0.455, 1.386, 2.366
_UNKNOWN = 1e6
# Steps end when one changes the sum of squares by less than this share of what noise does to one value.
_SETTLED = 5e-2
# Rounds end when no larger share of the points comes or goes.
_SAME = 0.01
# Matches lie on a line where this share of them is no farther from it than so many standard deviations.
_NEARLY_ALL, _WIDE = 0.9, 4.0
_NO_SPREAD = "the matches do not determine a pose; do all lie in one place, on one line, or on a plane seen head-on?"


@dataclass(frozen=True, eq=False)
class Observation:
    """Points as one camera sees them.

    Attributes:
        rays: ``N x 2`` float64, x and y on the plane z = 1 of the optical frame, without distortion.
        inverse_depth: ``N`` float64 in 1/m, along z; NaN where it is not known.
        inverse_depth_std: ``N`` float64, its standard deviation.
        focal: mean focal length in pixels, which turns pixels into rays.
    """

    rays: np.ndarray
    inverse_depth: np.ndarray
    inverse_depth_std: np.ndarray
    focal: float

    def __post_init__(self) -> None:
        count = len(self.rays)
        if self.rays.shape != (count, 2) or self.inverse_depth.shape != (count,):
            raise ShapeError(f"rays N x 2 with N depths, got {self.rays.shape} and {self.inverse_depth.shape}")
        if self.inverse_depth_std.shape != (count,):
            raise ShapeError(f"{count} points need as many standard deviations, got {self.inverse_depth_std.shape}")

    def __len__(self) -> int:
        return len(self.rays)

    def __getitem__(self, rows: np.ndarray) -> Observation:
        """Return some of the points, by index or mask."""
        return Observation(self.rays[rows], self.inverse_depth[rows], self.inverse_depth_std[rows], self.focal)

    @property
    def known(self) -> np.ndarray:
        """``N`` bool: where depth is known."""
        return np.isfinite(self.inverse_depth) & np.isfinite(self.inverse_depth_std) & (self.inverse_depth > 0)

    @property
    def points(self) -> np.ndarray:
        """``N x 3`` points in the optical frame, in metres; NaN where depth is not known."""
        depth = 1.0 / np.where(self.known, self.inverse_depth, np.nan)
        return np.column_stack([self.rays * depth[:, None], depth])


@dataclass(frozen=True, eq=False)
class PoseEstimate:
    """A pose, how well it is known, and what it rests on.

    Attributes:
        pose: of the second view in the first one's frame (or in that of the points given).
        covariance: ``6 x 6``, see :mod:`semantic_matcher_core.motion`.
        inliers: ``M`` bool, the matches that agree with it.
        residual_px: median distance of the inliers, in pixels.
    """

    pose: Pose
    covariance: np.ndarray
    inliers: np.ndarray
    residual_px: float


def metric_pose(
    reference: Observation,
    current: Observation,
    *,
    threshold_px: float = 3.0,
    min_inliers: int = MIN_INLIERS,
    seed: int = 0,
    found: tuple[Pose, np.ndarray, np.ndarray] | None = None,
    aligned: np.ndarray | None = None,
) -> PoseEstimate:
    """Estimate the pose of the current view in the reference's frame, in metres.

    Args:
        reference: ``M`` matched points; those without depth are of no use here.
        current: the same points in the second view; depth is used where it is known.
        threshold_px: largest distance of an inlier, in pixels, while the consensus is sought.
        min_inliers: fewer matches that agree are no pose.
        seed: of the random numbers; the same seed gives the same result.
        found: what :func:`consensus` gave for the same points, where it was asked already.
        aligned: ``M`` bool: whose place in the second view was found by aligning patches, so that it is less noisy.

    Raises:
        ShapeError: different numbers of points.
        PoseError: too few points with depth, too few that agree, or points that do not determine a pose.
    """
    if found is None:
        found = consensus(reference, current, threshold_px=threshold_px, min_inliers=min_inliers, seed=seed)
    start, usable, agree = found
    fine = np.zeros(len(usable), bool) if aligned is None else aligned[usable]
    pose, covariance, agree, pixels = _refined(start, reference[usable], current[usable], agree, fine, min_inliers)
    inliers = np.zeros(len(reference), bool)
    inliers[usable[agree]] = True
    return PoseEstimate(pose, covariance, inliers, pixels)


def consensus(
    reference: Observation, current: Observation, *, threshold_px: float, min_inliers: int, seed: int = 0
) -> tuple[Pose, np.ndarray, np.ndarray]:
    """Find the pose that most points agree with; arguments and errors as for :func:`metric_pose`.

    Returns:
        The pose, the rows of the ``K`` points that have depth, and ``K`` bool: which of them agree.
    """
    if len(reference) != len(current):
        raise ShapeError(f"matched points come in pairs, got {len(reference)} and {len(current)}")
    usable = np.flatnonzero(reference.known & np.isfinite(current.rays).all(axis=1))
    if len(usable) < min_inliers:
        raise PoseError(f"{len(usable)} of {len(reference)} matches have depth; a pose needs {min_inliers}")
    pose, agree = _consensus(reference[usable].points, current[usable], threshold_px, seed)
    if agree.sum() < min_inliers:
        raise PoseError(f"{agree.sum()} of {len(usable)} matches agree on one motion; a pose needs {min_inliers}")
    return pose, usable, agree


def reprojection(pose: Pose, reference: Observation, current: Observation) -> np.ndarray:
    """Return ``M`` distances in pixels of the current view's points from where the reference's are; infinite behind
    it.
    """
    points = (reference.points - pose.translation) @ pose.rotation
    ahead = points[:, 2] > 1e-6
    place = points[:, :2] / np.where(ahead, points[:, 2], 1.0)[:, None]
    return np.where(ahead, np.linalg.norm(place - current.rays, axis=1) * current.focal, np.inf)


def warps(pose: Pose, reference: Observation, current: Observation) -> np.ndarray:
    """Return ``M x 2 x 2``: what a small step in the reference's image is in the current one, in pixels.

    What is seen is taken to face the reference's camera. Lens distortion, which changes little from one image to the
    other, is left out.
    """
    points = (reference.points - pose.translation) @ pose.rotation
    depth = points[:, 2]
    projected = points[:, :2] / depth[:, None]
    across = pose.rotation.T[:, :2] / reference.inverse_depth[:, None, None]
    step = (across[:, :2] - projected[:, :, None] * across[:, 2:]) / depth[:, None, None]
    return step * (current.focal / reference.focal)


def _consensus(points: np.ndarray, view: Observation, threshold_px: float, seed: int) -> tuple[Pose, np.ndarray]:
    found = robust.absolute_pose(points, view.rays, view.focal, threshold_px, seed)
    if found is None:
        return Pose(), np.zeros(len(points), bool)
    rotation, translation, agree = found
    return Pose(rotation, translation).inverse(), agree


def _refined(
    pose: Pose, first: Observation, second: Observation, agree: np.ndarray, aligned: np.ndarray, min_inliers: int
) -> tuple[Pose, np.ndarray, np.ndarray, float]:
    """Return the pose, its covariance, which points agree with it, and their median distance in pixels."""
    matched = _Matched.of(first, second, np.where(aligned, _ALIGNED_STD_PX, _KEYPOINT_STD_PX))
    # Noise changes little with the pose: where the consensus has it serves for all steps.
    noise = matched.noise(pose)
    whitening = _whitening(noise)
    scale = 1.0
    for gating in range(3):
        chosen, white = matched[agree], whitening[agree]
        # The first round only finds who belongs and how large the noise is.
        for _ in range(4 if gating else 2):
            residual, jacobian = chosen.whitened(pose, white)
            distance = (residual**2).sum(axis=1)
            if gating == 0:
                scale = _scale(distance, chosen.known)
            weight = 1.0 / (1.0 + distance / (_CAUCHY * scale))
            weighted = (jacobian * weight[:, None, None]).reshape(-1, 6)
            normal = weighted.T @ jacobian.reshape(-1, 6)
            step = solved(normal, weighted.T @ residual.reshape(-1))
            pose = pose.moved(-step)
            if step @ normal @ step < _SETTLED * scale:
                break
        residual, _, ahead = matched.predicted(pose)
        distance = ((whitening @ residual[:, :, None])[:, :, 0] ** 2).sum(axis=1)
        scale = _scale(distance[agree], matched.known[agree])
        now = (distance <= _GATE * scale) & ahead
        if now.sum() < min_inliers:
            raise PoseError(f"{now.sum()} of {len(first)} matches agree on one motion; a pose needs {min_inliers}")
        settled, agree = (now != agree).sum() <= _SAME * len(agree), now
        if gating == 0:
            # What points weigh by their place in the image and by their depth follows the noise really seen: patches
            # align to a hundredth of a pixel, but a shutter that rolls or a lens known badly moves them by more.
            matched = matched.as_noisy_as(residual, noise, agree, aligned)
            whitening = _whitening(matched.noise(pose))
            scale = 1.0
        elif settled:
            break
    chosen = matched[agree]
    check_spread(chosen.off_a_line() / np.sqrt(scale))
    residual, jacobian = chosen.whitened(pose, whitening[agree])
    weight = 1.0 / (1.0 + (residual**2).sum(axis=1) / (_CAUCHY * scale))
    weighted = jacobian * weight[:, None, None]
    normal = weighted.reshape(-1, 6).T @ jacobian.reshape(-1, 6)
    # Huber's sandwich: right whatever noise the residuals really have, as long as it is independent from point to
    # point. Its bread is the true second derivative, which the weights of the steps above leave out.
    score = (weighted * residual[:, :, None]).sum(axis=1)
    inverse = solved(normal - 2 / (_CAUCHY * scale) * score.T @ score, np.eye(6))
    score /= 1 - leverage(((weighted @ inverse) * jacobian).sum(axis=(1, 2)))[:, None]
    spread = score.T @ score + normal * (_LEAST_STD_PX / first.focal) ** 2 / chosen.across.min()
    covariance = inverse @ (spread * _alikeness(first.rays[agree], score, spread)) @ inverse
    pixels = float(np.median(np.linalg.norm(chosen.predicted(pose)[0][:, :2], axis=1))) * second.focal
    return pose, (covariance + covariance.T) / 2, agree, pixels


@dataclass(frozen=True, eq=False)
class _Matched:
    """``M`` points of the first view as the second one sees them, made ready for the steps of the refinement.

    Attributes:
        points: ``M x 3`` in the first view's frame.
        rays: ``M x 3`` of the first view, z = 1.
        depth, depth_std: ``M``, along z in the first view.
        seen: ``M x 3``: the second view's ray and inverse depth (0 where it is not known).
        known: ``M`` bool, where the second view knows the depth.
        variance: ``M x 3`` of ``seen``.
        across: ``M``, variance of the first view's rays.
    """

    points: np.ndarray
    rays: np.ndarray
    depth: np.ndarray
    depth_std: np.ndarray
    seen: np.ndarray
    known: np.ndarray
    variance: np.ndarray
    across: np.ndarray

    @classmethod
    def of(cls, first: Observation, second: Observation, keypoint_std: np.ndarray) -> _Matched:
        known = second.known
        rho = np.where(known, second.inverse_depth, 0.0)
        in_second = (keypoint_std / second.focal) ** 2
        return cls(
            first.points,
            np.column_stack([first.rays, np.ones(len(first))]),
            1.0 / first.inverse_depth,
            first.inverse_depth_std / first.inverse_depth**2,
            np.column_stack([second.rays, rho]),
            known,
            np.column_stack([in_second, in_second, np.where(known, second.inverse_depth_std, _UNKNOWN) ** 2]),
            (keypoint_std / first.focal) ** 2,
        )

    def __getitem__(self, rows: np.ndarray) -> _Matched:
        return _Matched(
            self.points[rows],
            self.rays[rows],
            self.depth[rows],
            self.depth_std[rows],
            self.seen[rows],
            self.known[rows],
            self.variance[rows],
            self.across[rows],
        )

    def predicted(self, pose: Pose) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return residuals ``M x 3`` (two of rays, one of inverse depth), what is predicted, and ``M`` bool: before the
        second camera.
        """
        points = (self.points - pose.translation) @ pose.rotation
        inverse = 1.0 / np.where(np.abs(points[:, 2]) > 1e-6, points[:, 2], 1e-6)
        predicted = np.column_stack([points[:, :2] * inverse[:, None], inverse])
        residual = predicted - self.seen
        residual[~self.known, 2] = 0.0
        return residual, predicted, points[:, 2] > 0

    def change(self, pose: Pose, predicted: np.ndarray) -> np.ndarray:
        """Return how residuals change, ``M x 3 x 3``, with the points in the first view's frame."""
        # d(x/z, y/z, 1/z) = (dx - x/z dz, dy - y/z dz, -1/z dz) / z.
        change = -predicted[:, :, None] * pose.rotation[:, 2]
        change[:, :2] += pose.rotation[:, :2].T
        change *= predicted[:, 2, None, None]
        return change

    def noise(self, pose: Pose) -> np.ndarray:
        """Return ``M x 3 x 3`` covariances of the residuals."""
        change = self.change(pose, self.predicted(pose)[1])
        # What the first view's noise does to the residual: its keypoint, and its depth along the ray.
        along = (change @ self.rays[:, :, None])[:, :, 0] * self.depth_std[:, None]
        across = change[:, :, :2] * self.depth[:, None, None]
        noise = self.across[:, None, None] * (across @ across.transpose(0, 2, 1))
        noise += along[:, :, None] * along[:, None, :]
        noise[:, [0, 1, 2], [0, 1, 2]] += self.variance
        return noise

    def off_a_line(self) -> np.ndarray:
        """Return ``M`` distances from the line in space that is nearest to the points, in standard deviations."""
        centred = self.points - self.points.mean(axis=0)
        along = np.linalg.svd(centred, full_matrices=False)[2][0]
        off = centred - (centred @ along)[:, None] * along
        size = np.linalg.norm(off, axis=1)
        deep = (off * self.rays).sum(axis=1) / np.maximum(size, 1e-30) * self.depth_std
        return size / np.sqrt(self.across * self.depth**2 + deep**2)

    def as_noisy_as(self, residual: np.ndarray, noise: np.ndarray, agree: np.ndarray, aligned: np.ndarray) -> _Matched:
        """Return the same points with the noise that those which agree show: of rays, aligned and not, and of depth.

        Args:
            residual, noise: ``M x 3`` and the covariances assumed until now, ``M x 3 x 3``.
            agree, aligned: ``M`` bool.

        Raises:
            PoseError: depths that cannot be of the same points.
        """
        rays = residual[:, :2, None]
        off = (rays * np.linalg.solve(noise[:, :2, :2], rays)).sum(axis=(1, 2)) / _MEDIAN_2
        deep = residual[:, 2] ** 2 / noise[:, 2, 2] / _MEDIAN_1
        factor = np.ones(len(off))
        # Keypoints lean to where they were found before: beside aligned patches they are not taken for better than
        # they can be, however small their residuals.
        least = 1.0 if aligned.any() else (_LEAST_STD_PX / _KEYPOINT_STD_PX) ** 2
        for group, floor in ((aligned, (_LEAST_STD_PX / _ALIGNED_STD_PX) ** 2), (~aligned, least)):
            if (group & agree).any():
                factor[group] = max(float(np.median(off[group & agree])), floor)
        both = agree & self.known
        depth = max(float(np.median(deep[both])), _LEAST_DEPTH_FACTOR) if both.any() else 1.0
        if depth > _MOST_DEPTH_FACTOR:
            raise PoseError(
                f"the depths of the two views differ by {depth**0.5:.0f} times their noise: check their units, and "
                "camera_info"
            )
        variance = self.variance * np.column_stack([factor, factor, np.where(self.known, depth, 1.0)])
        return replace(self, variance=variance, across=self.across * factor, depth_std=self.depth_std * np.sqrt(depth))

    def whitened(self, pose: Pose, whitening: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return residuals ``M x 3`` and their Jacobian ``M x 3 x 6`` by the pose's small change, both whitened."""
        residual, predicted, _ = self.predicted(pose)
        whitened = whitening @ self.change(pose, predicted)
        jacobian = np.concatenate([-whitened, whitened @ skew(self.points - pose.translation)], axis=2)
        return (whitening @ residual[:, :, None])[:, :, 0], jacobian


def check_spread(across: np.ndarray) -> None:
    """Refuse matches of which nearly all lie on one line, as far as their noise lets tell.

    What is turned about that line looks the same, and neither residuals nor their derivatives show it.

    Args:
        across: ``M`` distances from the line, in standard deviations of the noise.

    Raises:
        PoseError: hardly any is more than that.
    """
    if not np.quantile(across, _NEARLY_ALL) > _WIDE:
        raise PoseError(_NO_SPREAD)


def _whitening(noise: np.ndarray) -> np.ndarray:
    """Return ``M x 3 x 3`` that make residuals of unit noise, whose square is the distance squared."""
    return np.linalg.inv(np.linalg.cholesky(noise))


def leverage(share: np.ndarray) -> np.ndarray:
    """Return how much of its own residual each point has fitted away, kept below 1 (MacKinnon and White, 1985, HC3).

    Few points fit themselves well, and their residuals alone would make the covariance too small.
    """
    return np.clip(share, 0.0, 0.7)


def _alikeness(rays: np.ndarray, score: np.ndarray, spread: np.ndarray) -> float:
    """Return how much larger the covariance is for errors that are alike in parts of the image, 1 or more.

    A shutter that rolls, motion blur and a lens known badly move neighbours together, which the sandwich alone takes
    for independent noise. Sums over parts of the image tell (Liang and Zeger, 1986); one number for all directions is
    steadier than their matrix.
    """
    low, high = rays.min(axis=0), rays.max(axis=0)
    cell = np.minimum((rays - low) / (high - low + 1e-12) * _CELLS, _CELLS - 1).astype(np.intp)
    sums = np.zeros((_CELLS**2, 6))
    np.add.at(sums, cell[:, 0] * _CELLS + cell[:, 1], score)
    used = int(sums.any(axis=1).sum())
    if used < 2:
        return 1.0
    return max(1.0, float(np.trace(solved(spread, sums.T @ sums))) / 6 * used / (used - 1))


def _scale(distance: np.ndarray, known: np.ndarray) -> float:
    """Return how much larger, squared, the residuals are than their assumed noise; never so small that all would be
    gated.
    """
    return max(float(np.median(distance / np.where(known, _MEDIAN_3, _MEDIAN_2))), 0.02)


def solved(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve the normal equations of a least-squares problem.

    Raises:
        PoseError: they have no solution to speak of: the matches leave a direction open.
    """
    # Columns are of metres and of radians: scaled to one, so that the condition speaks of the geometry.
    squares = np.diag(normal)
    if not (np.isfinite(squares).all() and (squares > 0).all()):
        raise PoseError("the matches do not determine a pose: they say nothing about some of its directions")
    size = np.sqrt(squares)
    scaled = normal / np.outer(size, size)
    values = np.linalg.eigvalsh(scaled)
    if not values[0] > values[-1] * 1e-12:
        raise PoseError(_NO_SPREAD)
    solution = np.linalg.solve(scaled, right / (size if right.ndim == 1 else size[:, None]))
    return solution / (size if right.ndim == 1 else size[:, None])
