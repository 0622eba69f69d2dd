"""What a report needs, read from an MCAP file (or any bag) with Matches, in two passes and little memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semantic_matcher_core.errors import BagError, ImageError
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.messages import KEYPOINTS, MATCHES, matches_of, stamp_of
from semantic_matcher_core.io.trajectory import pose_of
from semantic_matcher_core.types import Features, Matches
from semantic_matcher_core.viz.timeline import (
    Key,
    Thumbnails,
    Timeline,
    camera_topics,
    fill_similarities,
    fill_thumbnails,
    may_be,
    pair_of,
    plan,
    read_similarities,
)
from semantic_matcher_core.viz.trajectory import Track, Truth

HEAT_ROWS, HEAT_COLUMNS = 36, 48
_COVERAGE_GRID = 8
_ODOMETRY = "nav_msgs/msg/Odometry"


@dataclass
class Series:
    """One value per pair, in the order of the pairs.

    Attributes:
        received: when the Matches were recorded, nanoseconds.
        stamp: exposure of the current image, nanoseconds.
        matches, inliers: counts; an inlier count is -1 where no geometric check ran.
        confidence: mean confidence, NaN without matches.
        coverage: share of an 8 x 8 grid over the current image that holds a match (an inlier, where checked).
    """

    received: list[int] = field(default_factory=list)
    stamp: list[int] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)
    inliers: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    coverage: list[float] = field(default_factory=list)


@dataclass
class DrawnPair:
    """A pair to be drawn: what it is an example of, its matches, and its images where they are in the file."""

    rank: str
    number: int
    matches: Matches
    keys: tuple[Key, Key]
    images: list[np.ndarray | None] = field(default_factory=lambda: [None, None])
    features: list[Features | None] = field(default_factory=lambda: [None, None])


@dataclass
class MatchStream:
    """One topic of Matches.

    Attributes:
        topic: its name.
        mode: ``temporal``, ``stereo`` or ``reference``.
        model_type: of the geometric check, or "" where none ran.
        size: (width, height) of the current images, from their keypoints or the matches themselves.
        series: values per pair.
        heat: matches (inliers, where checked) of all pairs by place in the current image, rows x columns.
        pairs: best, median and worst.
        timeline: every pair, small.
    """

    topic: str
    mode: str = ""
    model_type: str = ""
    size: tuple[int, int] = (0, 0)
    series: Series = field(default_factory=Series)
    heat: np.ndarray = field(default_factory=lambda: np.zeros((HEAT_ROWS, HEAT_COLUMNS)))
    pairs: list[DrawnPair] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def checked(self) -> bool:
        """Whether a geometric check ran."""
        return any(count >= 0 for count in self.series.inliers)

    @property
    def inlier_share(self) -> np.ndarray:
        """Inliers over matches of each pair; NaN without matches or check."""
        matches = np.array(self.series.matches, float)
        inliers = np.array(self.series.inliers, float)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where((matches > 0) & (inliers >= 0), inliers / matches, np.nan)

    @property
    def latency(self) -> np.ndarray:
        """Seconds from each image's stamp to the recording of its matches."""
        return (np.array(self.series.received, np.int64) - np.array(self.series.stamp, np.int64)) / 1e9

    def values(self) -> dict[str, np.ndarray]:
        """Return what is drawn of each pair over time, by what ``report.js`` calls it; NaN where there is none."""
        received, inliers = np.array(self.series.received, np.int64), np.array(self.series.inliers, float)
        return {
            "seconds": (received - received[0]) / 1e9,
            "matches": np.array(self.series.matches, float),
            "inliers": np.where(inliers < 0, np.nan, inliers),
            "share": self.inlier_share,
            "coverage": np.array(self.series.coverage),
            "confidence": np.array(self.series.confidence),
            "latency": self.latency * 1000,
        }


