"""Labelling from pictures to the file, picture by picture and pair by pair, going on where it was interrupted."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from semantic_matcher_core.errors import CheckpointError, check_choice
from semantic_matcher_core.io.atomic import atomic_output, check_output, make_folder
from semantic_matcher_core.io.images import decode_image, write_image
from semantic_matcher_core.types import Matches
from semantic_matcher_core.viz.matches import draw_matches
from training.errors import DataError
from training.labelling.checking import CheckConfig, LabelledPair, checked
from training.labelling.choosing import by_likeness, by_order
from training.labelling.frames import Frame, FrameFile, bag_frames, folder_frames, is_bag
from training.labelling.label_file import jpeg, write_labels
from training.labelling.teacher import Teacher, TeacherFeatures

CHOICES = ("both", "order", "likeness")


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
    """

    images: int
    pairs: int
    refused: int
    matches: int


def label(
    sources: list[Path],
    output: Path,
    config: LabelConfig,
    teacher: Callable[[], Teacher],
    *,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
    preview: Path | None = None,
    workers: int = 1,
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
        preview: a picture of some pairs is written here.
        workers: threads that read pictures and check pairs.

    Raises:
        DataError: no pictures, or no pair that geometry confirms.
        CheckpointError: the parts are of a labelling with other settings.
        OutputError: nothing can be written there.
    """
    check_output(output)
    parts = _Parts(output.with_name(output.name + ".parts"), sources, config)
    made: list[Teacher] = []

    def the_teacher() -> Teacher:
        if not made:
            made.append(teacher())
        return made[0]

    frames: dict[str, list[FrameFile | Frame]] = {}
    for source in sources:
        found = (
            bag_frames(source, config.max_side, config.every) if is_bag(source) else folder_frames(source, config.every)
        )
        for frame in found:
            frames.setdefault(frame.source, []).append(frame)
    total = sum(map(len, frames.values()))
    images: list[tuple[str, str, bytes, np.ndarray]] = []
    pairs: list[tuple[int, int, LabelledPair]] = []
    refused = done = 0
    generator = np.random.default_rng(config.seed)
    with ThreadPoolExecutor(workers) as pool:
        for origin, listed in frames.items():
            features, sizes = [], []
            first = len(images)
            for frame in _read_ahead(pool, listed, config.max_side, workers):
                seen = parts.features(frame.key)
                if seen is None:
                    seen = the_teacher().extract(frame.image)
                    parts.keep_features(frame.key, seen)
                features.append(seen)
                sizes.append((frame.image.shape[0], frame.image.shape[1]))
                images.append((frame.key, origin, jpeg(frame.image, config.jpeg_quality), seen.keypoints))
                done += 1
                progress("features", done, total)
            chosen = _chosen(features, config, generator)
            waiting: list[tuple[int, int, Future[LabelledPair | None]]] = []
            for number, (i, j) in enumerate(chosen):
                known = parts.pair(listed[i].key, listed[j].key)
                if known is not None:
                    waiting.append((i, j, _done(known[0])))
                else:
                    matches = the_teacher().match(features[i], features[j], sizes[i], sizes[j])
                    ends, both = (listed[i], listed[j]), (features[i], features[j])

                    def check(ends=ends, both=both, matches=matches) -> LabelledPair | None:  # type: ignore[no-untyped-def]
                        two = tuple(_read(end, config.max_side) for end in ends)
                        pair = checked(two, both, matches, config.check)  # type: ignore[arg-type]
                        parts.keep_pair(ends[0].key, ends[1].key, pair)
                        return pair

                    waiting.append((i, j, pool.submit(check)))
                progress(f"pairs of {source}", number + 1, len(chosen))
            for i, j, result in waiting:
                pair = result.result()
                if pair is None:
                    refused += 1
                else:
                    pairs.append((first + i, first + j, pair))
    if not pairs:
        raise DataError(
            f"none of {refused} pairs has {config.check.least} matches that geometry confirms; are these pictures of "
            "one scene? Take more of them (--every), or keep more keypoints (--keypoints)"
        )
    write_labels(output, images, pairs, f"aliked-n16 + LightGlue, {json.dumps(asdict(config))}")
    if preview is not None:
        write_image(preview, _preview(images, pairs, config.seed))
    parts.remove()
    return LabelReport(len(images), len(pairs), refused, sum(len(pair.indices) for _, _, pair in pairs))


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


def _read(frame: FrameFile | Frame, max_side: int) -> Frame:
    return frame if isinstance(frame, Frame) else frame.read(max_side)


def _read_ahead(
    pool: ThreadPoolExecutor, listed: list[FrameFile | Frame], max_side: int, ahead: int
) -> Iterator[Frame]:
    """Yield the frames in order, a few being read while one is worked on."""
    reading: list[Future[Frame]] = []
    for frame in listed:
        reading.append(pool.submit(_read, frame, max_side))
        if len(reading) > ahead:
            yield reading.pop(0).result()
    for future in reading:
        yield future.result()


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
    """The folder of what is done so far."""

    def __init__(self, folder: Path, sources: list[Path], config: LabelConfig) -> None:
        self.folder = folder
        make_folder(folder)
        settings = {**asdict(config), "sources": [str(source) for source in sources]}
        # Which pairs are chosen changes nothing of those that are done.
        decisive = json.dumps({name: settings[name] for name in ("max_side", "keypoints", "check")}, sort_keys=True)
        file = folder / "settings.json"
        if file.is_file() and file.read_text(encoding="utf-8") != decisive:
            raise CheckpointError(f"{folder} is of a labelling with other settings; remove it, or name another output")
        file.write_text(decisive, encoding="utf-8")

    def features(self, key: str) -> TeacherFeatures | None:
        path = self._path("features", key)
        if not path.is_file():
            return None
        with np.load(path) as stored:
            return TeacherFeatures(stored["keypoints"], stored["descriptors"])

    def keep_features(self, key: str, features: TeacherFeatures) -> None:
        with atomic_output(self._path("features", key)) as temporary:
            np.savez(temporary, keypoints=features.keypoints, descriptors=features.descriptors)

    def pair(self, key0: str, key1: str) -> tuple[LabelledPair | None] | None:
        """Return the pair in a tuple, which holds ``None`` where geometry refused it; ``None`` where it is still to
        do.
        """
        path = self._path("pair", key0, key1)
        if not path.is_file():
            return None
        with np.load(path) as stored:
            if not len(stored["indices"]):
                return (None,)
            arrays = (stored["indices"], stored["confidence"], stored["unmatchable0"], stored["unmatchable1"])
            return (LabelledPair(*arrays, float(stored["projection_error"])),)

    def keep_pair(self, key0: str, key1: str, pair: LabelledPair | None) -> None:
        content = {"indices": np.zeros((0, 2), np.int32)} if pair is None else asdict(pair)
        with atomic_output(self._path("pair", key0, key1)) as temporary:
            np.savez(temporary, **content)

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _path(self, kind: str, *keys: str) -> Path:
        return self.folder / f"{kind}-{hashlib.sha256(' '.join(keys).encode()).hexdigest()[:24]}.npz"
