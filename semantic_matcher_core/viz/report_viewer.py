"""The part of a report that answers: its elements, and the data that ``report.js`` reads."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from semantic_matcher_core.viz.palette import amount_colours
from semantic_matcher_core.viz.report_data import MatchStream, ReportData
from semantic_matcher_core.viz.timeline import Pair, as_json, packed, side_name
from semantic_matcher_core.viz.trajectory import path_data

# What the keys of the series are called in a read-out.
_WORDS = {
    "matches": "matches",
    "inliers": "inliers",
    "share": "inliers",
    "coverage": "of the image",
    "confidence": "similarity",
    "latency": "from image to matches",
}
_LARGEST = 100_000


def viewer(number: int, stream: MatchStream, title: str) -> str:
    """Return the elements of one stream's viewer; ``report.js`` finds them by their ``data-role``."""
    pairs = len(stream.timeline.pairs)
    arrows = " selected" if stream.mode == "temporal" else ""
    check = (
        '<label class="check"><input type="checkbox" data-role="inliers"> inliers only</label>'
        if stream.checked
        else '<input type="checkbox" data-role="inliers" hidden>'
    )
    legend = (
        '<span class="key inlier">inlier</span><span class="key outlier">outlier, with a cross</span>'
        if stream.checked
        else '<span class="ramp"></span>similarity, yellow is most'
    )
    alone = " hidden" if pairs < 2 else ""
    note = (
        f'<p class="note">Every {stream.timeline.step}th of {len(stream.series.matches)} pairs is at hand here.</p>'
        if stream.timeline.step > 1
        else ""
    )
    return (
        f'<div class="viewer"><p class="caption" data-role="caption" aria-live="polite"></p>'
        f'<div class="stage"><canvas data-role="canvas" tabindex="0" role="img" aria-label="matches of the chosen pair '
        f'of {title}"></canvas></div><div class="controls line"{alone}>'
        '<button type="button" data-role="previous" aria-label="previous pair">◀</button>'
        '<button type="button" data-role="play" aria-pressed="false" aria-label="play">▶ play</button>'
        '<button type="button" data-role="next" aria-label="next pair">▶</button>'
        f'<input type="range" data-role="line" min="0" max="{pairs - 1}" value="0" aria-label="pair"></div>'
        '<div class="controls"><label>similarity at least <output data-role="level"></output>'
        '<input type="range" data-role="threshold" min="0" max="1" step="0.01" value="0"></label>'
        f'{check}<label>view <select data-role="view"><option value="lines">both images</option>'
        f'<option value="arrows"{arrows}>motion on the current image</option></select></label>'
        f'<span class="legend">{legend}</span></div>'
        '<div class="inspector"><p class="note" data-role="hint">Point at a match to see both patches and their '
        f"similarity{_told(stream)}. Keys: ← → pairs, Home, End; n, p matches.</p>"
        '<div data-role="patches" hidden><canvas width="112" height="112" role="img" aria-label="patch in the '
        'reference image"></canvas><canvas width="112" height="112" role="img" aria-label="patch in the current image">'
        f'</canvas></div><div class="facts" data-role="facts" aria-live="polite"></div></div>{note}</div>'
    )


def _told(stream: MatchStream) -> str:
    if any(np.isfinite(pair.similarity).any() for pair in stream.timeline.pairs):
        return " by texture and semantics"
    return ""


def page_data(data: ReportData) -> str:
    """Return all that the viewers show, as JSON that may stand in the page."""
    return as_json(
        {
            "streams": [_stream(data, stream) for stream in data.streams],
            "images": [base64.b64encode(jpeg).decode() for jpeg in data.thumbnails.data],
            "ramp": amount_colours(np.linspace(0, 1, 9)).tolist(),
            "words": _WORDS,
            "paths": [path_data(_start(data), track) for track in data.paths.values()],
        }
    )


def _start(data: ReportData) -> int:
    # Seconds as on the first stream's time line.
    return min((stream.series.received[0] for stream in data.streams), default=0)


def _stream(data: ReportData, stream: MatchStream) -> dict[str, Any]:
    pairs = stream.timeline.pairs
    confidence = np.concatenate([pair.confidence for pair in pairs]) if pairs else np.zeros(0)
    low, high = (float(confidence.min()), float(confidence.max())) if len(confidence) else (0.0, 1.0)
    best = next((pair.number for pair in stream.pairs if "best" in pair.rank), 0)
    values = stream.values()
    if data.run is not None:
        del values["latency"]
    return {
        "series": {name: _numbers(array) for name, array in values.items()},
        "start_s": round((stream.series.received[0] - _start(data)) / 1e9, 4),
        "range": [round(low, 4), round(high, 4)],
        "step": stream.timeline.step,
        "start": min(len(pairs) - 1, best // stream.timeline.step),
        "pairs": [_pair(data, pair, low, high) for pair in pairs],
    }


def _pair(data: ReportData, pair: Pair, low: float, high: float) -> dict[str, Any]:
    sizes, images = [], []
    for side in (0, 1):
        key = pair.keys[side]
        index = data.thumbnails.of.get((key, side_name(pair.keys, side)), -1)
        images.append(index)
        size = data.thumbnails.sizes[index] if index >= 0 else data.sizes.get(key, (0, 0))
        if 0 in size:
            reach = pair.points[:, 2 * side : 2 * side + 2].max(axis=0) if len(pair.points) else np.ones(2)
            size = (int(min(reach[0], _LARGEST)) + 1, int(min(reach[1], _LARGEST)) + 1)
        sizes.append((max(1, size[0]), max(1, size[1])))
    return {
        "n": pair.number,
        "i": images,
        "s": [*sizes[0], *sizes[1]],
        "m": packed(pair, sizes[0], sizes[1], low, high),
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    return [round(float(v), 4) if np.isfinite(v) else None for v in values]
