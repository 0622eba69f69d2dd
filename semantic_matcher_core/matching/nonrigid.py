"""Which matches agree with a smooth deformation: non-rigid RANSAC, and its refinement by a thin-plate spline.

A match is a point (x, y, x', y') of a 4-D space in which the matches of a smooth surface lie near a 2-D plane, locally
(Tran et al., "In defence of RANSAC for outlier rejection in deformable registration", ECCV 2012; DALF's published code
uses the same test). One plane covers only what bends little, so its inliers seed a smoothing spline, which then gathers
the rest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.geometry.thin_plate import ThinPlateSpline

# Bounds one block of hypotheses times matches to about 64 MB of float32.
_BLOCK = 1 << 24
_MINIMUM = 3
_ROUNDS, _SMOOTHING, _SPLINE_SHARE = 20, 1e-3, 0.5


def nonrigid_inliers(
    points0: Tensor,
    points1: Tensor,
    *,
    threshold: float = 0.1,
    hypotheses: int = 4000,
    seed: int = 0,
) -> Tensor:
    """Return matches that agree with one smooth deformation.

    Args:
        points0, points1: ``N x 2`` pixels of matched keypoints; the work is done on their device.
        threshold: distance to the plane, in units in which each point set has a mean radius of √2: 0.1 … 0.2 as
            published (about 10 … 20 px for points spread over 640 x 480).
        hypotheses: planes tried, each through three random matches.
        seed: of the sampling; equal seeds give equal results on a device.

    Returns:
        ``N`` bool; all false for fewer than three matches.

    Raises:
        ShapeError: the two are not both N x 2.
        ConfigError: threshold or hypotheses not positive.
    """
    if points0.ndim != 2 or points0.shape[-1] != 2 or points0.shape != points1.shape:
        raise ShapeError(f"points must both be N x 2, got {tuple(points0.shape)} and {tuple(points1.shape)}")
    if threshold <= 0 or hypotheses < 1:
        raise ConfigError(f"threshold and hypotheses must be positive, got {threshold} and {hypotheses}")
    count = len(points0)
    if count < _MINIMUM:
        return torch.zeros(count, dtype=torch.bool, device=points0.device)
    both = torch.cat([_normalised(points0), _normalised(points1)], dim=1)
    origin, axes = _planes(both, hypotheses, seed)
    inliers = _distance(both, *_best(both, origin, axes, threshold)) < threshold
    return _gathered_by_spline(both, inliers, threshold * _SPLINE_SHARE)


def _normalised(points: Tensor) -> Tensor:
    centred = points.float() - points.float().mean(dim=0)
    return centred * (math.sqrt(2.0) / centred.norm(dim=1).mean().clamp(min=1e-6))


def _planes(points: Tensor, hypotheses: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return origins ``H x 4`` and orthonormal axes ``H x 2 x 4`` of planes through three random points each."""
    generator = torch.Generator().manual_seed(seed)
    picked = points[torch.randint(len(points), (hypotheses, _MINIMUM), generator=generator).to(points.device)]
    origin = picked[:, 0]
    first, second = picked[:, 1] - origin, picked[:, 2] - origin
    length = first.norm(dim=1, keepdim=True)
    first = first / length.clamp(min=1e-9)
    second = second - (second * first).sum(dim=1, keepdim=True) * first
    height = second.norm(dim=1, keepdim=True)
    second = second / height.clamp(min=1e-9)
    # Three points on a line, or one drawn twice, span no plane: such axes match nothing but their own points.
    sound = (length > 1e-3) & (height > 1e-3)
    axes = torch.stack([first, second], dim=1) * sound[:, :, None]
    return origin, axes


def _best(points: Tensor, origin: Tensor, axes: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the plane with most points within the threshold; the first of equals."""
    squared = points.square().sum(dim=1)
    best_count, best = -1, 0
    step = max(1, _BLOCK // len(points))
    for start in range(0, len(origin), step):
        o, a = origin[start : start + step], axes[start : start + step]
        # |p - o|² - |A (p - o)|², expanded so that all of it is matrix products with the points.
        distance = squared - 2.0 * (o @ points.T) + o.square().sum(dim=1, keepdim=True)
        for axis in a.unbind(dim=1):
            distance -= (axis @ points.T - (axis * o).sum(dim=1, keepdim=True)).square_()
        counts = (distance < threshold**2).sum(dim=1)
        top = int(counts.argmax())
        if int(counts[top]) > best_count:
            best_count, best = int(counts[top]), start + top
    return origin[best], axes[best]


def _distance(points: Tensor, origin: Tensor, axes: Tensor) -> Tensor:
    centred = points - origin
    return (centred - (centred @ axes.T) @ axes).norm(dim=1)


def _gathered_by_spline(points: Tensor, inliers: Tensor, tolerance: float) -> Tensor:
    """Return matches near a smoothing spline that starts from the plane's inliers and follows what it gathers."""
    grown = inliers
    for _ in range(_ROUNDS):
        if int(grown.sum()) < 2 * _MINIMUM:
            break
        try:
            spline = ThinPlateSpline.fit(points[grown, :2], points[grown, 2:], _SMOOTHING)
        except ShapeError:
            break  # the inliers lie on a line: no spline goes through them
        previous, grown = grown, (spline(points[:, :2]) - points[:, 2:]).norm(dim=1) < tolerance
        if bool((grown == previous).all()):
            break
    # A spline that lost matches went astray; the plane's answer stands.
    return grown if int(grown.sum()) >= int(inliers.sum()) else inliers
