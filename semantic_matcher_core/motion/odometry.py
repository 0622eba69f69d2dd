"""Odometry of one camera with depth: poses chained over keyframes. Maps, loops and bundle adjustment are for others."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

import numpy as np

from semantic_matcher_core.errors import ConfigError, PoseError
from semantic_matcher_core.motion.metric import MIN_INLIERS, PoseEstimate
from semantic_matcher_core.motion.pairs import PairMatcher, pose_between
from semantic_matcher_core.motion.pose import Pose, chaining
from semantic_matcher_core.motion.view import View
from semantic_matcher_core.motion.window import Placed, Window

# A tie is made where it lets expect errors that much smaller.
_WORTH = 0.1
# Ties that would move what is seen by a larger angle, in radians, are a loop to be closed or a wrong match.
_FARTHEST = 0.1

# Points that tell how much of a view another one shows.
_SAMPLE = 64


class OdometryStatus(Enum):
    """What a frame's pose means."""

    STARTED = "started"
    """The first frame of a segment: nothing ties its pose to the segment before."""
    TRACKING = "tracking"
    """Tied to the keyframe in use."""
    RECOVERED = "recovered"
    """Tracking again after a loss, by an earlier keyframe: in the same frame as before the loss, no jump in it."""
    LOST = "lost"
    """No pose."""


@dataclass(frozen=True)
class OdometryOptions:
    """How odometry behaves.

    Attributes:
        threshold_px: largest distance of an inlier from its place, in pixels, while the consensus is sought.
        min_inliers: fewer are no pose.
        keyframe_share: a keyframe is replaced when a smaller share of its points with depth is found again.
        keyframes: how many earlier keyframes a lost camera is looked for in.
        tries: how many of them one frame is compared with at most, which bounds the time a frame takes.
        ties: how many other keyframes a new keyframe's pose is measured against as well; 0 for none.
        patience: frames that could begin anew, but are found in no keyframe, after which a new segment begins at the
            pose last known; 0 for never.
        max_speed: m/s; a pose that would need more is none. 0 for no limit.
        max_turn_rate: rad/s, likewise.
        max_std: metres; a pose whose position is less certain within its keyframe's frame is none.
    """

    threshold_px: float = 3.0
    min_inliers: int = MIN_INLIERS
    keyframe_share: float = 0.5
    keyframes: int = 20
    tries: int = 3
    ties: int = 1
    patience: int = 10
    max_speed: float = 20.0
    max_turn_rate: float = 12.0
    max_std: float = 0.5

    def __post_init__(self) -> None:
        if not self.threshold_px > 0:
            raise ConfigError(f"threshold_px must be a positive number of pixels, got {self.threshold_px!r}")
        if self.min_inliers < 6:
            raise ConfigError(f"min_inliers must be 6 or more, got {self.min_inliers!r}")
        if not 0 <= self.keyframe_share <= 1:
            raise ConfigError(f"keyframe_share must be from 0 to 1, got {self.keyframe_share!r}")
        for name in ("keyframes", "tries", "ties", "patience"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)!r}")
        for name in ("max_speed", "max_turn_rate", "max_std"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)!r}")


@dataclass(frozen=True, eq=False)
class OdometryStep:
    """What odometry says of one frame.

    Attributes:
        stamp: of the frame, in nanoseconds.
        status: what the pose means.
        segment: counts the beginnings; poses of different segments are not tied to each other.
        pose: the camera's optical frame in that of the first frame (camera-to-world), without jumps while it is
            tracked: what a tie corrects comes in over several frames. ``None`` while lost.
        covariance: ``6 x 6`` of ``pose`` within its segment, see :mod:`semantic_matcher_core.motion`; ``None`` while
            lost.
        inliers, matches: that agree with the pose, of those with the keyframe.
        keyframe: this frame became the keyframe.
        reason: why there is no pose.
    """

    stamp: int
    status: OdometryStatus
    segment: int
    pose: Pose | None
    covariance: np.ndarray | None
    inliers: int = 0
    matches: int = 0
    keyframe: bool = False
    reason: str = ""