@dataclass
class ReportData:
    """All of a file.

    Attributes:
        path: the file.
        run: how an offline run made it, or ``None`` for a recording of the nodes.
        keypoints: median keypoints per image, by topic.
        streams: topics of Matches that hold any.
        thumbnails: of the images of all pairs.
        sizes: (width, height) of images, from their keypoints.
        paths: topic of nav_msgs/Odometry -> its trajectory.
        truth: what the trajectories are compared with.
    """

    path: Path
    run: dict[str, Any] | None
    keypoints: dict[str, float]
    streams: list[MatchStream]
    thumbnails: Thumbnails = field(default_factory=Thumbnails)
    sizes: dict[Key, tuple[int, int]] = field(default_factory=dict)
    paths: dict[str, Track] = field(default_factory=dict)
    truth: Truth | None = None


def collect(path: Path) -> ReportData:
    """Read a file of results.

    Raises:
        BagError: it is no bag, is damaged, or holds no Matches; the message lists what it holds.
    """
    from semantic_matcher_core.io.run_info import run_info_of

    with BagReader(path) as bag:
        matches_counts = {t.name: t.count for t in bag.topics if t.msgtype == MATCHES and t.count}
        matches_topics = list(matches_counts)
        if not matches_topics:
            raise BagError(f"{path} holds no semantic_matcher_msgs/Matches; {bag.describe_topics()}")
        keypoints_topics = [t.name for t in bag.topics if t.msgtype == KEYPOINTS]
        counts: dict[str, list[int]] = {name: [] for name in keypoints_topics}
        sizes: dict[Key, tuple[int, int]] = {}
        for item in bag.messages(keypoints_topics):
            counts[item.topic].append(len(item.message.scores))
            sizes[_key_of_features(item.message)] = (item.message.width, item.message.height)
        streams = {name: MatchStream(name, timeline=plan(count)) for name, count in matches_counts.items()}
        for item in bag.messages(matches_topics):
            _add(streams[item.topic], item.message, item.received_ns, sizes)
        for stream in streams.values():
            _choose(stream)
        _fetch_matches(bag, streams)
        _fetch_images(bag, [pair for stream in streams.values() for pair in stream.pairs], keypoints_topics)
        timelines = [stream.timeline for stream in streams.values()]
        read_similarities(bag, {stream.topic: stream.timeline for stream in streams.values()})
        fill_similarities(bag, timelines, _key_of_features)
        thumbnails = Thumbnails()
        fill_thumbnails(bag, timelines, thumbnails)
        paths = _paths(bag)
        info = run_info_of(bag)
    medians = {name: float(np.median(values)) for name, values in counts.items() if values}
    return ReportData(path, info, medians, list(streams.values()), thumbnails, sizes, paths)


def _paths(bag: BagReader) -> dict[str, Track]:
    received: dict[str, list[int]] = {t.name: [] for t in bag.topics if t.msgtype == _ODOMETRY and t.count}
    stamps: dict[str, list[int]] = {name: [] for name in received}
    poses: dict[str, list[list[float]]] = {name: [] for name in received}
    for item in bag.messages(list(received)) if received else ():
        received[item.topic].append(item.received_ns)
        stamps[item.topic].append(stamp_of(item.message.header))
        poses[item.topic].append(pose_of(item.message))
    return {
        name: Track(
            np.array(received[name], np.int64),
            np.array(stamps[name], np.int64),
            np.array(poses[name], float).reshape(-1, 7),
        )
        for name in received
    }


def _key(header: Any, name: str = "") -> Key:
    return stamp_of(header), name or header.frame_id


def _key_of_features(message: Any) -> Key:
    # Recordings made before stored images had a name of their own have it in the frame.
    return _key(message.header, getattr(message, "image_name", ""))


