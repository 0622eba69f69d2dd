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
from semantic_matcher_core.geometry.smoothing_spline import SmoothingProblem, well_spread
from semantic_matcher_core.geometry.thin_plate import normalisation

# Planes times matches judged at once: half a megabyte, which stays in the cache.
_BLOCK = 1 << 17
_MINIMUM = 3
_ROUNDS, _SMOOTHING, _SPLINE_SHARE, _CONTROL, _KEPT = 20, 5e-4, 0.5, 200, 0.95


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
    # The squared distance |p - o|² - |A (p - o)|² is quadratic in p: one product gives it for all planes and points.
    first, second = torch.triu_indices(4, 4, device=points.device)
    terms = torch.cat([points[:, first] * points[:, second], points, torch.ones_like(points[:, :1])], dim=1)
    across = torch.eye(4, device=points.device) - axes.transpose(1, 2) @ axes
    linear = (across @ origin[:, :, None])[:, :, 0]
    twice = torch.where(first == second, 1.0, 2.0)
    constant = (origin * linear).sum(dim=1, keepdim=True)
    forms = torch.cat([across[:, first, second] * twice, -2.0 * linear, constant], dim=1)
    ones = torch.ones_like(points[:, 0])
    blocks = forms.split(max(1, _BLOCK // len(points)))
    # Counted by a product: a sum of truth values is slower than all the rest.
    counts = torch.cat([(block @ terms.T).lt_(threshold**2) @ ones for block in blocks])
    best = int(counts.argmax())
    return origin[best], axes[best]


def _distance(points: Tensor, origin: Tensor, axes: Tensor) -> Tensor:
    centred = points - origin
    return (centred - (centred @ axes.T) @ axes).norm(dim=1)


def _gathered_by_spline(points: Tensor, inliers: Tensor, tolerance: float) -> Tensor:
    """Return matches near a smoothing spline that starts from the plane's inliers and follows what it gathers.

    It bends at a few of all matches: the tolerance has no use for finer bends, and no single match leads it astray.
    """
    places, moves = points[:, :2].double(), (points[:, 2:] - points[:, :2]).double()
    _, scale = normalisation(places)
    control = places[well_spread(places, _CONTROL)] / scale
    grown = inliers
    problem = SmoothingProblem(places / scale, moves / scale, control, _SMOOTHING)
    for _ in range(_ROUNDS):
        if int(grown.sum()) < 2 * _MINIMUM:
            break
        problem.choose(grown)
        try:
            theta = problem.solve()
        except ShapeError:
            break  # the inliers lie on a line: no spline goes through them
        previous, grown = grown, problem.distances(theta) * scale < tolerance
        if bool((grown == previous).all()):
            break
    # It may drop false ones of the plane's, but one that lost many went astray; the plane's answer stands.
    return grown if int(grown.sum()) >= _KEPT * int(inliers.sum()) else inliers
