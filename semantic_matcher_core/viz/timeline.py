"""Every pair of a recording in a form small enough for a page: thumbnails, and the matches that say most.

Bounded whatever the file holds: pairs, matches and pixels beyond the budget are left out evenly, and counted.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.encoding import encode_image
from semantic_matcher_core.io.images import shrunk
from semantic_matcher_core.io.messages import DESCRIPTORS, NUMBERS, descriptors_of, similarities_topic
from semantic_matcher_core.viz.spread import spread

Key = tuple[int, str]
"""Stamp of an image, and its frame or, of a stored one, its name: which image a message belongs to."""

MAX_PAIRS = 1500
_MAX_MATCHES, _MOST_A_PAIR, _LEAST_A_PAIR = 90_000, 300, 40
# Widths of thumbnails, and up to how many of them.
_WIDTHS = ((24, 640), (150, 480), (500, 320), (1500, 224))
_SMALLEST, _QUALITY = 160, 72
_MISSING = 255


@dataclass
class Pair:
    """One pair: when, which images, and the matches that are shown.

    Attributes:
        number: its place among all pairs of its stream.
        keys: of the reference and the current image.
        points: ``M x 4`` float32, x0, y0, x1, y1 in pixels.
        rows: ``M x 2`` int, keypoints that the matches join.
        chosen: ``M`` int, their places among all matches of the pair.
        confidence: ``M`` float32.
        inlier: ``M`` bool, or ``None`` where no geometric check ran.
        similarity: ``M x 2`` float32, by texture and by semantics; NaN where the file does not tell.
    """

    number: int
    keys: tuple[Key, Key]
    points: np.ndarray
    rows: np.ndarray
    chosen: np.ndarray
    confidence: np.ndarray
    inlier: np.ndarray | None
    similarity: np.ndarray


@dataclass
class Timeline:
    """The pairs of one stream, and what was left out.

    Attributes:
        pairs: in order; every ``step``-th.
        step: 1 where every pair is there.
        most: matches shown of a pair at most.
    """

    pairs: list[Pair] = field(default_factory=list)
    step: int = 1
    most: int = _MOST_A_PAIR


@dataclass
class Thumbnails:
    """Small JPEG images, each once, however many pairs it is in.

    Attributes:
        data: JPEG bytes.
        sizes: (width, height) of the images they were made of.
        of: (key, side of a stereo rig or "") to the index.
    """

    data: list[bytes] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    of: dict[tuple[Key, str], int] = field(default_factory=dict)


def plan(pairs: int) -> Timeline:
    """Return an empty time line for this many pairs."""
    step = max(1, math.ceil(pairs / MAX_PAIRS))
    kept = max(1, math.ceil(pairs / step))
    return Timeline(step=step, most=min(_MOST_A_PAIR, max(_LEAST_A_PAIR, _MAX_MATCHES // kept)))


def pair_of(message: Any, number: int, keys: tuple[Key, Key], most: int) -> Pair:
    """Return what is kept of a Matches message: the surest matches of every part of the image."""
    count = len(message.confidence)
    points = np.hstack([message.xy0.reshape(-1, 2), message.xy1.reshape(-1, 2)]).astype(np.float32)
    confidence = np.array(message.confidence, np.float32)
    checked = len(message.inlier) == count and count > 0
    good = message.inlier.astype(bool) if checked else np.ones(count, bool)
    finite = np.flatnonzero(np.isfinite(points).all(axis=1) & np.isfinite(confidence))
    reach = points[finite, 2:].max(axis=0) if len(finite) else np.ones(2)
    shape = (max(1, int(min(reach[1], 1e5)) + 1), 2 * max(1, int(min(reach[0], 1e5)) + 1))
    chosen = finite[spread(points[finite, 2:], confidence[finite], good[finite], most, shape)]
    rows = np.stack([message.index0, message.index1], axis=1).astype(np.int64)
    return Pair(
        number,
        keys,
        points[chosen],
        rows[chosen],
        chosen,
        confidence[chosen],
        good[chosen] if checked else None,
        np.full((len(chosen), 2), np.nan, np.float32),
    )


def read_similarities(bag: BagReader, timelines: Mapping[str, Timeline]) -> None:
    """Read the similarities that an offline run has recorded beside its matches.

    Args:
        bag: the recording.
        timelines: by topic of Matches.
    """
    kinds = {topic.name: topic.msgtype for topic in bag.topics if topic.count}
    sources = {similarities_topic(name): timeline for name, timeline in timelines.items()}
    sources = {name: timeline for name, timeline in sources.items() if kinds.get(name) == NUMBERS}
    pairs = {name: {pair.number: pair for pair in timeline.pairs} for name, timeline in sources.items()}
    numbers = dict.fromkeys(sources, 0)
    for item in bag.messages(list(sources)) if sources else ():
        pair = pairs[item.topic].get(numbers[item.topic])
        numbers[item.topic] += 1
        values = item.message.data
        if pair is not None and len(pair.chosen) and len(values) % 2 == 0 and len(values) // 2 > pair.chosen.max():
            pair.similarity[:] = values.reshape(2, -1)[:, pair.chosen].T


def fill_similarities(bag: BagReader, timelines: Iterable[Timeline], key_of: Any) -> None:
    """Compute the similarities of the shown matches of descriptors in the file; one pass, few of them at a time."""
    topics = [topic.name for topic in bag.topics if topic.msgtype == DESCRIPTORS and topic.count]
    if not topics:
        return
    wanted: dict[Key, list[tuple[Pair, int]]] = {}
    for timeline in timelines:
        for pair in timeline.pairs:
            for side in (0, 1):
                wanted.setdefault(pair.keys[side], []).append((pair, side))
    half: dict[int, tuple[int, np.ndarray, np.ndarray | None]] = {}
    for item in bag.messages(topics):
        for pair, side in wanted.get(key_of(item.message), ()):
            if not may_be(item.topic, pair.keys, side) or not len(pair.rows):
                continue
            data, semantic_data = descriptors_of(item.message)
            vectors = _rows(data, item.message.dim, pair.rows[:, side])
            semantic = _rows(semantic_data, item.message.semantic_dim, pair.rows[:, side])
            other = half.pop(id(pair), None)
            if other is None or other[0] == side:
                if vectors is not None:
                    half[id(pair)] = (side, vectors, semantic)
                continue
            for column, (a, b) in enumerate(((vectors, other[1]), (semantic, other[2]))):
                if a is not None and b is not None and a.shape == b.shape:
                    pair.similarity[:, column] = (a * b).sum(axis=1)


def _rows(data: np.ndarray, dim: int, rows: np.ndarray) -> np.ndarray | None:
    if not dim or len(data) % dim or not len(rows) or rows.max() >= len(data) // dim:
        return None
    return np.array(data.reshape(-1, dim)[rows], np.float32)


def camera_topics(bag: BagReader) -> list[str]:
    """Return the names of topics with images, without the pictures that nodes draw of them (``debug_image``)."""
    named = [(topic.name, topic.name.removesuffix("/compressed")) for topic in bag.image_topics if topic.count]
    return [name for name, base in named if not base.endswith("/debug_image")]


def fill_thumbnails(bag: BagReader, timelines: Iterable[Timeline], thumbnails: Thumbnails) -> None:
    """Make thumbnails of all images of the pairs; an image that cannot be decoded is left out."""
    wanted: dict[Key, set[str]] = {}
    for timeline in timelines:
        for pair in timeline.pairs:
            for side in (0, 1):
                wanted.setdefault(pair.keys[side], set()).add(side_name(pair.keys, side))
    topics = camera_topics(bag)
    if not topics or not wanted:
        return
    width = next((width for count, width in _WIDTHS if len(wanted) <= count), _SMALLEST)
    for image in bag.images(topics):
        key = (image.stamp_ns, image.frame_id)
        sides = [
            side
            for side in sorted(wanted.get(key, ()))
            if (key, side) not in thumbnails.of and (not side or _OTHER[side] not in image.topic)
        ]
        if not sides:
            continue
        try:
            pixels = image.decode()
            small = _thumbnail(pixels, width)
        except ImageError:
            continue  # the pair is drawn without it
        for name in sides:
            thumbnails.of[key, name] = len(thumbnails.data)
        thumbnails.data.append(small)
        thumbnails.sizes.append((pixels.shape[1], pixels.shape[0]))


_OTHER = {"left": "right", "right": "left"}


def side_name(keys: tuple[Key, Key], side: int) -> str:
    """Return which camera of a rig an image is of, where its key alone does not tell."""
    return ("left", "right")[side] if keys[0] == keys[1] else ""


def may_be(topic: str, keys: tuple[Key, Key], side: int) -> bool:
    """Return whether a topic may hold this side of a pair; it matters where both have the same stamp and frame."""
    name = side_name(keys, side)
    return not name or _OTHER[name] not in topic


def _thumbnail(pixels: np.ndarray, max_side: int) -> bytes:
    return encode_image(shrunk(pixels, max_side)[0], jpeg_quality=_QUALITY).tobytes()


def as_json(value: Any) -> str:
    """Return JSON that may stand in a page: nothing in it can end the element it is in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def packed(pair: Pair, size0: tuple[int, int], size1: tuple[int, int], low: float, high: float) -> str:
    """Return the shown matches of a pair in base64: what ``report.js`` unpacks.

    ``M`` little-endian uint16 each of x0, y0, x1, y1 (of the image's width and height), and of the confidence (of
    ``low`` to ``high``), then ``M`` bytes each: 1 for an inlier, 0 for an outlier, 255 where no check ran; texture and
    semantic similarity (-1 to 1 as 0 to 254; 255 where not known).
    """
    scale = np.array([*size0, *size1], np.float64)
    places = np.clip((pair.points.astype(np.float64) + 0.5) / scale, 0, 1) * 65535
    share = np.clip((pair.confidence - low) / max(high - low, 1e-9), 0, 1) * 65535
    words = np.round(np.vstack([places.T, share[None]])).astype("<u2")
    flags = np.full(len(pair.points), _MISSING, np.uint8) if pair.inlier is None else pair.inlier.astype(np.uint8)
    known = np.isfinite(pair.similarity)
    levels = np.round((np.clip(np.nan_to_num(pair.similarity), -1, 1) + 1) * 127)
    similarity = np.where(known, levels, _MISSING).astype(np.uint8)
    return base64.b64encode(words.tobytes() + flags.tobytes() + similarity.T.tobytes()).decode()
