"""What the page does with what it is given: files in, pictures and sentences out. Knows no browser."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError, SemanticMatcherError, check_choice
from semantic_matcher_core.io.bags import BAG_SUFFIXES
from semantic_matcher_core.io.images import IMAGE_SUFFIXES, decode_image, read_bytes, shrunk
from semantic_matcher_core.io.video import VIDEO_SUFFIXES
from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.run import run
from semantic_matcher_core.offline.sources import BagSource, ImageSource, SourceImage, VideoSource
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.semantics.semantic_map import SemanticMap
from semantic_matcher_core.types import Features
from semantic_matcher_core.viz.matches import draw_matches
from semantic_matcher_core.viz.report import write_report
from semantic_matcher_core.viz.semantics import draw_point, draw_semantics

VIEWS = ("lines", "arrows", "warp", "epipolar", "semantics", "point")
GEOMETRIES = ("none", "homography", "fundamental")
MAX_VARIANTS = 3
# Larger images are made smaller: a page is for looking, and answers soon.
MAX_SIDE = 1600
_WORDS = {"homography": "homography", "fundamental": "fundamental matrix"}
_KEPT_MATCHERS, _KEPT_FEATURES = 4, 12


@dataclass(frozen=True)
class Choice:
    """What was chosen on the page.

    Attributes:
        view: one of ``VIEWS``.
        geometry: one of ``GEOMETRIES``.
        threshold_px: of the geometric check.
        least: matches below this similarity are left out.
        keypoints: of each image at most.
        lines: drawn at most.
        point: (x, y) in pixels of the first image, for view ``"point"``.
    """

    view: str = "lines"
    geometry: str = "none"
    threshold_px: float = 2.0
    least: float = 0.0
    keypoints: int = 1024
    lines: int = 120
    point: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of one variant: a picture, or the sentence that says why there is none."""

    variant: str
    picture: np.ndarray | None
    text: str


@dataclass(frozen=True, eq=False)
class _Seen:
    features: Features
    semantic_map: SemanticMap | None
    milliseconds: float


