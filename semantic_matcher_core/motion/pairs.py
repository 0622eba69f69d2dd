"""The pose between two views, all the way: match, find the consensus, align the patches, refine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from semantic_matcher_core.errors import PoseError
from semantic_matcher_core.motion.metric import PoseEstimate, consensus, metric_pose, reprojection, warps
from semantic_matcher_core.motion.patches import align_patches
from semantic_matcher_core.motion.view import View, observation
from semantic_matcher_core.types import Features, Matches

# This many are aligned beside the other keypoints as they were found; more add little but time.
_PATCHES = 100
# Matches up to this many thresholds from their place are aligned.
_NEAR = 2.0


class PairMatcher(Protocol):
    """What motion needs of :class:`~semantic_matcher_core.pipeline.SemanticMatcher`."""

    def match(self, features0: Features, features1: Features) -> Matches: ...


def pose_between(
    matcher: PairMatcher, reference: View, current: View, *, threshold_px: float, min_inliers: int
) -> tuple[PoseEstimate, Matches]:
    """Match two views, and estimate the current one's pose in the reference's frame: :func:`matches_between`, then
    :func:`pose_from`.
    """
    matches = matches_between(matcher, reference, current)
    return pose_from(matches, reference, current, threshold_px=threshold_px, min_inliers=min_inliers), matches


def matches_between(matcher: PairMatcher, reference: View, current: View) -> Matches:
    """Return the matches of two views' features.

    Raises:
        PoseError: one of the views has no keypoints.
    """
    for name, view in (("reference", reference), ("current", current)):
        if not view.features.keypoints.shape[1]:
            raise PoseError(f"the {name} image has no keypoints")
    return matcher.match(reference.features, current.features)


def pose_from(
    matches: Matches, reference: View, current: View, *, threshold_px: float, min_inliers: int
) -> PoseEstimate:
    """Estimate the current view's pose in the reference's frame.

    Keypoints are found anew in each image, to half a pixel or so. Where both views have their images, patches of some
    are aligned, which tells where the reference's points really are in the current image.

    Args:
        matches: of their features.
        reference: with depth.
        current: with or without.
        threshold_px, min_inliers: as for :func:`~semantic_matcher_core.motion.metric.metric_pose`.

    Raises:
        PoseError: as there.
    """
    rows = matches.indices.detach().cpu().numpy()
    seen0, seen1 = reference.seen[rows[:, 0]], current.seen[rows[:, 1]]
    limits: dict[str, Any] = {"threshold_px": threshold_px, "min_inliers": min_inliers}
    if reference.patches is None or current.patches is None or current.camera is None:
        return metric_pose(seen0, seen1, **limits)
    found = consensus(seen0, seen1, **limits)
    start, usable, _ = found
    # The consensus keeps to what one motion explains best; patches are aligned somewhat farther out, and those that do
    # not belong are weighed down.
    near = usable[reprojection(start, seen0[usable], seen1[usable]) < _NEAR * threshold_px]
    near = near[:: len(near) // _PATCHES + 1]
    points0, points1 = (
        points.detach().cpu().double().numpy()[near] for points in (matches.keypoints0, matches.keypoints1)
    )
    warp = warps(start, seen0[near], seen1[near])
    moved, good = align_patches(reference.patches, current.patches, points0, points1, warp)
    aligned, rays = np.zeros(len(matches), bool), seen1.rays.copy()
    aligned[near[good]] = True
    rays[near[good]] = observation(moved[good], current.camera).rays
    return metric_pose(seen0, replace(seen1, rays=rays), found=found, aligned=aligned, **limits)
