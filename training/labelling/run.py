"""Labelling from pictures to the file, picture by picture and pair by pair, going on where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from semantic_matcher_core.errors import CheckpointError, ImageError, check_choice
from semantic_matcher_core.io.atomic import atomic_output, check_output, make_folder
from semantic_matcher_core.io.encoding import encode_image
from semantic_matcher_core.io.images import decode_image, write_image
from semantic_matcher_core.types import Matches
from semantic_matcher_core.viz.matches import draw_matches
from training.errors import DataError
from training.labelling.checking import CheckConfig, LabelledPair, checked
from training.labelling.choosing import by_likeness, by_order
from training.labelling.frames import Geometry, GeometryFile, scenes_of
from training.labelling.label_file import write_labels
from training.labelling.teacher import Teacher, TeacherFeatures, TeacherMatches

_log = logging.getLogger(__name__)
CHOICES = ("both", "order", "likeness")
# Pairs that wait for their check, for each thread that checks: enough for all to have work, and few enough for an
# error, or Ctrl-C, not to wait for thousands of them.
_QUEUED = 4


@dataclass(frozen=True)
class LabelConfig:
    """What is labelled, and how.

    Attributes:
        max_side: pictures are made smaller to this long side, in pixels.
        keypoints: of each picture, at most.
        choose: pairs by ``order``, by ``likeness``, or ``both``.
        per_picture: pairs by likeness for each picture.
        every: of the pictures of a folder and the images of a bag, take every N-th.
        jpeg_quality: of the pictures in the file.
        limit: at most this many pairs of each source, drawn at random; 0 for all.
        seed: of everything random.
        check: how strictly matches are checked.
    """

    max_side: int = 800
    keypoints: int = 1024
    choose: str = "both"
    per_picture: int = 4
    every: int = 1
    jpeg_quality: int = 92
    limit: int = 0
    seed: int = 0
    check: CheckConfig = field(default_factory=CheckConfig)

    def __post_init__(self) -> None:
        check_choice("way to choose pairs", self.choose, CHOICES)


@dataclass(frozen=True)
class LabelReport:
    """What became of a labelling.

    Attributes:
        images: pictures in the file.
        pairs: pairs in the file.
        refused: pairs that geometry did not confirm.
        matches: confirmed matches in all.
        unreadable: pictures that were left out, because they cannot be read.
    """

    images: int
    pairs: int
    refused: int
    matches: int
    unreadable: int = 0


def label(
    sources: list[Path],
    output: Path,
    config: LabelConfig,
    teacher: Callable[[], Teacher],
    *,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
    report: Callable[[str], None] = _log.warning,
    preview: Path | None = None,
    workers: int = 1,
    topics: Sequence[str] = (),
) -> LabelReport:
    """Label pairs of the pictures of folders and bags.

    Features and pairs are kept in ``<output>.parts`` as they come; the same call goes on from there, and removes the
    folder when the file is whole.

    Args:
        sources: folders of pictures, and bags.
        output: the HDF5 file, see ``label_file``.
        config: of the labelling.
        teacher: makes the teacher; called only where there is something left to do.
        progress: called with what is being done, how many are done, and of how many.
        report: is told which pictures are left out, and which scenes give no pair.
        preview: a picture of some pairs is written here.
        workers: threads that read pictures and check pairs.
        topics: image topics of bags; empty for all.

    Raises:
        DataError: no pictures, or no pair that geometry confirms.
        CheckpointError: the parts are of a labelling with other settings.
        OutputError: nothing can be written there.
    """
    check_output(output)
    scenes = scenes_of(sources, config.max_side, config.every, workers, topics)
    parts = _Parts(output.with_name(output.name + ".parts"), config)
    made: list[Teacher] = []

    def the_teacher() -> Teacher:
        if not made:
            made.append(teacher())
        return made[0]

    total = sum(scene.count for scene in scenes)
    images: list[tuple[str, str, bytes, np.ndarray]] = []
    pairs: list[tuple[int, int, LabelledPair]] = []
    refused = unreadable = 0
    generator = np.random.default_rng(config.seed)
    with ThreadPoolExecutor(workers) as pool:
        for scene in scenes:
            seen: list[_Seen] = []
            first = len(images)
            for frame in scene.frames():
                if isinstance(frame, ImageError):
                    report(f"left out: {frame}")
                    unreadable += 1
                else:
                    digest = frame.digest()
                    features = parts.features(digest)
                    if features is None:
                        features = the_teacher().extract(frame.image)
                        parts.keep_features(digest, features)
                    size = (frame.image.shape[0], frame.image.shape[1])
                    seen.append(_Seen(digest, features, size, frame.scale, frame.geometry))
                    stored = encode_image(frame.image, jpeg_quality=config.jpeg_quality, name=frame.key)
                    images.append((frame.key, scene.name, stored.tobytes(), features.keypoints))
                progress("features", len(images) + unreadable, total)
            chosen = _chosen([one.features for one in seen], config, generator)
            # By content: a camera that stands still may give one picture many times.
            waiting: dict[tuple[str, str], Future[LabelledPair | None]] = {}
            queued: deque[Future[LabelledPair | None]] = deque()
            for number, (i, j) in enumerate(chosen):
                both = (seen[i], seen[j])
                content = (both[0].digest, both[1].digest)
                known = None if content in waiting else parts.pair(*content)
                if known is not None:
                    waiting[content] = _done(known[0])
                elif content not in waiting:
                    matches = the_teacher().match(both[0].features, both[1].features, both[0].size, both[1].size)
                    waiting[content] = pool.submit(_checked, both, matches, config.check, parts)
                    queued.append(waiting[content])
                    if len(queued) > _QUEUED * workers:
                        queued.popleft().result()
                progress(f"pairs of {scene.name}", number + 1, len(chosen))
            results = [(i, j, waiting[seen[i].digest, seen[j].digest].result()) for i, j in chosen]
            found = [(first + i, first + j, pair) for i, j, pair in results if pair is not None]
            if not found:
                report(f"{scene.name}: geometry confirms none of {len(chosen)} pairs of {len(seen)} pictures")
            refused += len(chosen) - len(found)
            pairs += found
    if not pairs:
        raise DataError(
            f"none of {refused} pairs has {config.check.least} matches that geometry confirms; are these pictures of "
            "one scene? Take more of them (a smaller --every), or keep more keypoints (--keypoints)"
        )
    write_labels(output, images, pairs, f"aliked-n16 + LightGlue, {json.dumps(asdict(config))}")
    if preview is not None:
        write_image(preview, _preview(images, pairs, config.seed))
    parts.remove()
    matches_in_all = sum(len(pair.indices) for _, _, pair in pairs)
    return LabelReport(len(images), len(pairs), refused, matches_in_all, unreadable)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What is kept of a picture until its pairs are done."""

    digest: str
    features: TeacherFeatures
    size: tuple[int, int]
    scale: float
    geometry: GeometryFile | None

    def read_geometry(self) -> Geometry | None:
        return None if self.geometry is None else self.geometry.read(self.size, self.scale)


