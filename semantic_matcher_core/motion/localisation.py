"""Where a camera is among stored views that have depth, or in front of a plane of known width.

A plane is a stored view like others: that of a camera which looks at it head-on from such a distance that its image is
the picture given. So one estimator serves both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from semantic_matcher_core.errors import ConfigError, PoseError
from semantic_matcher_core.motion.metric import Observation
from semantic_matcher_core.motion.pairs import PairMatcher, matches_between, pose_from
from semantic_matcher_core.motion.patches import PatchImage
from semantic_matcher_core.motion.pose import Pose, chained_covariance
from semantic_matcher_core.motion.view import View
from semantic_matcher_core.types import Features, Matches

# Distance of the camera that is made up for a plane, in widths of it.
_PLANE_DISTANCE = 1.0


@dataclass(frozen=True, eq=False)
class StoredView:
    """A view at a known place.

    Attributes:
        view: features and what is known of their depth.
        pose: of its camera's optical frame in the map's frame.
        name: what results call it.
        covariance: ``6 x 6`` of ``pose``; zeros where the map is what others are measured against.
        one_sided: a plane z = 0 of the map, which cannot be seen from behind (z > 0).
    """

    view: View
    pose: Pose = field(default_factory=Pose)
    name: str = ""
    covariance: np.ndarray = field(default_factory=lambda: np.zeros((6, 6)))
    one_sided: bool = False


def plane_view(features: Features, width: float, name: str = "", *, image: np.ndarray | None = None) -> StoredView:
    """Make a stored view of a flat thing's picture: a poster, a page, a marker that was photographed head-on.

    The map's frame lies in the middle of the plane: x right and y down as in the picture, z into it.

    Args:
        features: of the picture, which shows nothing but the plane.
        width: of what the picture shows, in metres.
        name: what results call it.
        image: the picture, ``H x W`` or ``H x W x 3``; with it poses are refined to a fraction of a pixel.

    Raises:
        ConfigError: a width that is not a positive number of metres.
    """
    if not (np.isfinite(width) and width > 0):
        raise ConfigError(f"the width of a plane must be a positive number of metres, got {width!r}")
    height_px, width_px = features.image_size
    keypoints = features.keypoints[0].detach().cpu().double().numpy()
    pitch, distance = width / width_px, _PLANE_DISTANCE * width
    rays = (keypoints + 0.5 - (width_px / 2, height_px / 2)) * pitch / distance
    count = len(rays)
    seen = Observation(rays, np.full(count, 1 / distance), np.zeros(count), distance / pitch)
    view = View(features, seen, patches=None if image is None else PatchImage(image))
    return StoredView(view, Pose(np.eye(3), np.array([0.0, 0.0, -distance])), name, one_sided=True)


@dataclass(frozen=True, eq=False)
class Localisation:
    """Where a camera is.

    Attributes:
        pose: of the camera's optical frame in the map's frame.
        covariance: ``6 x 6`` of ``pose``, see :mod:`semantic_matcher_core.motion`.
        view: the stored view that was recognised.
        inliers, matches: that agree, of those with it.
        residual_px: median distance of the inliers, in pixels.
    """

    pose: Pose
    covariance: np.ndarray
    view: StoredView
    inliers: int
    matches: int
    residual_px: float


class Localiser:
    """Finds a camera among stored views.

    Args:
        matcher: matches features.
        views: where it may be; at least one.
        threshold_px: largest distance of an inlier, in pixels, while the consensus is sought.
        min_inliers, min_share: fewer matches that agree, or a smaller share of them, is a wrong view.
        max_relative_std: a position less certain than this share of the distance to what is seen is none.

    Raises:
        ConfigError: no views, or a limit out of range.
    """

    def __init__(
        self,
        matcher: PairMatcher,
        views: Iterable[StoredView],
        *,
        threshold_px: float = 3.0,
        min_inliers: int = 20,
        min_share: float = 0.15,
        max_relative_std: float = 0.05,
    ) -> None:
        self.matcher = matcher
        self.views = tuple(views)
        if not self.views:
            raise ConfigError("localisation needs at least one stored view")
        if not threshold_px > 0:
            raise ConfigError(f"threshold_px must be a positive number of pixels, got {threshold_px!r}")
        if min_inliers < 6 or not 0 <= min_share <= 1:
            raise ConfigError(
                f"min_inliers must be 6 or more and min_share from 0 to 1, got {min_inliers!r} and {min_share!r}"
            )
        self.threshold_px = threshold_px
        self.min_inliers = min_inliers
        self.min_share = min_share
        self.max_relative_std = max_relative_std

    def locate(self, view: View) -> Localisation:
        """Find the camera that took a view.

        Args:
            view: with or without depth.

        Raises:
            PoseError: it is at none of the stored views; the message says why, of the first three.
        """
        reasons: list[str] = []
        matched: list[tuple[StoredView, Matches]] = []
        for stored in self.views:
            try:
                matched.append((stored, matches_between(self.matcher, stored.view, view)))
            except PoseError as error:
                reasons.append(_reason(stored, error))
        # Those with most matches first: one with fewer than agree with another view already cannot be the best.
        matched.sort(key=lambda pair: len(pair[1]), reverse=True)
        best: Localisation | None = None
        for stored, matches in matched:
            if best is not None and len(matches) <= best.inliers:
                break
            try:
                found = self._against(stored, view, matches)
            except PoseError as error:
                reasons.append(_reason(stored, error))
                continue
            best = found if best is None or found.inliers > best.inliers else best
        if best is None:
            raise PoseError("; ".join(reasons[:3]))
        return best

    def _against(self, stored: StoredView, view: View, matches: Matches) -> Localisation:
        estimate = pose_from(matches, stored.view, view, threshold_px=self.threshold_px, min_inliers=self.min_inliers)
        reference = stored.view.seen[matches.indices[:, 0].cpu().numpy()]
        usable, agree = int(reference.known.sum()), int(estimate.inliers.sum())
        pose = stored.pose @ estimate.pose
        if stored.one_sided and pose.translation[2] >= 0:
            raise PoseError("the matches show the plane from behind: it is another one, or its mirror image")
        if agree < self.min_share * usable:
            raise PoseError(f"{agree} of {usable} matches agree, a smaller share than {self.min_share:g}")
        distance = float(np.median(estimate.pose.inverse().apply(reference.points[estimate.inliers])[:, 2]))
        std = float(np.sqrt(np.trace(estimate.covariance[:3, :3])))
        if not std <= self.max_relative_std * distance:
            raise PoseError(f"the position is known to {std:.2g} m only, from a distance of {distance:.2g} m")
        return Localisation(
            pose,
            chained_covariance(stored.pose, stored.covariance, estimate.pose, estimate.covariance),
            stored,
            agree,
            len(matches),
            estimate.residual_px,
        )


def _reason(stored: StoredView, error: PoseError) -> str:
    return f"{stored.name or 'stored view'}: {error}"
