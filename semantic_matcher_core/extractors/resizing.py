"""Bounding the size a network sees, without moving a keypoint by half a pixel."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.selection import mask_at_size
from semantic_matcher_core.types import Features


def fit_long_side(images: Tensor, masks: Tensor | None, max_side: int | None) -> tuple[Tensor, Tensor | None]:
    """Return images (and masks) made smaller where their long side is above ``max_side``; untouched otherwise.

    Args:
        images: ``B x C x H x W``.
        masks: ``B x H x W`` bool, or ``None``.
        max_side: pixels, or ``None`` for no bound.
    """
    height, width = images.shape[-2:]
    if max_side is None or max(height, width) <= max_side:
        return images, masks
    scale = max_side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    smaller = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
    return smaller, None if masks is None else mask_at_size(masks, *size)


def keypoints_at_size(keypoints: Tensor, seen: tuple[int, int], given: tuple[int, int]) -> Tensor:
    """Return keypoints of an image at the size a network saw it, as float32 pixels of the image as given.

    Pixel centres are kept: ``(k + 0.5) * given / seen - 0.5``.

    Args:
        keypoints: ``B x N x 2`` (x, y).
        seen, given: (height, width) of the image the network saw, and of the image as given.
    """
    keypoints = keypoints.float()
    if seen == given:
        return keypoints
    # Python's numbers: a tensor made here would be copied to a GPU, which a CUDA graph cannot record.
    x, y = keypoints.unbind(-1)
    x, y = (x + 0.5) * (given[1] / seen[1]) - 0.5, (y + 0.5) * (given[0] / seen[0]) - 0.5
    return torch.stack((x, y), dim=-1)


def features_at_size(features: Features, given: tuple[int, int]) -> Features:
    """Return features of an image that was made smaller for them, as those of the ``(height, width)`` image given."""
    seen = features.image_size
    if seen == given:
        return features
    scales = None if features.scales is None else features.scales * (max(given) / max(seen))
    return replace(
        features, keypoints=keypoints_at_size(features.keypoints, seen, given), scales=scales, image_size=given
    )
