"""Keyframes that see the same, and what their errors have in common.

A new keyframe is tied to several earlier ones. Their poses stay as they were told; the new one's is the mean of what
all of them say, each weighed by what it adds: the errors of keyframes that hang on each other are alike, which their
joint covariance keeps account of (Schmidt's Kalman filter over cloned poses: Roumeliotis and Burdick, ICRA 2002).
Nothing is estimated again, no loop is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from semantic_matcher_core.motion.metric import PoseEstimate
from semantic_matcher_core.motion.pose import Pose, chaining
from semantic_matcher_core.motion.view import View


@dataclass(frozen=True, eq=False)
class Placed:
    """A view whose pose is known.

    Attributes:
        view: what it saw.
        pose: of its camera in the frame of its segment.
        covariance: ``6 x 6`` of ``pose``.
        segment: number of the segment.
    """

    view: View
    pose: Pose
    covariance: np.ndarray
    segment: int


class Window:
    """Placed views and the joint covariance of their poses, ``6 n x 6 n``."""

    def __init__(self) -> None:
        self._placed: list[Placed] = []
        self._joint: np.ndarray = np.zeros((0, 0))

    def begin(self, view: View, pose: Pose, segment: int) -> Placed:
        """Add a view that nothing is tied to, where a segment begins: its pose is exact."""
        self._extend(np.zeros((6, len(self._joint))), np.zeros((6, 6)))
        return self._added(view, pose, segment)

    def add(self, view: View, anchor: Placed, estimate: PoseEstimate) -> Placed:
        """Add a view by its pose in the frame of another that is here."""
        rows = self._rows(anchor)
        through, turned = chaining(anchor.pose, estimate.pose)
        across = through @ self._joint[rows]
        own = through @ self._joint[rows, rows] @ through.T + turned @ estimate.covariance @ turned.T
        self._extend(across, own)
        return self._added(view, anchor.pose @ estimate.pose, anchor.segment)

    def keep(self, wanted: Sequence[Placed]) -> None:
        """Forget all others."""
        stay = [i for i, placed in enumerate(self._placed) if any(placed is other for other in wanted)]
        if len(stay) < len(self._placed):
            rows = (6 * np.array(stay, np.intp)[:, None] + np.arange(6)).reshape(-1)
            self._placed, self._joint = [self._placed[i] for i in stay], self._joint[np.ix_(rows, rows)]

    def tie(self, placed: Placed, anchor: Placed, estimate: PoseEstimate) -> Placed:
        """Move a view to where its pose in the frame of another one says as well, by what each knows.

        Returns:
            What stands for ``placed`` from now on.
        """
        apart, noise, own = self._apart(placed, anchor, estimate.pose, estimate.covariance)
        rows = self._rows(placed)
        gain = np.linalg.solve(noise + apart @ self._joint @ apart.T, apart @ self._joint[:, rows]).T
        moved = placed.pose.moved(gain @ placed.pose.change_to(anchor.pose @ estimate.pose))
        # Only the new pose changes. Joseph's form holds for any gain, such as one that leaves the others alone.
        change = np.eye(len(self._joint))
        change[rows] -= gain @ apart
        joint = change @ self._joint @ change.T
        joint[rows, rows] += gain @ noise @ gain.T
        self._joint = (joint + joint.T) / 2
        now = replace(placed, pose=moved, covariance=self._joint[rows, rows].copy())
        self._placed[own] = now
        return now

    def worth(self, placed: Placed, anchor: Placed, covariance: np.ndarray) -> float:
        """Return what tying a view to another would tell: by how much its errors would shrink, 0 to 1, as a mean of
        all directions, before anything is matched.

        Args:
            placed, anchor: as for :meth:`tie`.
            covariance: ``6 x 6`` that the pose in the anchor's frame would have, in the frame of the segment.
        """
        through, _ = chaining(anchor.pose, anchor.pose.inverse() @ placed.pose)
        here, there = self._rows(placed), self._rows(anchor)
        before, across = self._joint[here, here], self._joint[here, there] @ through.T
        shared = before - across
        spread = shared - across.T + through @ self._joint[there, there] @ through.T + covariance
        after = before - shared @ np.linalg.solve(spread, shared.T)
        sizes = [np.linalg.slogdet(matrix) for matrix in (before, after)]
        if min(sign for sign, _ in sizes) <= 0:
            return 0.0
        return float(1 - np.exp((sizes[1][1] - sizes[0][1]) / 12))

    def _apart(
        self, placed: Placed, anchor: Placed, pose: Pose, covariance: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return how all errors enter the difference of two ways to a pose, ``6 x 6 n``, the second's noise and row."""
        through, turned = chaining(anchor.pose, pose)
        apart = np.zeros((6, len(self._joint)))
        apart[:, self._rows(placed)] = np.eye(6)
        apart[:, self._rows(anchor)] = -through
        return apart, turned @ covariance @ turned.T, self._index(placed)

    def _index(self, placed: Placed) -> int:
        return next(i for i, other in enumerate(self._placed) if other is placed)

    def _rows(self, placed: Placed) -> slice:
        first = 6 * self._index(placed)
        return slice(first, first + 6)

    def _extend(self, across: np.ndarray, own: np.ndarray) -> None:
        self._joint = np.block([[self._joint, across.T], [across, (own + own.T) / 2]])

    def _added(self, view: View, pose: Pose, segment: int) -> Placed:
        placed = Placed(view, pose, self._joint[-6:, -6:].copy(), segment)
        self._placed.append(placed)
        return placed