def _checked(
    both: tuple[_Seen, _Seen], matches: TeacherMatches, config: CheckConfig, parts: _Parts
) -> LabelledPair | None:
    features = (both[0].features, both[1].features)
    pair = checked((both[0].read_geometry(), both[1].read_geometry()), features, matches, config)
    parts.keep_pair(both[0].digest, both[1].digest, pair)
    return pair


def _chosen(
    features: list[TeacherFeatures], config: LabelConfig, generator: np.random.Generator
) -> list[tuple[int, int]]:
    chosen = set(by_order(len(features))) if config.choose != "likeness" else set()
    if config.choose != "order":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        chosen |= set(by_likeness(features, config.per_picture, generator, device))
    pairs = sorted(chosen)
    if config.limit and len(pairs) > config.limit:
        pairs = [pairs[i] for i in sorted(generator.permutation(len(pairs))[: config.limit])]
    return pairs


def _done(pair: LabelledPair | None) -> Future[LabelledPair | None]:
    future: Future[LabelledPair | None] = Future()
    future.set_result(pair)
    return future


def _preview(
    images: list[tuple[str, str, bytes, np.ndarray]], pairs: list[tuple[int, int, LabelledPair]], seed: int
) -> np.ndarray:
    """Return some pairs under each other, from those with few matches to those with many."""
    ranked = sorted(pairs, key=lambda pair: len(pair[2].indices))
    shown = [ranked[round(share * (len(ranked) - 1))] for share in (0.05, 0.3, 0.6, 0.9)]
    rows = []
    for i, j, pair in shown:
        first, second = (decode_image(images[n][2]) for n in (i, j))
        points0, points1 = (torch.from_numpy(images[n][3][pair.indices[:, side]]) for side, n in enumerate((i, j)))
        matches = Matches(torch.from_numpy(pair.indices).long(), points0, points1, torch.from_numpy(pair.confidence))
        rows.append(draw_matches(first, second, matches, title=f"{images[i][0]} {images[j][0]}", height=320))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])


class _Parts:
    """The folder of what is done so far, by the content of pictures: one that changed is done anew."""

    def __init__(self, folder: Path, config: LabelConfig) -> None:
        self.folder = folder
        make_folder(folder)
        settings = asdict(config)
        # Which pairs are chosen changes nothing of those that are done.
        decisive = json.dumps({name: settings[name] for name in ("max_side", "keypoints", "check")}, sort_keys=True)
        file = folder / "settings.json"
        if file.is_file() and file.read_text(encoding="utf-8") != decisive:
            raise CheckpointError(f"{folder} is of a labelling with other settings; remove it, or name another output")
        file.write_text(decisive, encoding="utf-8")

    def features(self, digest: str) -> TeacherFeatures | None:
        path = self._path("features", digest)
        if not path.is_file():
            return None
        with np.load(path) as stored:
            return TeacherFeatures(stored["keypoints"], stored["descriptors"])

    def keep_features(self, digest: str, features: TeacherFeatures) -> None:
        with atomic_output(self._path("features", digest)) as temporary:
            np.savez(temporary, keypoints=features.keypoints, descriptors=features.descriptors)

    def pair(self, digest0: str, digest1: str) -> tuple[LabelledPair | None] | None:
        """Return the pair in a tuple, which holds ``None`` where geometry refused it; ``None`` where it is still to
        do.
        """
        path = self._path("pair", digest0, digest1)
        if not path.is_file():
            return None
        with np.load(path) as stored:
            if not len(stored["indices"]):
                return (None,)
            arrays = (stored["indices"], stored["confidence"], stored["unmatchable0"], stored["unmatchable1"])
            return (LabelledPair(*arrays, float(stored["projection_error"])),)

    def keep_pair(self, digest0: str, digest1: str, pair: LabelledPair | None) -> None:
        content = {"indices": np.zeros((0, 2), np.int32)} if pair is None else asdict(pair)
        with atomic_output(self._path("pair", digest0, digest1)) as temporary:
            np.savez(temporary, **content)

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _path(self, kind: str, *digests: str) -> Path:
        return self.folder / f"{kind}-{hashlib.sha256(' '.join(digests).encode()).hexdigest()[:24]}.npz"
