"""Frames matched with stored images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.resizing import features_at_size
from semantic_matcher_core.io.images import shrunk
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
from semantic_matcher_core.types import Features

# Long side, in pixels, of the images that stored ones are taken to be matched with until one has come.
_USUAL_SIDE = 1600
# Learned features are found again in an image twice as large or as small, hardly beyond; what a camera sees of a stored
# image seldom fills its own.
_LARGER = 1.5


class ReferenceStream:
    """Matches frames with one or several stored images.

    A stored image that is far larger than the frames, such as a telephone's photograph, shows the same things at
    another scale than they do. Its features are taken as large as the frames are; keypoints stay in its own pixels.

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
        self.side = _USUAL_SIDE
        """Long side of the frames, in pixels."""

    def fit(self, side: int) -> bool:
        """Take the features of stored images for frames of this long side; return whether any had to be taken anew."""
        before, self.side = self.side, side
        anew = [
            side_beside(reference.image, side) != side_beside(reference.image, before) for reference in self.references
        ]
        self.references = tuple(
            replace(reference, features=self._extract(reference.image)[0]) if new else reference
            for reference, new in zip(self.references, anew, strict=True)
        )
        return any(anew)

    def set_references(self, images: Iterable[tuple[Any, Any]]) -> None:
        """Replace the stored images, given as (image, tag); on an error the old ones stay.

        Raises:
            ImageError: an image cannot be used.
        """
        self.references = tuple(Frame(0, image, self._extract(image)[0], tag) for image, tag in images)

    def _extract(self, image: Any) -> Features:
        side = side_beside(image, self.side)
        return (
            self._whole(image)
            if side is None
            else features_at_size(self._whole(shrunk(image, side)[0]), image.shape[:2])
        )

    def _whole(self, image: Any) -> Features:
        if self.rotation == "upright":
            return self.matcher.extract(image)
        if not isinstance(self.matcher, TurningFeatureMatcher):
            raise ConfigError(f"{type(self.matcher).__name__} sees images upright only; leave rotation at 'upright'")
        return self.matcher.extract_turned(image, rotation=self.rotation)

    def process(self, image: Any, stamp: int = 0, tag: Any = None, mask: Any = None) -> tuple[Frame, list[MatchedPair]]:
        """Return the frame's features, and its matches with each stored image, in their order.

        Args:
            image, stamp, tag, mask: as for :meth:`TemporalStream.process`.

        Raises:
            ImageError: the image cannot be used.
        """
        references = self.references
        features, matches = extract_and_match(self.matcher, image, references, mask)
        frame = Frame(stamp, image, features, tag)
        return frame, [matched_pair(r, frame, m, self.verify) for r, m in zip(references, matches, strict=True)]


def side_beside(image: Any, side: int) -> int | None:
    """Return the long side that a stored image is made smaller to for frames of this one; ``None`` to leave it."""
    return side if isinstance(image, np.ndarray) and max(image.shape[:2]) > _LARGER * side else None
