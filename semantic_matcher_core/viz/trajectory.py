"""A recorded trajectory as figures: from above, and its height over time; beside the true one where that is known.

Frames are those of REP-105: x and y on the ground, z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np

from semantic_matcher_core.errors import PoseError
from semantic_matcher_core.motion.pose import Pose
from semantic_matcher_core.motion.trajectories import alignment, poses_at, trajectory_errors
from semantic_matcher_core.viz.charts import Curve, nice_ceiling, time_chart

_SIDE, _MARGIN, _MAX_POINTS = 600.0, 20.0, 1500


@dataclass(frozen=True, eq=False)
class Track:
    """A trajectory as it was recorded.

    Attributes:
        received: ``N`` int64 nanoseconds, when its messages were recorded.
        stamps: ``N`` int64 nanoseconds, when it was there.
        poses: ``N x 7``: tx ty tz qx qy qz qw, metres.
    """

    received: np.ndarray
    stamps: np.ndarray
    poses: np.ndarray

    @property
    def whole(self) -> Track:
        """What of it is finite."""
        finite = np.isfinite(self.poses).all(axis=1) & (np.abs(self.poses[:, 3:]).sum(axis=1) > 0)
        return Track(self.received[finite], self.stamps[finite], self.poses[finite])

    @property
    def positions(self) -> np.ndarray:
        """``N x 3`` metres."""
        return self.poses[:, :3]


@dataclass(frozen=True, eq=False)
class Truth:
    """Where it really was.

    Attributes:
        name: what the page calls it.
        stamps: ``M`` int64 nanoseconds, in order.
        poses: ``M x 7``, in a frame of its own.
    """

    name: str
    stamps: np.ndarray
    poses: np.ndarray


@dataclass(frozen=True, eq=False)
class _Beside:
    """The truth at the poses of a track: ``N x 3`` in the track's frame, NaN where unknown, and what to say of it."""

    positions: np.ndarray
    text: str


def trajectory_figures(topic: str, number: int, track: Track, truth: Truth | None = None) -> str:
    """Compute figures of a trajectory; none where it has fewer than two positions.

    Args:
        topic: where it comes from.
        number: what ``report.js`` calls it.
        track: the trajectory.
        truth: what it is compared with, aligned to it.
    """
    track = track.whole
    if len(track.stamps) < 2:
        return ""
    beside = None if truth is None else _compared(track, truth)
    shown, scale, low = _fitted(track.positions)
    lines = ""
    corner = shown.max(axis=0)
    if beside is not None:
        known = beside.positions[np.isfinite(beside.positions).all(axis=1)]
        true = _placed(known[_thinned(len(known))], scale, low)
        lines += f'<polyline class="curve truth" points="{_points(true)}"/>'
        corner = np.vstack([shown, true]).max(axis=0)
    width, height = (corner + _MARGIN).tolist()
    length = float(np.linalg.norm(np.diff(track.positions, axis=0), axis=1).sum())
    bar = nice_ceiling(0.15 * _SIDE / scale)
    note = "" if beside is None else f'<p class="note">{escape(beside.text)}</p>'
    seconds = (track.stamps - track.stamps[0]) / 1e9
    heights = [Curve("height", track.positions[:, 2], "neutral")]
    if beside is not None:
        heights.append(Curve("true", beside.positions[:, 2], "truth"))
    chart = time_chart(f"Height (z), {topic}", seconds, heights, unit=" m", from_zero=False)
    return (
        f'<div class="charts way"><figure class="trajectory" data-path="{number}">'
        f"<figcaption>Trajectory from above, {escape(topic)}"
        f'<span class="legend">{length:.3g} m long; x to the right, y up; hollow: the start; bar: {bar:g} m</span>'
        f'</figcaption>{note}<svg viewBox="0 0 {width:.0f} {height + 16:.0f}" role="img" '
        f'aria-label="trajectory of {escape(topic, quote=True)}">{lines}'
        f'<polyline class="curve neutral" points="{_points(shown)}"/>'
        f'<circle class="start" cx="{shown[0, 0]:.1f}" cy="{shown[0, 1]:.1f}" r="6"/>'
        f'<circle class="here" cx="{shown[-1, 0]:.1f}" cy="{shown[-1, 1]:.1f}" r="7"/>'
        f'<line class="bar-line" x1="{_MARGIN:g}" x2="{_MARGIN + bar * scale:.1f}" y1="{height + 6:.0f}" '
        f'y2="{height + 6:.0f}"/></svg></figure>{chart}</div>'
    )


def path_data(start_ns: int, track: Track) -> dict[str, list[float]]:
    """Return places of a trajectory in its figure, and when it was there: what ``report.js`` moves its mark by.

    Args:
        start_ns: when the first stream's time line begins.
        track: the trajectory.
    """
    track = track.whole
    if len(track.stamps) < 2:
        return {"seconds": [], "x": [], "y": []}
    shown, _, _ = _fitted(track.positions)
    seconds = (track.received - start_ns) / 1e9
    return {
        "seconds": np.round(seconds[_thinned(len(seconds))], 4).tolist(),
        "x": np.round(shown[:, 0], 1).tolist(),
        "y": np.round(shown[:, 1], 1).tolist(),
    }


def _compared(track: Track, truth: Truth) -> _Beside:
    true = poses_at(truth.stamps, _poses(truth.poses), track.stamps)
    known = [i for i, pose in enumerate(true) if pose is not None]
    positions = np.full((len(true), 3), np.nan)
    with_truth = [pose for pose in true if pose is not None]
    try:
        found = _poses(track.poses[known])
        measured = trajectory_errors(with_truth, found, neighbours=known)
    except PoseError:
        return _Beside(
            positions,
            f"{truth.name} says of {len(known)} of {len(true)} poses where they really were, which is too few to "
            "compare: are its stamps of the same clock?",
        )
    places = np.array([pose.translation for pose in with_truth])
    positions[known] = alignment(places, track.positions[known]).apply(places)
    relative = (
        f"; from pose to pose {_short(1000 * measured.rpe_m)} mm and {_short(measured.rpe_deg)}° (RPE)"
        if np.isfinite(measured.rpe_m)
        else ""
    )
    return _Beside(
        positions,
        f"Dashed: {truth.name}, aligned. Root mean square error {_short(100 * measured.ate_m)} cm (ATE){relative}, "
        f"over {len(known)} of {len(true)} poses.",
    )


def _short(value: float) -> str:
    return f"{round(value, 3):.3g}"


def _poses(rows: np.ndarray) -> list[Pose]:
    return [Pose.from_quaternion(row[3:], row[:3]) for row in rows]


def _points(places: np.ndarray) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _fitted(positions: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Return places in the figure, pixels of a metre, and what is at its upper left corner."""
    flat = positions[_thinned(len(positions)), :2] * (1, -1)
    scale = _SIDE / max(float(np.ptp(flat, axis=0).max()), 1e-9)
    low = flat.min(axis=0)
    return (flat - low) * scale + _MARGIN, scale, low


def _placed(positions: np.ndarray, scale: float, low: np.ndarray) -> np.ndarray:
    # A trajectory is the measure of its figure; what is true but far away is drawn at the edge.
    return np.clip((positions[:, :2] * (1, -1) - low) * scale + _MARGIN, -_MARGIN, _SIDE + 3 * _MARGIN)


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).round().astype(int))
