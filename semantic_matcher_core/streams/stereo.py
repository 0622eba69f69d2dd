"""Left images matched with right ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from semantic_matcher_core.streams.frames import FeatureMatcher, Frame, MatchedPair, Verifier, match_frames


class StereoStream:
    """Matches left with right images; arguments as for :class:`TemporalStream`."""

    def __init__(self, matcher: FeatureMatcher, verify: Verifier | None = None) -> None:
        self.matcher = matcher
        self.verify = verify

    def process(
        self, left: Any, right: Any, stamps: tuple[int, int] = (0, 0), tags: tuple[Any, Any] = (None, None)
    ) -> MatchedPair:
        """Features of both images and the matches between them; left is the reference.

        Two uint8 arrays of one shape go through the networks as one batch.

        Raises:
            ImageError: an image cannot be used.
        """
        arrays = all(isinstance(image, np.ndarray) and image.ndim == 3 for image in (left, right))
        if arrays and (left.shape, left.dtype) == (right.shape, right.dtype):
            features = list(self.matcher.extract(np.stack((left, right))))
        else:
            features = [self.matcher.extract(image)[0] for image in (left, right)]
        frames = [
            Frame(stamp, image, found, tag)
            for image, found, stamp, tag in zip((left, right), features, stamps, tags, strict=True)
        ]
        return match_frames(self.matcher, frames[0], frames[1], self.verify)
