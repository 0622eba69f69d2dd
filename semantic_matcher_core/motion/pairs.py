"""The pose between two views, all the way: match, find the consensus, align the patches, refine."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from semantic_matcher_core.errors import PoseError
from semantic_matcher_core.motion.metric import PoseEstimate, consensus, metric_pose, refined_pose, reprojection, warps
from semantic_matcher_core.motion.patches import align_patches
from semantic_matcher_core.motion.view import View, observation
from semantic_matcher_core.types import Features, Matches

# This many aligned patches determine a pose as well as all of them would, and bound the time.
_PATCHES = 200
_ALIGNED_STD_PX = 0.1
# Matches up to this many thresholds from their place are aligned.
_NEAR = 2.0


class PairMatcher(Protocol):
    """What motion needs of :class:`~semantic_matcher_core.pipeline.SemanticMatcher`."""

    def match(self, features0: Features, features1: Features) -> Matches: ...


def pose_between(
    matcher: PairMatcher, reference: View, current: View, *, threshold_px: float, min_inliers: int
) -> tuple[PoseEstimate, Matches]:
    """Estimate the current view's pose in the reference's frame.

    Keypoints are found anew in each image, to half a pixel or so. Where both views have their images, the inliers'
    patches are aligned and the pose is refined by where the reference's points really are in the current image.

    Args:
        matcher: matches their features.
        reference: with depth.
        current: with or without.
        threshold_px, min_inliers: as for :func:`~semantic_matcher_core.motion.metric.metric_pose`.

    Returns:
        The estimate, whose ``inliers`` are those of the consensus, and the matches.

    Raises:
        PoseError: as there, and where one of the views has no keypoints.
    """
    for name, view in (("reference", reference), ("current", current)):
        if not view.features.keypoints.shape[1]:
            raise PoseError(f"the {name} image has no keypoints")
    matches = matcher.match(reference.features, current.features)
    rows = matches.indices.detach().cpu().numpy()
    seen0, seen1 = reference.seen[rows[:, 0]], current.seen[rows[:, 1]]
    limits: dict[str, Any] = {"threshold_px": threshold_px, "min_inliers": min_inliers}
    if reference.patches is None or current.patches is None or current.camera is None:
        return metric_pose(seen0, seen1, **limits), matches
    found = consensus(seen0, seen1, **limits)
    start, usable, agreeing = found
    inliers = np.zeros(len(matches), bool)
    inliers[usable[agreeing]] = True
    # The consensus keeps to what one motion explains best; patches are aligned somewhat farther out, and those that do
    # not belong are weighed down.
    agree = usable[reprojection(start, seen0[usable], seen1[usable]) < _NEAR * threshold_px]
    agree = agree[:: len(agree) // _PATCHES + 1]
    points0, points1 = (
        points.detach().cpu().double().numpy()[agree] for points in (matches.keypoints0, matches.keypoints1)
    )
    warp = warps(start, seen0[agree], seen1[agree])
    moved, good = align_patches(reference.patches, current.patches, points0, points1, warp)
    # Too few to stand on: the keypoints as they were found are more.
    if good.sum() < max(min_inliers, len(agree) // 4):
        return metric_pose(seen0, seen1, found=found, **limits), matches
    aligned = seen1[agree[good]]
    again = observation(moved[good], current.camera, aligned.inverse_depth, aligned.inverse_depth_std)
    try:
        refined = refined_pose(start, seen0[agree[good]], again, keypoint_std=_ALIGNED_STD_PX, min_inliers=min_inliers)
    except PoseError:
        return metric_pose(seen0, seen1, found=found, **limits), matches
    return PoseEstimate(refined.pose, refined.covariance, inliers, refined.residual_px), matches
