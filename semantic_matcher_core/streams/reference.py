"""Frames matched with stored images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from semantic_matcher_core.errors import ConfigError
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


class ReferenceStream:
    """Matches frames with one or several stored images.

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

    def set_references(self, images: Iterable[tuple[Any, Any]]) -> None:
        """Replace the stored images, given as (image, tag); on an error the old ones stay.

        Raises:
            ImageError: an image cannot be used.
        """
        self.references = tuple(Frame(0, image, self._extract(image)[0], tag) for image, tag in images)

    def _extract(self, image: Any) -> Features:
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