class Desk:
    """Matchers and features that were made already, for one page; calls wait for each other.

    Args:
        device: where matchers run.
        max_frames: of a video or bag at most.
    """

    def __init__(self, device: str = "auto", max_frames: int = 40) -> None:
        self._max_frames = max_frames
        self._matcher = lru_cache(_KEPT_MATCHERS)(partial(_made, device))
        self._seen: OrderedDict[tuple[Any, ...], _Seen] = OrderedDict()
        self._lock = threading.Lock()

    def match(self, first: Path, second: Path, variants: Sequence[str], choice: Choice) -> list[Outcome]:
        """Match two image files with each of a few variants.

        Raises:
            ImageError: a file is no image, or damaged; the sentence names it.
            ConfigError: no variant, or too many; an unknown view or geometry.
        """
        if not 1 <= len(variants) <= MAX_VARIANTS:
            raise ConfigError(f"choose 1 to {MAX_VARIANTS} variants, got {len(variants)}")
        check_choice("view", choice.view, VIEWS)
        check_choice("geometry", choice.geometry, GEOMETRIES)
        images = [picture_of(path) for path in (first, second)]
        with self._lock:
            return [self._outcome(variant, images, choice) for variant in variants]

    def _outcome(self, variant: str, images: list[np.ndarray], choice: Choice) -> Outcome:
        try:
            return Outcome(variant, *self._matched(variant, images, choice))
        except SemanticMatcherError as error:
            # The other variants may do; this one says what it lacks.
            return Outcome(variant, None, f"{variant}: {error}")

    def _matched(self, variant: str, images: list[np.ndarray], choice: Choice) -> tuple[np.ndarray, str]:
        matcher = self._matcher(variant, choice.keypoints)
        seen = [self._features(matcher, variant, choice.keypoints, image) for image in images]
        features = [item.features for item in seen]
        start = time.perf_counter()
        matches = matcher.match(*features).to("cpu")
        matches = matches[matches.confidence >= choice.least]
        geometry = {"warp": "homography", "epipolar": "fundamental"}.get(choice.view, choice.geometry)
        if geometry != "none":
            matches = verify(matches, geometry, threshold_px=choice.threshold_px)
        spent = (time.perf_counter() - start) * 1000
        style: dict[str, Any] = {"title": variant, "height": 420}
        if choice.view == "semantics":
            picture = draw_semantics(images[0], images[1], seen[0].semantic_map, seen[1].semantic_map, **style)
        elif choice.view == "point":
            if choice.point is None:
                raise ConfigError("click a point of the first image, below the files")
            style["matching"] = matcher.matching
            picture = draw_point(images[0], images[1], features[0], features[1], choice.point, **style)
        else:
            if choice.view in ("warp", "epipolar") and matches.model is None:
                raise ConfigError(f"no {geometry} fits the {len(matches)} matches, so there is nothing to lay over")
            shown: dict[str, Any] = {"features0": features[0], "features1": features[1], "max_lines": choice.lines}
            picture = draw_matches(images[0], images[1], matches, view=choice.view, **shown, **style)
        counts = " + ".join(str(item.keypoints.shape[1]) for item in features)
        text = f"{len(matches)} matches between {counts} keypoints"
        if matches.inlier is not None:
            text += f", {int(matches.inlier.sum())} inliers of a {_WORDS[geometry]}"
        times = " + ".join(f"{item.milliseconds:.0f}" for item in seen)
        return picture, f"{variant}: {text}. Extracting {times} ms, matching {spent:.0f} ms on {matcher.device}."

    def _features(self, matcher: SemanticMatcher, variant: str, keypoints: int, image: np.ndarray) -> _Seen:
        key = (variant, keypoints, image.shape, hash(image.tobytes()))
        if key not in self._seen:
            start = time.perf_counter()
            features, semantic_map = matcher.extract_with_map(image)
            self._seen[key] = _Seen(features.to("cpu"), semantic_map, (time.perf_counter() - start) * 1000)
            while len(self._seen) > _KEPT_FEATURES:
                self._seen.popitem(last=False)
        return self._seen[key]

    def report(self, recording: Path, variant: str, choice: Choice, folder: Path) -> tuple[Path, str]:
        """Match the first frames of a video or bag with their predecessors, and make the report.

        Args:
            recording: the file.
            variant, choice: what matches, and how.
            folder: where the results go.

        Returns:
            The report, and a sentence on what it holds.

        Raises:
            SemanticMatcherError: the file cannot be read, or gives no usable image.
        """
        suffix = recording.suffix.lower()
        source: ImageSource
        if suffix in BAG_SUFFIXES:
            source = BagSource(recording)
        elif suffix in VIDEO_SUFFIXES:
            source = VideoSource([recording])
        else:
            known = " ".join(sorted({*BAG_SUFFIXES, *VIDEO_SUFFIXES}))
            raise ConfigError(f"{recording.name} is neither a video nor a bag, which end in {known}")
        geometry = None if choice.geometry == "none" else choice.geometry
        options = RunOptions(geometry=geometry, geometry_threshold=choice.threshold_px, descriptors=True)
        results = folder / "matches.mcap"
        with self._lock:
            matcher = self._matcher(variant, choice.keypoints)
            progress = run(_First(source, self._max_frames), matcher, results, options, overwrite=True)
        write_report(results, folder / "report.html")
        text = f"{variant}: {progress.frames} frames, {progress.pairs} pairs, {progress.matches} matches."
        if progress.frames >= self._max_frames:
            text += f" The first {self._max_frames} frames only; semantic-matcher bag or video takes all."
        if progress.left_out:
            text += " Left out: " + ", ".join(f"{n} ({why})" for why, n in progress.left_out.items()) + "."
        return folder / "report.html", text


def _made(device: str, variant: str, keypoints: int) -> SemanticMatcher:
    return SemanticMatcher.from_pretrained(variant, device=device, max_keypoints=keypoints)


def picture_of(path: Path) -> np.ndarray:
    """Return ``H x W x 3`` uint8 RGB of an image file, upright, and at most ``MAX_SIDE`` long.

    Raises:
        ImageError: the file is no image, or damaged.
    """
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ImageError(f"{path.name} is no image file; these are taken: {' '.join(sorted(IMAGE_SUFFIXES))}")
    return shrunk(decode_image(read_bytes(path), name=path.name), MAX_SIDE)[0]


class _First(ImageSource):
    """The first images of a source."""

    def __init__(self, source: ImageSource, limit: int) -> None:
        super().__init__()
        self._source, self._limit = source, limit
        self.path, self.streams = source.path, source.streams[:1]
        self.total = limit if source.total is None else min(limit, source.total)

    def images(self) -> Iterator[SourceImage]:
        left = self._limit
        for image in self._source.images():
            if image.stream not in self.streams:
                continue
            if not left:
                return
            left -= 1
            yield image

    def digest(self) -> str:
        return self._source.digest()

    def settings(self) -> dict[str, Any]:
        return {**self._source.settings(), "first": self._limit}

    def calibration(self, stream: str) -> Any:
        return self._source.calibration(stream)