class Odometry:
    """Follows a camera from view to view.

    Each view is matched with the keyframe, and its pose found from the keyframe's depth (and its own, where it has
    some). A new keyframe is tied to several earlier ones as well. Where a view is not found in the keyframe, it is
    looked for in the frame before, and then in earlier keyframes; where all fail the camera is lost, and says so, until
    one of them is seen again, or a new segment begins.

    Args:
        matcher: matches features.
        options: how it behaves.
    """

    def __init__(self, matcher: PairMatcher, options: OdometryOptions | None = None) -> None:
        self.matcher = matcher
        self.options = options or OdometryOptions()
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next view begins at the origin, as segment 0."""
        self._keyframe: Placed | None = None
        self._last: Placed | None = None
        self._earlier: deque[Placed] = deque(maxlen=max(self.options.keyframes, 1))
        self._window = Window()
        self._segment = -1
        self._lost = 0
        self._unfound = 0
        self._next_try = 0
        self._withheld: np.ndarray = np.zeros(6)
        self._untied: tuple[Placed, Placed, PoseEstimate, int] | None = None

    def process(self, view: View) -> OdometryStep:
        """Say where the camera is.

        Args:
            view: the next one in time, with depth; see :mod:`semantic_matcher_core.motion.view`.
        """
        self.settle()
        if self._keyframe is None:
            return self._begin(view, Pose(), "no keyframe yet")
        reason = ""
        for candidate in self._candidates():
            try:
                estimate, matches = self._against(candidate, view)
                placed = self._placed(candidate, estimate, view)
            except PoseError as error:
                reason = reason or str(error)
                continue
            return self._follow(candidate, placed, estimate, matches)
        self._lost += 1
        self._next_try += self.options.tries
        if self._could_begin(view):
            self._unfound += 1
        if self.options.patience and self._unfound >= self.options.patience:
            assert self._last is not None
            return self._begin(view, self._last.pose, reason)
        return OdometryStep(view.stamp, OdometryStatus.LOST, self._segment, None, None, reason=reason)

    def settle(self) -> None:
        """Tie the last frame to earlier keyframes, if it became one: what its own step need not wait for.

        :meth:`process` begins with it; who publishes a step first and calls it then has the step sooner.
        """
        if self._untied is None:
            return
        candidate, placed, estimate, inliers = self._untied
        self._untied = None
        tied = self._tied(candidate, placed, estimate, inliers)
        self._withheld = self._withheld + tied.pose.change_to(placed.pose)
        self._earlier.append(tied)
        self._keyframe = self._last = tied
        self._window.keep(list(self._earlier))

    def _candidates(self) -> list[Placed]:
        """Return what a view is compared with, in turn: each frame that is lost looks at other earlier keyframes."""
        assert self._keyframe is not None and self._last is not None
        found = [self._keyframe]
        if self._last.view is not self._keyframe.view:
            found.append(self._last)
        others = [placed for placed in reversed(self._earlier) if placed is not self._keyframe]
        if others and self.options.tries and self.options.keyframes:
            start = self._next_try % len(others)
            found += (others[start:] + others[:start])[: self.options.tries]
        return found

    def _against(self, candidate: Placed, view: View) -> tuple[PoseEstimate, int]:
        estimate, matches = pose_between(
            self.matcher,
            candidate.view,
            view,
            threshold_px=self.options.threshold_px,
            min_inliers=self.options.min_inliers,
        )
        std = float(np.sqrt(np.trace(estimate.covariance[:3, :3])))
        if not np.isfinite(std) or (self.options.max_std and std > self.options.max_std):
            raise PoseError(f"the position is known to {std:.2g} m only")
        return estimate, len(matches)

    def _placed(self, candidate: Placed, estimate: PoseEstimate, view: View) -> Placed:
        assert self._last is not None
        pose = candidate.pose @ estimate.pose
        seconds = (view.stamp - self._last.view.stamp) * 1e-9
        if seconds > 0 and candidate.segment == self._last.segment:
            moved = float(np.linalg.norm(pose.translation - self._last.pose.translation))
            turned = (self._last.pose.inverse() @ pose).angle
            if self.options.max_speed and moved > self.options.max_speed * seconds:
                raise PoseError(f"{moved:.2f} m in {seconds:.3f} s is faster than {self.options.max_speed:g} m/s")
            if self.options.max_turn_rate and turned > self.options.max_turn_rate * seconds:
                raise PoseError(
                    f"{np.degrees(turned):.0f} degrees in {seconds:.3f} s is a faster turn than "
                    f"{self.options.max_turn_rate:g} rad/s"
                )
        return self._window.add(view, candidate, estimate)

    def _follow(self, candidate: Placed, placed: Placed, estimate: PoseEstimate, matches: int) -> OdometryStep:
        inliers = int(estimate.inliers.sum())
        becomes = inliers < self.options.keyframe_share * int(candidate.view.seen.known.sum()) and self._could_begin(
            placed.view
        )
        if becomes:
            self._untied = candidate, placed, estimate, inliers
        self._keyframe = placed if becomes else candidate
        status = OdometryStatus.RECOVERED if self._lost else OdometryStatus.TRACKING
        self._last, self._segment = placed, placed.segment
        self._window.keep([*self._earlier, self._keyframe, self._last])
        self._lost = self._unfound = self._next_try = 0
        self._release(estimate, status)
        pose = placed.pose.moved(self._withheld)
        covariance = placed.covariance + np.outer(self._withheld, self._withheld)
        return OdometryStep(placed.view.stamp, status, placed.segment, pose, covariance, inliers, matches, becomes)

    def _release(self, estimate: PoseEstimate, status: OdometryStatus) -> None:
        """Let what ties corrected into the poses told, no faster than a step is uncertain: no jumps (REP-105)."""
        if status is OdometryStatus.RECOVERED:
            self._withheld = np.zeros(6)
            return
        share = 1.0
        for part in (slice(3), slice(3, 6)):
            size = float(np.linalg.norm(self._withheld[part]))
            share = min(share, float(np.sqrt(np.trace(estimate.covariance[part, part]))) / max(size, 1e-12))
        self._withheld = (1 - share) * self._withheld

    def _tied(self, candidate: Placed, placed: Placed, estimate: PoseEstimate, inliers: int) -> Placed:
        """Tie a new keyframe to those that add most to what is known of its pose."""
        _, turned = chaining(candidate.pose, estimate.pose)
        covariance, seen = turned @ estimate.covariance @ turned.T, _seen_again(candidate, placed)
        left = {
            i: (old, share)
            for i, old in enumerate(self._earlier)
            if old is not candidate
            and old.segment == placed.segment
            # Of what both should see, as many are found again as in the keyframe.
            and (share := _seen_again(old, placed) / max(seen, 1)) * inliers >= 2 * self.options.min_inliers
        }
        for _ in range(self.options.ties):
            worth = {i: self._window.worth(placed, old, covariance / share) for i, (old, share) in left.items()}
            best = max(worth, key=lambda i: worth[i], default=None)
            if best is None or worth[best] < _WORTH:
                break
            old, _ = left.pop(best)
            try:
                found, _ = self._against(old, placed.view)
            except PoseError:
                continue
            change = placed.pose.change_to(old.pose @ found.pose)
            nearness = float(np.median(placed.view.seen.inverse_depth[placed.view.seen.known]))
            if np.linalg.norm(change[:3]) * nearness + np.linalg.norm(change[3:]) <= _FARTHEST:
                placed = self._window.tie(placed, old, found)
        return placed

    def _begin(self, view: View, pose: Pose, reason: str) -> OdometryStep:
        if not self._could_begin(view):
            known = int(view.seen.known.sum())
            reason = f"{known} keypoints with depth; a keyframe needs {2 * self.options.min_inliers}"
            return OdometryStep(view.stamp, OdometryStatus.LOST, max(self._segment, 0), None, None, reason=reason)
        self._segment += 1
        placed = self._window.begin(view, pose, self._segment)
        self._keyframe = self._last = placed
        self._withheld = np.zeros(6)
        self._earlier.append(placed)
        self._window.keep(list(self._earlier))
        self._lost = self._unfound = self._next_try = 0
        return OdometryStep(
            view.stamp, OdometryStatus.STARTED, self._segment, pose, placed.covariance, keyframe=True, reason=reason
        )

    def _could_begin(self, view: View) -> bool:
        return int(view.seen.known.sum()) >= 2 * self.options.min_inliers


def _seen_again(old: Placed, placed: Placed) -> int:
    """Estimate, from some of them, how many points of an earlier view lie within what another one sees."""
    known, view = np.flatnonzero(old.view.seen.known), placed.view.seen.rays
    every = len(known) // _SAMPLE + 1
    points = (placed.pose.inverse() @ old.pose).apply(old.view.seen[known[::every]].points)
    points = points[points[:, 2] > 0]
    rays = points[:, :2] / points[:, 2:]
    if not len(view):
        return 0
    return every * int(((rays >= view.min(axis=0)) & (rays <= view.max(axis=0))).all(axis=1).sum())
