"""A report on a file of results: one HTML page that needs nothing else, and no network."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.atomic import atomic_output, check_output
from semantic_matcher_core.io.encoding import encode_image
from semantic_matcher_core.io.names import readable
from semantic_matcher_core.viz.charts import Curve, bar_chart, time_chart
from semantic_matcher_core.viz.matches import blank, draw_matches
from semantic_matcher_core.viz.palette import amount_colours
from semantic_matcher_core.viz.report_data import DrawnPair, MatchStream, ReportData, collect
from semantic_matcher_core.viz.report_viewer import page_data, viewer
from semantic_matcher_core.viz.trajectory import Truth, trajectory_figures

_PAIR_HEIGHT = 400
_HEAT_WIDTH = 640
_JPEG_QUALITY = 82


def write_report(results: Path, output: Path, *, truth: Truth | None = None) -> None:
    """Write the report of a file that ``semantic-matcher bag`` or a recorder of the nodes made.

    Args:
        results: a bag with semantic_matcher_msgs/Matches, and Keypoints and images for the pictures.
        output: the page, which appears whole or not at all.
        truth: where the camera really was, drawn beside the odometry that the file holds.

    Raises:
        BagError: ``results`` is no bag, is damaged, or holds no Matches; the message lists what it holds.
        ConfigError: there is a truth and no odometry to compare with it.
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    check_output(output)
    data = collect(results)
    if truth is not None and not data.paths:
        raise ConfigError(f"{results} holds no odometry to compare with {truth.name}; make it with --odometry")
    page = render(replace(data, truth=truth))
    with atomic_output(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render(data: ReportData) -> str:
    """Return the page as a string; the same data gives the same page."""
    style, script = (
        (files("semantic_matcher_core.viz") / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    title = f"Report on {readable(data.path.name)}"
    sections = "".join(_section(data, number, stream) for number, stream in enumerate(data.streams))
    paths = "".join(
        trajectory_figures(topic, number, track, data.truth) for number, (topic, track) in enumerate(data.paths.items())
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Nothing is loaded from anywhere, and no script but this one runs, whatever a topic or file is called.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">"
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style}</style></head><body>'
        f"<h1>{escape(title)}</h1>{_facts(data)}{sections}{paths}"
        f'<script type="application/json" id="data">{page_data(data)}</script><script>{script}</script></body></html>\n'
    )


def _facts(data: ReportData) -> str:
    rows: list[tuple[str, str]] = []
    if data.run is None:
        rows.append(("made by", "a recording of the running nodes"))
    else:
        run = data.run
        rows += [
            ("made by", f"{run['program']}, offline"),
            ("from", f"{run['source']['name']} ({', '.join(run['source']['streams'])})"),
            ("variant", run["variant"]),
            ("weights", _weights(run["weights_sha256"])),
            ("precision", run["precision"]),
        ]
    for topic, count in data.keypoints.items():
        rows.append((topic, f"{count:.0f} keypoints per image (median)"))
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _weights(digest: str) -> str:
    # What has no weights (SIFT) has the hash of nothing.
    has_some = digest and digest != hashlib.sha256().hexdigest()
    return f"sha256 {digest[:16]}…" if has_some else "none: this variant has no weights"


def _section(data: ReportData, number: int, stream: MatchStream) -> str:
    values = stream.values()
    seconds = values["seconds"]
    check = f"geometric check: {stream.model_type or 'no model found'}" if stream.checked else "no geometric check"
    heading = (
        f"<h2>{escape(stream.topic)}</h2>"
        f'<p class="lead">{escape(stream.mode or "unknown")} mode, {escape(check)}</p>{_tiles(data, stream, seconds)}'
    )
    counts = [Curve("matches", values["matches"], "amount", "matches")]
    share = Curve("inliers / matches", values["share"], "inlier", "share")
    coverage = Curve("8 x 8 cells with a match", values["coverage"], "neutral", "coverage")
    confidence = Curve("mean of a pair", values["confidence"], "amount", "confidence")
    if stream.checked:
        counts.append(Curve("inliers", values["inliers"], "inlier", "inliers"))
    charts = [
        time_chart("Matches per pair", seconds, counts),
        time_chart("Inlier share", seconds, [share], top=1.0, percent=True) if stream.checked else "",
        time_chart("Image covered", seconds, [coverage], top=1.0, percent=True),
        time_chart("Similarity", seconds, [confidence], top=1.0),
    ]
    if data.run is None:
        charts += _latency_charts(values["latency"], seconds)
    pictures = _heat(stream) + "".join(_pair(stream, pair) for pair in stream.pairs)
    # One pair has no course over time; its figures stand in the tiles.
    drawn = f'<div class="charts">{"".join(charts)}</div>' if len(seconds) > 1 else ""
    watch = viewer(number, stream, escape(stream.topic, quote=True))
    return f'<section data-stream="{number}">{heading}{watch}{drawn}{pictures}</section>'


def _tiles(data: ReportData, stream: MatchStream, seconds: np.ndarray) -> str:
    series = stream.series
    count = len(series.matches)
    tiles = [(f"{count}", "pairs"), (f"{np.median(series.matches):.0f}", "matches per pair, median")]
    share = stream.inlier_share
    if stream.checked and np.isfinite(share).any():
        tiles.append((f"{np.nanmedian(share):.0%}", "inlier share, median"))
    tiles.append((f"{np.median(series.coverage):.0%}", "of the image covered, median"))
    if count > 1 and seconds[-1] > 0:
        tiles.append((f"{(count - 1) / seconds[-1]:.1f} Hz", "pairs per second of recording"))
    if data.run is None:
        p50, p95 = np.percentile(stream.latency * 1000, [50, 95])
        tiles += [(f"{p50:.0f} ms", "image to matches, median"), (f"{p95:.0f} ms", "image to matches, 95 %")]
    cells = "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(k)}</span></div>' for v, k in tiles)
    note = "" if data.run is None else '<p class="note">Made offline, so there is no latency to report.</p>'
    return f'<div class="tiles">{cells}</div>{note}'


def _latency_charts(latency: np.ndarray, seconds: np.ndarray) -> list[str]:
    # One image that waited for seconds would flatten all others; it still counts, in the last bar.
    edge = max(float(np.percentile(latency, 99)), 1.0)
    counts, edges = np.histogram(np.clip(latency, 0, edge), bins=30, range=(0, edge))
    curve = Curve("image to matches", latency, "time", "latency")
    return [
        time_chart("Latency, image stamp to matches", seconds, [curve], unit=" ms"),
        bar_chart("Latency, how often", edges, counts, unit=" ms"),
    ]


def _heat(stream: MatchStream) -> str:
    picture = heat_map(stream)
    what = "inliers" if stream.checked else "matches"
    return (
        f'<figure class="wide heat"><figcaption>Where {what} lie in the current image, all pairs together</figcaption>'
        f'<img alt="heat map of {what}" src="{_jpeg(picture)}">'
        f'<p class="note">Dark blue: none; yellow: up to {stream.heat.max():.0f} in a cell of '
        f"{stream.heat.shape[1]} x {stream.heat.shape[0]}.</p></figure>"
    )


def heat_map(stream: MatchStream) -> np.ndarray:
    """Return ``H x W x 3`` uint8 RGB: how many matches lie where, over a faint picture of the median pair."""
    width, height = stream.size if 0 not in stream.size else (4, 3)
    # A line camera's image, or one of its transpose, is drawn less extreme than it is.
    size = (_HEAT_WIDTH, round(_HEAT_WIDTH * min(max(height / width, 1 / 8), 4)))
    heat = stream.heat / max(float(stream.heat.max()), 1.0)
    # The root, because a few cells hold most of the matches.
    levels = cv2.resize(np.sqrt(heat).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    colours = amount_colours(levels)
    background = next((p.images[1] for p in stream.pairs if "median" in p.rank and p.images[1] is not None), None)
    if background is None:
        return np.ascontiguousarray(colours)
    grey = background if background.ndim == 2 else cv2.cvtColor(background, cv2.COLOR_RGB2GRAY)
    faint = cv2.cvtColor(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(np.ascontiguousarray(colours), 0.8, faint, 0.35, 0)


def _pair(stream: MatchStream, pair: DrawnPair) -> str:
    images = [_image_of(pair, side, stream) for side in (0, 1)]
    picture = draw_matches(
        images[0],
        images[1],
        pair.matches,
        features0=pair.features[0],
        features1=pair.features[1],
        title=f"pair {pair.number}",
        height=_PAIR_HEIGHT,
    )
    missing = "" if all(image is not None for image in pair.images) else " (its images are not in the file)"
    measure = "inliers" if stream.checked else "matches"
    caption = f"{pair.rank.capitalize()} pair by {measure}{missing}"
    return (
        f'<figure class="wide"><figcaption>{escape(caption)}</figcaption>'
        f'<div class="pair"><img alt="{escape(caption, quote=True)}" src="{_jpeg(picture)}"></div></figure>'
    )


def _image_of(pair: DrawnPair, side: int, stream: MatchStream) -> np.ndarray:
    image, features = pair.images[side], pair.features[side]
    if image is not None:
        return image
    size = stream.size[::-1] if features is None else features.image_size
    return blank((pair.matches.keypoints0, pair.matches.keypoints1)[side], size)


def _jpeg(picture: np.ndarray) -> str:
    data = encode_image(picture, jpeg_quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