def _add(stream: MatchStream, message: Any, received_ns: int, sizes: dict[Key, tuple[int, int]]) -> None:
    points = message.xy1.reshape(-1, 2)
    checked = len(message.inlier) > 0 or bool(message.model_type)
    good = message.inlier.astype(bool) if len(message.inlier) == len(points) else np.ones(len(points), bool)
    size = sizes.get(_key(message.header)) or stream.size
    if size == (0, 0) and len(points):
        size = (int(points[:, 0].max()) + 1, int(points[:, 1].max()) + 1)
    stream.size, stream.mode = size, message.mode
    stream.model_type = stream.model_type or message.model_type
    series = stream.series
    number = len(series.matches)
    if number % stream.timeline.step == 0:
        keys = (_key(message.reference_header, getattr(message, "reference_name", "")), _key(message.header))
        stream.timeline.pairs.append(pair_of(message, number, keys, stream.timeline.most))
    series.received.append(received_ns)
    series.stamp.append(stamp_of(message.header))
    series.matches.append(len(points))
    series.inliers.append(int(good.sum()) if checked else -1)
    series.confidence.append(float(message.confidence.mean()) if len(points) else float("nan"))
    series.coverage.append(float((histogram(points[good], size, _COVERAGE_GRID, _COVERAGE_GRID) > 0).mean()))
    stream.heat += histogram(points[good], size, HEAT_ROWS, HEAT_COLUMNS)


def histogram(points: np.ndarray, size: tuple[int, int], rows: int, columns: int) -> np.ndarray:
    """Return how many of ``N x 2`` (x, y) pixels lie in each of rows x columns cells of an image of (width, height)."""
    if not len(points) or 0 in size:
        return np.zeros((rows, columns))
    cell = np.floor((points + 0.5) * (columns / size[0], rows / size[1])).astype(int)
    cell = np.clip(cell, 0, (columns - 1, rows - 1))
    return np.bincount(cell[:, 1] * columns + cell[:, 0], minlength=rows * columns).reshape(rows, columns).astype(float)


def _choose(stream: MatchStream) -> None:
    """Choose the best, median and worst pair by inliers where checked, else by matches; each once."""
    series = stream.series
    scores = np.array(series.inliers if stream.checked else series.matches)
    order = np.lexsort((np.arange(len(scores)), scores))
    chosen = {"worst": order[0], "median": order[(len(order) - 1) // 2], "best": order[-1]}
    seen: dict[int, str] = {}
    for rank in ("best", "median", "worst"):
        number = int(chosen[rank])
        seen[number] = f"{seen[number]} and {rank}" if number in seen else rank
    none = torch.zeros(0)
    empty = Matches(none.reshape(0, 2).long(), none.reshape(0, 2), none.reshape(0, 2), none)
    stream.pairs = [DrawnPair(rank, number, empty, ((0, ""), (0, ""))) for number, rank in seen.items()]


def _fetch_matches(bag: BagReader, streams: dict[str, MatchStream]) -> None:
    numbers = dict.fromkeys(streams, 0)
    for item in bag.messages(list(streams)):
        for pair in streams[item.topic].pairs:
            if pair.number == numbers[item.topic]:
                pair.matches = matches_of(item.message)
                message = item.message
                name = getattr(message, "reference_name", "")
                pair.keys = (_key(message.reference_header, name), _key(message.header))
        numbers[item.topic] += 1


def _fetch_images(bag: BagReader, pairs: list[DrawnPair], keypoints_topics: Sequence[str]) -> None:
    wanted: dict[Key, list[tuple[DrawnPair, int]]] = {}
    for pair in pairs:
        for side, key in enumerate(pair.keys):
            wanted.setdefault(key, []).append((pair, side))
    for item in bag.messages(keypoints_topics):
        for pair, side in wanted.get(_key_of_features(item.message), ()):
            if pair.features[side] is None and may_be(item.topic, pair.keys, side):
                pair.features[side] = _features_of(item.message)
    image_topics = camera_topics(bag)
    if not image_topics:
        return
    for image in bag.images(image_topics):
        takers = [
            (pair, side)
            for pair, side in wanted.get((image.stamp_ns, image.frame_id), ())
            if pair.images[side] is None and may_be(image.topic, pair.keys, side)
        ]
        if not takers:
            continue
        try:
            pixels = image.decode()
        except ImageError:
            continue  # the pair is drawn without it
        for pair, side in takers:
            pair.images[side] = pixels


def _features_of(message: Any) -> Features:
    count = len(message.scores)
    return Features(
        torch.from_numpy(np.array(message.xy, np.float32).reshape(1, count, 2)),
        torch.from_numpy(np.array(message.scores, np.float32))[None],
        torch.zeros(1, count, 0),
        (message.height, message.width),
    )
