"""The size at which a semantic encoder sees an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from semantic_matcher_core.errors import ConfigError, ShapeError, check_choice
from semantic_matcher_core.settings import REGISTRATIONS


def long_side_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Return ``(height, width)`` with the long side at ``long_side`` px and the short one rounded down, at least 1
    px.
    """
    if height > width:
        return long_side, max(1, int(width * long_side / height))
    return max(1, int(height * long_side / width)), long_side


def patch_multiple_size(height: int, width: int, long_side: int, patch: int) -> tuple[int, int]:
    """Return ``(height, width)`` in whole patches that keeps the aspect ratio best within ``long_side`` px."""
    longest = max(height, width)
    limit = long_side // patch

    def patches(side: int) -> int:
        return min(limit, max(1, round(side * long_side / longest / patch)))

    return patches(height) * patch, patches(width) * patch


def resize_for_encoder(images: Tensor, long_side: int, patch: int, *, registration: str) -> tuple[Tensor, float]:
    """Resize images to what a semantic encoder takes.

    ``"published"`` repeats the steps the published checkpoints were trained with (``resize_long_edge`` and
    ``DinoV2.forward`` of verlab/DescriptorReasoning_ACCV_2024): bilinear, so that the long side is ``long_side``, then
    *nearest* to the next lower multiples of ``patch``. ``"exact"`` is one bilinear resize to the multiples of
    ``patch`` that keep the aspect ratio best; nothing is dropped or repeated, and each axis has its own scale, which
    ``sample_at_keypoints`` accounts for. Neither filters before shrinking.

    Args:
        images: ``B x 3 x H x W``, any size from 1 x 1.
        long_side: of the resized image, in pixels; at least ``patch``. Where it is no multiple of ``patch``, the
            result is smaller by the remainder.
        patch: side of the encoder's patch in pixels.
        registration: ``"exact"`` or ``"published"``.

    Returns:
        ``B x 3 x h x w`` with h and w positive multiples of ``patch``, and the scale by which published sampling
        multiplies keypoints: the height after the bilinear step over H, for both axes.

    Raises:
        ConfigError: ``registration`` is unknown or ``long_side`` is below one patch.
        ShapeError: ``images`` has no pixels or not four dimensions.
    """
    check_choice("registration", registration, REGISTRATIONS)
    if long_side < patch:
        raise ConfigError(f"the long side must be at least one patch of {patch} px, got {long_side}")
    if images.ndim != 4 or 0 in images.shape[-2:]:
        raise ShapeError(f"images must be B x 3 x H x W with at least one pixel, got {tuple(images.shape)}")
    height, width = images.shape[-2:]
    if registration == "exact":
        size = patch_multiple_size(height, width, long_side, patch)
        return _bilinear(images, size), size[0] / height
    size = long_side_size(height, width, long_side)
    resized = _bilinear(images, size)
    lower = (max(1, size[0] // patch) * patch, max(1, size[1] // patch) * patch)
    if lower != size:
        resized = F.interpolate(resized, lower, mode="nearest")
    return resized, size[0] / height


def _bilinear(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)
