"""A recorded trajectory as a figure: seen along the axis in which it moves least, one metre the same both ways."""

from __future__ import annotations

from html import escape

import numpy as np

from semantic_matcher_core.viz.charts import nice_ceiling

_SIDE, _MARGIN, _MAX_POINTS = 600.0, 20.0, 1500
_AXES = "xyz"


def trajectory_figure(topic: str, number: int, positions: np.ndarray) -> str:
    """A figure of a trajectory; nothing where it has fewer than two positions.

    Args:
        topic: where it comes from.
        number: what ``report.js`` calls it.
        positions: ``N x 3`` metres, in the order of time.
    """
    positions = positions[np.isfinite(positions).all(axis=1)]
    if len(positions) < 2:
        return ""
    shown, (across, up), scale = _fitted(positions)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
    width, height = (shown.max(axis=0) + _MARGIN).tolist()
    length = float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
    bar = nice_ceiling(0.15 * _SIDE / scale)
    return (
        f'<figure class="trajectory" data-path="{number}"><figcaption>Trajectory, {escape(topic)}'
        f'<span class="legend">{length:.3g} m long; {_AXES[across]} to the right, {_AXES[up]} up; hollow: the start; '
        f'bar: {bar:g} m</span></figcaption><svg viewBox="0 0 {width:.0f} {height + 16:.0f}" role="img" '
        f'aria-label="trajectory of {escape(topic, quote=True)}"><polyline class="curve neutral" points="{points}"/>'
        f'<circle class="start" cx="{shown[0, 0]:.1f}" cy="{shown[0, 1]:.1f}" r="6"/>'
        f'<circle class="here" cx="{shown[-1, 0]:.1f}" cy="{shown[-1, 1]:.1f}" r="7"/>'
        f'<line class="bar-line" x1="{_MARGIN:g}" x2="{_MARGIN + bar * scale:.1f}" y1="{height + 6:.0f}" '
        f'y2="{height + 6:.0f}"/></svg></figure>'
    )


def path_data(seconds: np.ndarray, positions: np.ndarray) -> dict[str, list[float]]:
    """Places of a trajectory in its figure, and when it was there: what ``report.js`` moves its mark by."""
    finite = np.isfinite(positions).all(axis=1)
    if finite.sum() < 2:
        return {"seconds": [], "x": [], "y": []}
    shown, _, _ = _fitted(positions[finite])
    rows = _thinned(int(finite.sum()))
    return {
        "seconds": np.round(seconds[finite][rows], 4).tolist(),
        "x": np.round(shown[:, 0], 1).tolist(),
        "y": np.round(shown[:, 1], 1).tolist(),
    }


def _fitted(positions: np.ndarray) -> tuple[np.ndarray, tuple[int, int], float]:
    """Places in the figure, which axes point right and up, and pixels of a metre."""
    extent = np.ptp(positions, axis=0)
    across, up = sorted(np.argsort(extent, kind="stable")[1:].tolist())
    flat = positions[_thinned(len(positions))][:, [across, up]] * (1, -1)
    scale = _SIDE / max(float(np.ptp(flat, axis=0).max()), 1e-9)
    return (flat - flat.min(axis=0)) * scale + _MARGIN, (across, up), scale


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).round().astype(int))
