"""Left images matched with right ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from semantic_matcher_core.motion.view import View, stereo_view
from semantic_matcher_core.streams.frames import FeatureMatcher, Frame, MatchedPair, Verifier, features_of, matched_pair


class StereoStream:
    """Matches left with right images; arguments as for :class:`TemporalStream`."""

    def __init__(self, matcher: FeatureMatcher, verify: Verifier | None = None) -> None:
        self.matcher = matcher
        self.verify = verify

    def process(
        self,
        left: Any,
        right: Any,
        stamps: tuple[int, int] = (0, 0),
        tags: tuple[Any, Any] = (None, None),
        masks: tuple[Any, Any] = (None, None),
    ) -> MatchedPair:
        """Return features of both images and the matches between them; left is the reference.

        Two uint8 arrays of one shape go through the networks as one batch.

        Args:
            left, right, stamps, tags: of the two images.
            masks: ``H x W`` each, zero where keypoints are not wanted; ``None`` for everywhere.

        Raises:
            ImageError: an image cannot be used.
        """
        arrays = all(isinstance(image, np.ndarray) and image.ndim == 3 for image in (left, right))
        if arrays and (left.shape, left.dtype) == (right.shape, right.dtype):
            features = list(features_of(self.matcher, np.stack((left, right)), _both(masks, left.shape[:2])))
        else:
            sides = zip((left, right), masks, strict=True)
            features = [features_of(self.matcher, image, mask)[0] for image, mask in sides]
        frames = [
            Frame(stamp, image, found, tag)
            for image, found, stamp, tag in zip((left, right), features, stamps, tags, strict=True)
        ]
        return matched_pair(frames[0], frames[1], self.matcher.match(features[0], features[1]), self.verify)


def view_of_pair(pair: MatchedPair, left: np.ndarray, right: np.ndarray, max_row_difference: float) -> View:
    """Return a view of the left camera of a rectified pair, with depth where disparity can be measured.

    Args:
        pair: left is the reference.
        left, right: their projections, ``3 x 4``.
        max_row_difference: as for :func:`~semantic_matcher_core.motion.view.stereo_view`.

    Raises:
        ConfigError: projections that are not those of a rectified pair.
    """
    return stereo_view(
        pair.matches,
        pair.reference.features,
        pair.reference.image,
        pair.current.image,
        left,
        right,
        max_row_difference=max_row_difference,
        stamp=pair.reference.stamp,
    )


def _both(masks: tuple[Any, Any], size: tuple[int, int]) -> np.ndarray | None:
    """Return the masks of a batch of two; ``None`` where neither side has one."""
    if masks[0] is masks[1] is None:
        return None
    return np.stack([np.ones(size, bool) if mask is None else np.asarray(mask) != 0 for mask in masks])
