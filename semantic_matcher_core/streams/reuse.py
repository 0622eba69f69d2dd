"""A semantic map that serves for several frames of a stream.

What a thing is changes more slowly than where it is in the image. Between two runs of the semantic encoder, keypoints
of a new frame look up the last map where they would have been in its image: by the homography that the matches between
the frames since then tell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.inputs import as_image_batch
from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.semantics.semantic_map import SemanticMap
from semantic_matcher_core.streams.frames import SemanticFeatureMatcher
from semantic_matcher_core.types import Features, Matches

_THRESHOLD_PX = 4.0
_FEWEST_INLIERS = 20
# Beyond this share of the image's diagonal a corner has moved too far: much of the frame is not in the map.
_LARGEST_MOTION = 0.2


class SemanticReuse:
    """Features of the frames of one stream, the semantic encoder run for every n-th alone.

    It runs earlier where the motion since the last map is not known (too few matches fit a homography) or is large,
    and where the image size changes.

    Args:
        every: frames that a map serves for, from 1 (each has its own) up.

    Raises:
        ConfigError: ``every`` is no whole number from 1 up.
    """

    def __init__(self, every: int) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ConfigError(f"semantic_every must be a whole number from 1 up, got {every!r}")
        self.every = every
        self.reset()

    def reset(self) -> None:
        """Forget the map."""
        self._map: SemanticMap | None = None
        self._age = 0
        # Homographies: from the frame of the map to the last one, and from the reference to the frame of the map.
        self._motion: np.ndarray | None = None
        self._reference_to_map: np.ndarray | None = None

    def extract(self, matcher: SemanticFeatureMatcher, image: Any, mask: Any = None) -> Features:
        """Extract features of the next frame, a batch of one.

        Args:
            matcher: with a semantic encoder.
            image, mask: whatever it takes as such.

        Raises:
            ImageError: the image cannot be used; nothing is forgotten.
        """
        # Once: of a path nothing is known before it is read.
        images = as_image_batch(image, matcher.device)
        motion = self._usable_motion(images)
        if motion is None:
            features, self._map = matcher.extract_with_map(images, mask)
            self._age, self._motion = 1, np.eye(3)
            self._reference_to_map = None
        else:
            back = torch.from_numpy(np.linalg.inv(motion)).float()
            features, _ = matcher.extract_with_map(images, mask, semantic_map=self._map, motion=back)
            self._age += 1
        return features

    def matched(self, matches: Matches) -> None:
        """Take in the matches of the last frame (second side) with the reference (first side)."""
        homography = _homography(matches)
        if self._age == 1:
            self._reference_to_map = homography
        elif homography is None or self._reference_to_map is None:
            self._motion = None
        else:
            self._motion = homography @ np.linalg.inv(self._reference_to_map)

    def became_reference(self) -> None:
        """Note that the last frame is what the next ones are matched with."""
        self._reference_to_map = None if self._motion is None else np.linalg.inv(self._motion)

    def _usable_motion(self, images: Tensor) -> np.ndarray | None:
        if self._map is None or self._motion is None or self._reference_to_map is None or self._age >= self.every:
            return None
        height, width = self._map.image_size
        if tuple(images.shape[-2:]) != (height, width):
            return None
        corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]], float).T
        moved = self._motion @ corners
        if (moved[2] <= 1e-6).any():
            return None
        distance = np.hypot(*(moved[:2] / moved[2] - corners[:2])).max()
        return self._motion if distance <= _LARGEST_MOTION * np.hypot(height, width) else None


def _homography(matches: Matches) -> np.ndarray | None:
    """Fit a homography from the first to the second side; ``None`` where too few matches agree on one."""
    if matches.model_type != "homography":
        if len(matches) < _FEWEST_INLIERS:
            return None
        matches = verify(matches.to("cpu"), "homography", threshold_px=_THRESHOLD_PX)
    if matches.model is None or matches.inlier is None or int(matches.inlier.sum()) < _FEWEST_INLIERS:
        return None
    model = matches.model.cpu().double().numpy()
    return model if np.isfinite(model).all() and abs(np.linalg.det(model)) > 1e-9 else None
