"""Building an index of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.io.features_file import FeaturesWriter
from semantic_matcher_core.io.images import read_image
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.registration.template import extract_features
from semantic_matcher_core.retrieval.codebook import Codebook
from semantic_matcher_core.retrieval.index import GROUP, VERSION, RetrievalIndex, local_descriptors
from semantic_matcher_core.types import Features

# The codebook is learned from this many images and descriptors of them, drawn at random.
_TRAINING_IMAGES, _TRAINING_DESCRIPTORS = 128, 65_536


@dataclass(frozen=True)
class BuildReport:
    """What became of the images.

    Attributes:
        indexed: how many are in the index.
        reused: how many of them were taken from the index of before.
        skipped: what could not be read, and why.
    """

    indexed: int
    reused: int
    skipped: tuple[str, ...]


def build_index(
    matcher: SemanticMatcher,
    files: Sequence[tuple[str, Path]],
    output: str | Path,
    *,
    clusters: int = 64,
    max_side: int = 1600,
    seed: int = 0,
    skip_unreadable: bool = False,
    previous: RetrievalIndex | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> BuildReport:
    """Write an index of images; it appears whole, when all is done.

    Args:
        matcher: extracts the features, and matches queries later.
        files: (name, path) of each image.
        output: the index file; ``previous`` may be the file of that name.
        clusters: of the codebook, which is learned from these images; 64 rows of the descriptors' dimension are 16 kB
            an image for DALF, in 16 bits.
        max_side: images are looked at no larger than this (long side in pixels).
        seed: of everything random.
        skip_unreadable: leave out images that cannot be read, instead of stopping.
        previous: features of images whose file has kept size and time are taken from it.
        progress: called with the number of images done.

    Raises:
        ImageError: an image cannot be read (unless skipped), or not one has a single keypoint.
        ConfigError: no images, ``previous`` was made otherwise, or a number is out of range.
        OutputError: the index cannot be written.
    """
    if not files:
        raise ConfigError("no images to index")
    if clusters < 1 or max_side < 32:
        raise ConfigError(f"clusters must be 1 or more and max_side 32 or more, got {clusters} and {max_side}")
    if previous is not None and (previous.variant, previous.max_side) != (matcher.variant, max_side):
        raise ConfigError(
            f"{previous.path} was built with variant {previous.variant!r} and max_side {previous.max_side}, not with "
            f"{matcher.variant!r} and {max_side}; build anew"
        )
    random = np.random.default_rng(seed)
    # In random order, so that the first images are a fair sample to learn the codebook from.
    shuffled = [files[i] for i in random.permutation(len(files))]
    source = _Source(matcher, max_side, previous, skip_unreadable)
    with FeaturesWriter(output, variant=matcher.variant, half=True) as writer:
        waiting: list[tuple[str, Features]] = []
        codebook: Codebook | None = None
        vectors: dict[str, np.ndarray] = {}
        for done, (name, features) in enumerate(source.read(shuffled), start=1):
            writer.write(name, features)
            waiting.append((name, features))
            if codebook is None and len(waiting) == _TRAINING_IMAGES:
                codebook = _learn([f for _, f in waiting], clusters, random, seed)
            if codebook is not None:
                vectors.update((n, codebook.aggregate(local_descriptors(f))) for n, f in waiting)
                waiting.clear()
            progress(done)
        if not source.stamps:
            raise ImageError(f"none of the {len(files)} images could be read; nothing is written")
        if codebook is None:
            codebook = _learn([f for _, f in waiting], clusters, random, seed)
            vectors.update((n, codebook.aggregate(local_descriptors(f))) for n, f in waiting)
        names = [name for name, _ in files if name in vectors]
        stamps = np.array([source.stamps[name] for name in names], np.int64)
        writer.attach(
            GROUP,
            {
                "names": names,
                "vectors": np.stack([vectors[name] for name in names]).astype(np.float16),
                "centres": codebook.centres,
                "file_size": stamps[:, 0],
                "modified_ns": stamps[:, 1],
            },
            version=VERSION,
            max_side=max_side,
        )
    return BuildReport(len(names), source.reused, tuple(source.skipped))


class _Source:
    """Features of image files, extracted or taken from the index of before."""

    def __init__(
        self, matcher: SemanticMatcher, max_side: int, previous: RetrievalIndex | None, skip_unreadable: bool
    ) -> None:
        self.matcher = matcher
        self.max_side = max_side
        self.previous = previous
        self.skip_unreadable = skip_unreadable
        self.stamps: dict[str, tuple[int, int]] = {}
        self.skipped: list[str] = []
        self.reused = 0

    def read(self, files: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Features]]:
        for name, path in files:
            try:
                features = self._features(name, path)
            except ImageError as error:
                if not self.skip_unreadable:
                    raise
                self.skipped.append(str(error))
                continue
            yield name, features

    def _features(self, name: str, path: Path) -> Features:
        try:
            status = path.stat()
        except OSError as error:
            raise ImageError(f"cannot read image {path}: {error.strerror or error}") from error
        stamp = (status.st_size, status.st_mtime_ns)
        if self.previous is not None and self.previous.stamps.get(name) == stamp:
            features = self.previous.features(name)
            self.reused += 1
        else:
            features = extract_features(self.matcher, read_image(path), self.max_side)
        self.stamps[name] = stamp
        return features


def _learn(sample: list[Features], clusters: int, random: np.random.Generator, seed: int) -> Codebook:
    share = max(1, _TRAINING_DESCRIPTORS // len(sample))
    drawn = []
    for features in sample:
        descriptors = local_descriptors(features)
        drawn.append(descriptors[random.permutation(len(descriptors))[:share]])
    together = np.concatenate(drawn)
    if len(together) == 0:
        raise ImageError(f"not one keypoint in {len(sample)} images; there is nothing to index them by")
    return Codebook.train(together, clusters, seed)
