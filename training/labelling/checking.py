"""Which of the teacher's matches geometry confirms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.types import Matches
from training.labelling.frames import Geometry
from training.labelling.teacher import TeacherFeatures, TeacherMatches
from training.projection import Warped, relative_pose, warp_keypoints


@dataclass(frozen=True)
class CheckConfig:
    """How strictly matches are checked.

    Attributes:
        threshold_px: largest distance from the epipolar geometry found among a pair's matches (MAGSAC++).
        projection_px: largest distance from where depth and pose put a keypoint, where they are known.
        least: a pair with fewer confirmed matches is left out.
        least_share: so is one where fewer of the teacher's matches are confirmed.
    """

    threshold_px: float = 1.5
    projection_px: float = 6.0
    least: int = 20
    least_share: float = 0.3


@dataclass(frozen=True, eq=False)
class LabelledPair:
    """A pair whose matches geometry confirms; fields as of ``TeacherMatches``."""

    indices: np.ndarray
    confidence: np.ndarray
    unmatchable0: np.ndarray
    unmatchable1: np.ndarray
    # Distance of the second picture's keypoint from where depth and pose put it, median in pixels; NaN where unknown.
    projection_error: float


def checked(
    geometry: tuple[Geometry | None, Geometry | None],
    features: tuple[TeacherFeatures, TeacherFeatures],
    found: TeacherMatches,
    config: CheckConfig,
) -> LabelledPair | None:
    """Return what geometry leaves of a pair's matches, or ``None`` where that is too little to trust.

    Epipolar geometry is fitted to the matches. Where both pictures have depth and pose, a match whose first keypoint
    has depth must also lie where that puts it, and a keypoint that the other picture cannot show is unmatchable.
    """
    points = [torch.from_numpy(f.keypoints[found.indices[:, i]]) for i, f in enumerate(features)]
    if len(found.indices) < config.least:
        return None
    matches = Matches(torch.from_numpy(found.indices).long(), points[0], points[1], torch.from_numpy(found.confidence))
    inlier = verify(matches, "fundamental", threshold_px=config.threshold_px).inlier
    assert inlier is not None
    keep = inlier.numpy()
    unmatchable = [found.unmatchable0.copy(), found.unmatchable1.copy()]
    error = float("nan")
    first, second = geometry
    if first is not None and second is not None:
        for i, ends in enumerate(((first, second), (second, first))):
            warp = _warped(*ends, torch.from_numpy(features[i].keypoints))
            known, seen = warp.measured.numpy(), warp.warped.valid.numpy()[0]
            distance = np.linalg.norm(
                warp.warped.keypoints.numpy()[0][found.indices[:, i]] - points[1 - i].numpy(), axis=1
            )
            known_match, seen_match = known[found.indices[:, i]], seen[found.indices[:, i]]
            keep = keep & ~(known_match & (distance > config.projection_px))
            if i == 0 and (keep & seen_match).any():
                error = float(np.median(distance[keep & seen_match]))
            # Depth is missing or wrong at some edges: what the teacher matched stays matchable.
            matched = np.zeros(len(known), bool)
            matched[found.indices[keep, i]] = True
            unmatchable[i] |= known & ~seen & ~matched
    if keep.sum() < config.least or keep.mean() < config.least_share:
        return None
    for i in range(2):
        unmatchable[i][found.indices[keep, i]] = False
    return LabelledPair(found.indices[keep], found.confidence[keep], unmatchable[0], unmatchable[1], error)


@dataclass(frozen=True, eq=False)
class _Projection:
    warped: Warped
    measured: Tensor


def _warped(frame: Geometry, other: Geometry, keypoints: Tensor) -> _Projection:
    depth0, depth1 = (torch.from_numpy(f.depth).float()[None] for f in (frame, other))
    pose0, pose1, camera0, camera1 = (
        torch.from_numpy(np.asarray(matrix)).float()[None]
        for matrix in (frame.pose, other.pose, frame.camera, other.camera)
    )
    size = (depth1.shape[-2], depth1.shape[-1])
    warped = warp_keypoints(keypoints[None], depth0, depth1, relative_pose(pose0, pose1), camera0, camera1, size)
    x, y = keypoints.round().long().unbind(-1)
    height, width = depth0.shape[-2:]
    measured = depth0[0, y.clamp(0, height - 1), x.clamp(0, width - 1)] > 0
    return _Projection(warped, measured)
