"""Non-rigid RANSAC written the straightforward way, to measure against.

A batch of triples of matches, a plane in (x, y, x', y') through each by its singular vectors, and every match projected
onto every plane (facts: Tran et al., ECCV 2012, and DALF's repository).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semantic_matcher_core.geometry.thin_plate import ThinPlateSpline


def plain_nonrigid_inliers(
    points0: Tensor, points1: Tensor, threshold: float, hypotheses: int = 4000, seed: int = 0
) -> Tensor:
    """Return ``N`` bool of ``N x 2`` matched points: those within ``threshold`` of the plane that has most of them."""
    points = torch.cat([_normalised(points0), _normalised(points1)], dim=1)
    generator = torch.Generator().manual_seed(seed)
    triples = points[torch.randint(len(points), (hypotheses, 3), generator=generator)]
    centre = triples.mean(dim=1, keepdim=True)
    _, values, axes = torch.linalg.svd(triples - centre)
    axes = axes[:, :2]
    offset = points[None] - centre
    residual = (offset - (offset @ axes.transpose(1, 2)) @ axes).norm(dim=2)
    inliers = (residual < threshold)[values[:, 1] > 1e-3]
    return inliers[inliers.sum(dim=1).argmax()]


def _normalised(points: Tensor) -> Tensor:
    # One mean over x and y, as published.
    centred = points - points.mean()
    return centred * math.sqrt(2.0) / centred.norm(dim=1).mean()


def gathered_by_full_splines(points0: Tensor, points1: Tensor, inliers: Tensor, tolerance: float) -> Tensor:
    """Return ``N`` bool: matches near a spline through all matches gathered so far, fitted anew until none is added."""
    source, target = _normalised(points0), _normalised(points1)
    grown = inliers
    for _ in range(20):
        spline = ThinPlateSpline.fit(source[grown], target[grown], 1e-3)
        previous, grown = grown, (spline(source) - target).norm(dim=1) < tolerance
        if torch.equal(grown, previous):
            break
    return grown if int(grown.sum()) >= int(inliers.sum()) else inliers
