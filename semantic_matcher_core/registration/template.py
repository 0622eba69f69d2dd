"""What other images are registered onto: an image with its features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

from semantic_matcher_core.errors import ImageError, RegistrationError
from semantic_matcher_core.extractors.resizing import features_at_size, fit_long_side
from semantic_matcher_core.inputs import as_image_batch, as_mask_batch
from semantic_matcher_core.matching.sizes import Seen, at_sizes, sizes_of
from semantic_matcher_core.registration.config import RegistrationConfig
from semantic_matcher_core.streams.reference import side_beside
from semantic_matcher_core.types import Features, Matches


class ImageMatcher(Protocol):
    """What a registration needs of :class:`~semantic_matcher_core.pipeline.SemanticMatcher`."""

    @property
    def device(self) -> torch.device:
        """Where images go."""

    def extract(self, image: Any, mask: Any = None, /) -> Features: ...

    def match(self, features0: Features, features1: Features, /) -> Matches: ...


@dataclass(frozen=True, eq=False)
class Template:
    """The image that others are registered onto.

    Attributes:
        image: ``H x W x 3`` uint8 RGB.
        features: of it, a batch of one, keypoints in its pixels, where it is large enough at several sizes
            (:mod:`~semantic_matcher_core.matching.sizes`), so that it is found in an image that shows it small.
        mask: ``H x W``, non-zero on the object, or ``None``.
        side: largest long side in pixels that the features were taken at; 0 where others took them.
    """

    image: np.ndarray
    features: Features
    mask: np.ndarray | None = None
    side: int = 0

    @classmethod
    def from_image(
        cls,
        matcher: ImageMatcher,
        image: np.ndarray,
        *,
        mask: np.ndarray | None = None,
        config: RegistrationConfig | None = None,
    ) -> Template:
        """Return a template with its features.

        Args:
            matcher: extracts the features; DALF's are made for this (``plain:dalf``).
            image: ``H x W x 3`` uint8 RGB, or ``H x W`` grey.
            mask: ``H x W``, non-zero on the object where the image shows more than that.

        Raises:
            ImageError: image or mask cannot be used.
            RegistrationError: it has too little texture for a registration.
        """
        config = config or RegistrationConfig()
        image = as_rgb(image)
        side = _side(image, config)
        template = cls(image, _extract_at_sizes(matcher, image, side, mask), mask, side)
        found = template.sizes[0].features.keypoints.shape[1]
        if found < config.min_inliers:
            where = "in the template" if mask is None else "in the template's mask"
            raise RegistrationError(
                f"only {found} keypoints {where}, at least {config.min_inliers} are needed; use a sharp picture of a "
                "surface with texture, or another extractor"
            )
        return template

    @cached_property
    def sizes(self) -> list[Seen]:
        """The features at each size, the largest first."""
        return sizes_of(self.features)

    def beside(self, matcher: ImageMatcher, image: np.ndarray, config: RegistrationConfig) -> Template:
        """Return the template as it is matched with an image: a far larger one shows the same at another scale, so its
        features are taken as large as the image is.
        """
        side = _side(self.image, config, max(image.shape[:2]))
        if side == self.side or not self.side:
            return self
        beside = replace(self, features=_extract_at_sizes(matcher, self.image, side, self.mask), side=side)
        enough = beside.sizes[0].features.keypoints.shape[1] >= config.min_inliers
        return beside if enough else replace(self, side=side)


def _side(template: np.ndarray, config: RegistrationConfig, side: int | None = None) -> int:
    """Return the long side that features of a template are taken at, beside images of this one."""
    bounds = max(template.shape[:2]), config.max_side, side and side_beside(template, side)
    return min(bound for bound in bounds if bound)


def _extract_at_sizes(matcher: ImageMatcher, image: np.ndarray, side: int, mask: Any) -> Features:
    return at_sizes(lambda seen: extract_features(matcher, image, seen, mask), side)


def extract_features(matcher: ImageMatcher, image: np.ndarray, max_side: int | None, mask: Any = None) -> Features:
    """Return features of one image, seen no larger than ``max_side``; keypoints in pixels of the image as given."""
    images = as_image_batch(image, matcher.device)
    masks = None if mask is None else as_mask_batch(mask, images)
    with torch.no_grad():
        smaller, smaller_masks = fit_long_side(images, masks, max_side)
    features = matcher.extract(smaller.clamp(0, 1), smaller_masks)
    return features_at_size(features, (image.shape[0], image.shape[1]))


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Return ``H x W x 3`` uint8 of a grey or RGB array.

    Raises:
        ImageError: it is neither.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or 0 in image.shape:
        what = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"expected an H x W x 3 or H x W uint8 array that is not empty, got {what}")
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"expected an H x W x 3 or H x W uint8 array, got {image.shape}")
    return image
