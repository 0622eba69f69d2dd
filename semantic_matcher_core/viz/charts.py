"""Charts as HTML and SVG: curves stretch with the page, labels keep their size; ``report.js`` makes them answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np

_WIDTH, _HEIGHT = 1000.0, 300.0
_MAX_POINTS = 400


@dataclass(frozen=True, eq=False)
class Curve:
    """Values over time; NaN leaves a gap. ``style`` is a class of the style sheet, ``key`` what a script calls it."""

    name: str
    values: np.ndarray
    style: str
    key: str = ""


def time_chart(
    title: str,
    seconds: np.ndarray,
    curves: Sequence[Curve],
    *,
    top: float | None = None,
    unit: str = "",
    percent: bool = False,
    from_zero: bool = True,
) -> str:
    """Return a figure of curves over time; nothing where no curve has a value.

    Args:
        title: what it shows.
        seconds: ``N`` times.
        curves: each of ``N`` values.
        top: upper end of the scale; ``None`` for a round number above all values.
        unit: behind each label of the scale.
        percent: values are shares, shown in percent.
        from_zero: the scale begins at zero; else around the least value, which may be negative.
    """
    finite = np.concatenate([c.values[np.isfinite(c.values)] for c in curves]) if curves else np.zeros(0)
    if not len(finite):
        return ""
    bottom = 0.0
    if not from_zero:
        bottom, top = _nice_range(float(finite.min()), float(finite.max()))
    elif top is None:
        top = nice_ceiling(float(finite.max()))
    start, end = (float(seconds.min()), float(seconds.max())) if len(seconds) else (0.0, 0.0)
    span = end - start if end > start else 1.0
    marks = [
        _curve(replace(curve, values=np.asarray(curve.values, float) - bottom), (seconds - start) / span, top - bottom)
        for curve in curves
    ]
    grid = "".join(f'<line class="grid" x1="0" x2="{_WIDTH:g}" y1="{y:g}" y2="{y:g}"/>' for y in _levels())
    labels = [bottom + (top - bottom) * share for share in (1.0, 0.75, 0.5, 0.25, 0.0)]
    texts = [_number(v * 100 if percent else v) + ("%" if percent else unit) for v in labels]
    legend = "".join(f'<span class="key {c.style}">{escape(c.name)}</span>' for c in curves)
    times = "".join(f"<span>{_number(start + span * share)} s</span>" for share in (0.0, 0.5, 1.0))
    return (
        f'<figure class="chart"{_keys(curves, "%" if percent else unit.strip())}><figcaption>{escape(title)}'
        f'<span class="legend">{legend}</span></figcaption><p class="readout"></p>'
        f'<div class="plot"><div class="scale">{"".join(f"<span>{t}</span>" for t in texts)}</div>'
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title, quote=True)}">{grid}{"".join(marks)}</svg></div>'
        f'<div class="times">{times}</div></figure>'
    )


def bar_chart(title: str, edges: np.ndarray, counts: np.ndarray, unit: str = "") -> str:
    """Return a figure of a histogram: ``counts`` between successive ``edges``."""
    top = max(1.0, float(counts.max()) if len(counts) else 1.0)
    width = _WIDTH / max(1, len(counts))
    bars = "".join(
        f'<rect class="bar" x="{i * width + width * 0.08:.2f}" width="{width * 0.84:.2f}" '
        f'y="{_HEIGHT * (1 - c / top):.2f}" height="{_HEIGHT * c / top:.2f}">'
        f"<title>{c:.0f} from {_number(float(edges[i]))} to {_number(float(edges[i + 1]))}{unit}</title></rect>"
        for i, c in enumerate(counts.tolist())
    )
    middle = edges[len(edges) // 2] if len(edges) else 0.0
    texts = "".join(f"<span>{_number(float(v))}{unit}</span>" for v in (edges[0], middle, edges[-1]))
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><div class="plot">'
        f'<div class="scale"><span>{_number(top)}</span><span>0</span></div>'
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title, quote=True)}">{bars}</svg></div><div class="times">{texts}</div></figure>'
    )


def nice_ceiling(value: float) -> float:
    """Return the next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten that is not below ``value``; 1 for nothing."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    steps = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
    return next(step * power for step in steps if step * power >= value * (1 - 1e-9))


def _nice_range(least: float, most: float) -> tuple[float, float]:
    """Return ends of a scale that holds both, in whole quarters of a round length."""
    span = nice_ceiling(most - least) if most > least else 1.0
    while True:
        bottom = math.floor(least / (span / 4) + 1e-9) * span / 4
        if bottom + span >= most - 1e-9 * span:
            return bottom, bottom + span
        span = nice_ceiling(span * 1.01)


def thin_out(
    positions: np.ndarray, values: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return position, mean, least and most of runs of neighbours, at most ``limit``; NaN where a run has none."""
    if len(values) <= limit:
        return positions, values, values, values
    groups = np.array_split(np.arange(len(values)), limit)
    rows = []
    for group in groups:
        chosen = values[group]
        chosen = chosen[np.isfinite(chosen)]
        stats = (chosen.mean(), chosen.min(), chosen.max()) if len(chosen) else (np.nan,) * 3
        rows.append((positions[group].mean(), *stats))
    columns = np.array(rows, float).T
    return columns[0], columns[1], columns[2], columns[3]


def _keys(curves: Sequence[Curve], unit: str) -> str:
    keys = " ".join(curve.key for curve in curves if curve.key)
    return f' data-keys="{keys}" data-unit="{escape(unit, quote=True)}"' if keys else ""


def _levels() -> list[float]:
    return [_HEIGHT * share for share in (0.0, 0.25, 0.5, 0.75, 1.0)]


def _curve(curve: Curve, positions: np.ndarray, top: float) -> str:
    x, mean, low, high = thin_out(positions, np.asarray(curve.values, float), _MAX_POINTS)
    parts = []
    for run in _runs(np.isfinite(mean)):
        line = " ".join(_point(x[i], mean[i], top) for i in run)
        if len(curve.values) > _MAX_POINTS:
            band = [_point(x[i], high[i], top) for i in run] + [_point(x[i], low[i], top) for i in reversed(run)]
            parts.append(f'<polygon class="band {curve.style}" points="{" ".join(band)}"/>')
        if len(run) == 1:
            line = f"{line} {line}"  # a single value shows as a dot: round caps
        parts.append(f'<polyline class="curve {curve.style}" points="{line}"/>')
    return "".join(parts)


def _runs(present: np.ndarray) -> list[list[int]]:
    runs: list[list[int]] = []
    for i in np.flatnonzero(present).tolist():
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def _point(x: float, y: float, top: float) -> str:
    return f"{x * _WIDTH:.1f},{_HEIGHT * (1 - min(max(y / top, 0.0), 1.0)):.1f}"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if abs(value) < 100 else 0
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
