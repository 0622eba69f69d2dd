"""Frames matched with stored images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.resizing import features_at_size
from semantic_matcher_core.io.images import shrunk
from semantic_matcher_core.matching.sizes import Seen, agree, at_sizes, size_of, sizes_of, suits
from semantic_matcher_core.settings import turns_of
from semantic_matcher_core.streams.frames import (
    FeatureMatcher,
    Frame,
    MatchedPair,
    TurningFeatureMatcher,
    Verifier,
    extract_and_match,
    matched_pair,
)
from semantic_matcher_core.types import Features, Matches

# Long side, in pixels, of the images that stored ones are taken to be matched with until one has come.
_USUAL_SIDE = 1600
# What a camera sees of a stored image seldom fills its own.
_LARGER = 1.5


class ReferenceStream:
    """Matches frames with one or several stored images.

    A stored image that is far larger than the frames, such as a telephone's photograph, shows the same things at
    another scale than they do. Its features are taken as large as the frames are; keypoints stay in its own pixels.
    One that fills only a part of a frame is found at a smaller size: every stored image is looked at at several
    (:mod:`~semantic_matcher_core.matching.sizes`), and the one that served a frame is taken for the next as long as its
    matches agree, and the frame shows it about as large.

    Args:
        matcher, verify: as for :class:`TemporalStream`.
        rotation: how frames may be turned against the stored images: ``"upright"``, ``"quarter"`` or ``"any"``; see
            :meth:`SemanticMatcher.extract_turned
            <semantic_matcher_core.pipeline.SemanticMatcher.extract_turned>`.
    """

    def __init__(self, matcher: FeatureMatcher, verify: Verifier | None = None, *, rotation: str = "upright") -> None:
        turns_of(rotation)
        self.matcher = matcher
        self.verify = verify
        self.rotation = rotation
        self.references: tuple[Frame, ...] = ()
        """The stored images, with features at all sizes."""
        self.side = _USUAL_SIDE
        """Long side of the frames, in pixels."""
        self._sizes: list[list[Seen]] = []
        self._served: dict[str, list[int | None]] = {}

    def fit(self, side: int) -> bool:
        """Take the features of stored images for frames of this long side; return whether any had to be taken anew."""
        before, self.side = self.side, side
        anew = [
            side_beside(reference.image, side) != side_beside(reference.image, before) for reference in self.references
        ]
        if any(anew):
            self._keep(
                replace(reference, features=self._extract(reference.image)[0]) if new else reference
                for reference, new in zip(self.references, anew, strict=True)
            )
        return any(anew)

    def set_references(self, images: Iterable[tuple[Any, Any]]) -> None:
        """Replace the stored images, given as (image, tag); on an error the old ones stay.

        Raises:
            ImageError: an image cannot be used.
        """
        self._keep(Frame(0, image, self._extract(image)[0], tag) for image, tag in images)

    @property
    def served(self) -> dict[str, list[int | None]]:
        """Which size of each stored image served last, for each camera; ``None`` where no size's matches agreed."""
        return {camera: list(sizes) for camera, sizes in self._served.items()}

    def resume(self, served: Mapping[str, list[int | None]]) -> None:
        """Go on where another stream of the same stored images was, see :attr:`served`."""
        self._served = {camera: list(sizes) for camera, sizes in served.items()}

    def _keep(self, references: Iterable[Frame]) -> None:
        self.references = tuple(references)
        self._sizes = [sizes_of(reference.features) for reference in self.references]
        self._served = {}

    def _extract(self, image: Any) -> Features:
        if not isinstance(image, np.ndarray):
            return self._whole(image)
        largest = side_beside(image, self.side) or max(image.shape[:2])
        return at_sizes(lambda side: features_at_size(self._whole(shrunk(image, side)[0]), image.shape[:2]), largest)

    def _whole(self, image: Any) -> Features:
        if self.rotation == "upright":
            return self.matcher.extract(image)
        if not isinstance(self.matcher, TurningFeatureMatcher):
            raise ConfigError(f"{type(self.matcher).__name__} sees images upright only; leave rotation at 'upright'")
        return self.matcher.extract_turned(image, rotation=self.rotation)

    def process(
        self, image: Any, stamp: int = 0, tag: Any = None, mask: Any = None, camera: str = ""
    ) -> tuple[Frame, list[MatchedPair]]:
        """Return the frame's features, and its matches with each stored image, in their order.

        Args:
            image, stamp, tag, mask: as for :meth:`TemporalStream.process`.
            camera: whose frame it is, where there are several: a stored image may look smaller to one than to another.

        Raises:
            ImageError: the image cannot be used.
        """
        served = self._served.setdefault(camera, [None] * len(self.references))
        known = [
            reference if size is None else replace(reference, features=sizes[size].features)
            for reference, sizes, size in zip(self.references, self._sizes, served, strict=True)
        ]
        features, found = extract_and_match(self.matcher, image, known, mask)
        frame = Frame(stamp, image, features, tag)
        pairs = []
        for i, (reference, matches) in enumerate(zip(self.references, found, strict=True)):
            pair, served[i] = self._settled(reference, frame, matches, self._sizes[i], served[i])
            pairs.append(pair)
        return frame, pairs

    def _settled(
        self, reference: Frame, frame: Frame, matches: Matches, sizes: list[Seen], served: int | None
    ) -> tuple[MatchedPair, int | None]:
        """Return a pair, matched at all sizes where the one that served does not do, and the size that serves now."""
        if served is not None:
            seen = matches.keypoints0
            matches = sizes[served].restored(matches, reference.features)
            if agree(matches) and suits(sizes, served, seen, matches.keypoints1):
                return matched_pair(reference, frame, matches, self.verify), served
            matches = self.matcher.match(reference.features, frame.features).to("cpu")
        serves = size_of(sizes, matches) if len(sizes) > 1 and agree(matches) else None
        return matched_pair(reference, frame, matches, self.verify), serves


def side_beside(image: Any, side: int) -> int | None:
    """Return the long side that a stored image is made smaller to for frames of this one; ``None`` to leave it."""
    return side if isinstance(image, np.ndarray) and max(image.shape[:2]) > _LARGER * side else None
