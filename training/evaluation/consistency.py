"""How well matches agree with geometry, where no ground truth is given.

Inliers of a model fitted to the same matches flatter a method that gives many of them: among hundreds of random matches
some always agree. So each figure comes with one that chance cannot reach: the share of *held-out* matches that agree
with a model fitted to the others, rows of a rectified pair (known beforehand), or a second way to the same place.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from semantic_matcher_core.matching.nonrigid import nonrigid_inliers
from semantic_matcher_core.matching.verification import residuals, verify
from semantic_matcher_core.types import Matches

HOMOGRAPHY_PX = 3.0
EPIPOLAR_PX = 1.0
# Detectors that place keypoints on whole pixels lose a good part of their right matches at 1 px.
LOOSE_EPIPOLAR_PX = 3.0
# Pairs in hand are rectified to about a pixel.
ROW_PX = 2.0
CHAIN_PX = 2.0
_FEWEST_FOR_EPIPOLAR = 8


def as_matches(points0: np.ndarray, points1: np.ndarray) -> Matches:
    """Return matches of ``N x 2`` points that came without keypoints; rows are their own indices."""
    rows = torch.arange(len(points0))
    ends = [torch.as_tensor(np.asarray(points, np.float32)).view(-1, 2) for points in (points0, points1)]
    return Matches(torch.stack([rows, rows], dim=1), ends[0], ends[1], torch.ones(len(rows)))


def epipolar_figures(matches: Matches) -> dict[str, float]:
    """Compute figures of a pair of views of a rigid scene.

    Returns:
        ``matches``; ``epipolar``, inliers of MAGSAC's epipolar geometry (1 px, Sampson); ``precision@3px``, the share
        within 3 px of the same geometry; ``held_out``, see :func:`held_out_share`.
    """
    found = verify(matches, "fundamental", threshold_px=EPIPOLAR_PX)
    near = 0.0
    if found.model is not None:
        points = [k.double().cpu().numpy() for k in _points(matches)]
        near = float((residuals(found.model.cpu().numpy(), "fundamental", *points) <= LOOSE_EPIPOLAR_PX).mean())
    return {
        "matches": float(len(matches)),
        "epipolar": _inliers(found),
        "precision@3px": near,
        "held_out": held_out_share(matches),
    }


def pair_figures(matches: Matches) -> dict[str, float]:
    """Compute figures of one pair: those of :func:`epipolar_figures`, and others.

    Returns:
        ``homography``, inliers of MAGSAC's homography (3 px); ``deformation``, matches that one smooth deformation
        explains.
    """
    return {
        **epipolar_figures(matches),
        "homography": _inliers(verify(matches, "homography", threshold_px=HOMOGRAPHY_PX)),
        "deformation": float(nonrigid_inliers(matches.keypoints0.cpu(), matches.keypoints1.cpu()).sum()),
    }


def held_out_share(matches: Matches, seed: int = 0) -> float:
    """Return share of matches within 1 px of the epipolar geometry that the *other* half of them gives (two-fold).

    A half that gives no model explains nothing: it counts as a share of 0.
    """
    order = np.random.default_rng(seed).permutation(len(matches))
    halves = np.array_split(order, 2)
    if min(len(half) for half in halves) < _FEWEST_FOR_EPIPOLAR:
        return 0.0
    explained = 0
    for fitted, tested in (halves, halves[::-1]):
        model = verify(_subset(matches, fitted), "fundamental", threshold_px=EPIPOLAR_PX).model
        if model is not None:
            points = [k[torch.from_numpy(tested)].double().cpu().numpy() for k in _points(matches)]
            explained += int((residuals(model.cpu().numpy(), "fundamental", *points) <= EPIPOLAR_PX).sum())
    return explained / len(matches)


def rectified_figures(matches: Matches) -> dict[str, float]:
    """Compute figures of a rectified stereo pair, left first: right matches are on the same row, not to the right.

    Returns:
        ``matches``; ``on_row``, the share within 2 px of the row; ``correct``, the share that also has a disparity
        of at least -2 px; ``dy``, the median distance from the row in pixels (infinite without matches).
    """
    if len(matches) == 0:
        return {"matches": 0.0, "on_row": 0.0, "correct": 0.0, "dy": float("inf")}
    dx, dy = (matches.keypoints0 - matches.keypoints1).unbind(-1)
    on_row = dy.abs() <= ROW_PX
    return {
        "matches": float(len(matches)),
        "on_row": float(on_row.float().mean()),
        "correct": float((on_row & (dx >= -ROW_PX)).float().mean()),
        "dy": float(dy.abs().median()),
    }


def chain_share(first: Matches, second: Matches, direct: Matches) -> float | None:
    """Return two ways to the same place: frames 0 → 1 → 2, and 0 → 2.

    Returns:
        Of the keypoints of frame 0 that are matched both ways, the share that ends within 2 px of the same place, or
        ``None`` if there are none.
    """
    onward = dict(zip(second.indices[:, 0].tolist(), second.keypoints1.tolist(), strict=True))
    chained = {i: onward[j] for i, j in first.indices.tolist() if j in onward}
    straight = dict(zip(direct.indices[:, 0].tolist(), direct.keypoints1.tolist(), strict=True))
    both = [(chained[i], straight[i]) for i in chained if i in straight]
    if not both:
        return None
    ends = np.array(both)
    return float((np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1) <= CHAIN_PX).mean())


def _inliers(matches: Matches) -> float:
    return 0.0 if matches.inlier is None else float(matches.inlier.sum())


def _points(matches: Matches) -> tuple[torch.Tensor, torch.Tensor]:
    return matches.keypoints0, matches.keypoints1


def _subset(matches: Matches, rows: np.ndarray) -> Matches:
    index = torch.from_numpy(rows).to(matches.indices.device)
    return replace(
        matches,
        indices=matches.indices[index],
        keypoints0=matches.keypoints0[index],
        keypoints1=matches.keypoints1[index],
        confidence=matches.confidence[index],
    )
