"""What a semantic encoder gives for a batch of images, with what is needed to sample it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class SemanticMap:
    """Semantic features of a batch of images.

    Attributes:
        features: ``B x C x h x w`` float32, one vector per patch.
        image_size: (height, width) in pixels of the images as given.
        scale: second result of :func:`~semantic_matcher_core.semantics.resize_for_encoder`.
    """

    features: Tensor
    image_size: tuple[int, int]
    scale: float
