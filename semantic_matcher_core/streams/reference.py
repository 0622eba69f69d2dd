"""Frames matched with stored images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from semantic_matcher_core.streams.frames import FeatureMatcher, Frame, MatchedPair, Verifier, match_frames


class ReferenceStream:
    """Matches frames with one or several stored images; arguments as for :class:`TemporalStream`."""

    def __init__(self, matcher: FeatureMatcher, verify: Verifier | None = None) -> None:
        self.matcher = matcher
        self.verify = verify
        self.references: tuple[Frame, ...] = ()

    def set_references(self, images: Iterable[tuple[Any, Any]]) -> None:
        """Replace the stored images, given as (image, tag); on an error the old ones stay.

        Raises:
            ImageError: an image cannot be used.
        """
        self.references = tuple(Frame(0, image, self.matcher.extract(image)[0], tag) for image, tag in images)

    def process(self, image: Any, stamp: int = 0, tag: Any = None) -> tuple[Frame, list[MatchedPair]]:
        """The frame's features, and its matches with each stored image, in their order.

        Raises:
            ImageError: the image cannot be used.
        """
        frame = Frame(stamp, image, self.matcher.extract(image)[0], tag)
        return frame, [match_frames(self.matcher, reference, frame, self.verify) for reference in self.references]
