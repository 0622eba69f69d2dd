"""Which pixels of the heat map are keypoints."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.selection import local_maxima


def peaks(heat_map: Tensor, threshold: float, margin: float | None) -> Tensor:
    """Return ``B x H x W`` bool: local maxima of 3 x 3 windows (clipped at the image border) above ``threshold``.

    Args:
        heat_map: ``B x H x W`` logits.
        threshold: in logits; a keypoint is strictly above it.
        margin: how far a keypoint must rise above its highest neighbour, in logits. ``None`` is the published rule,
            which keeps every pixel of a plateau: on flat padding that is two fifths of all keypoints, and which of them
            are found changes with the number of threads. A margin well above rounding noise (1e-3) makes the choice
            reproducible.
    """
    found = local_maxima(heat_map, 1) if margin is None else heat_map - _highest_neighbour(heat_map) > margin
    return found & (heat_map > threshold)


def _highest_neighbour(heat_map: Tensor) -> Tensor:
    """Maximum over the eight neighbours, those outside the image not counting."""
    padded = F.pad(heat_map, (1, 1, 1, 1), value=-torch.inf)
    across = torch.maximum(padded[..., :-2], padded[..., 2:])
    triple = torch.maximum(across, padded[..., 1:-1])
    return torch.maximum(torch.maximum(triple[..., :-2, :], triple[..., 2:, :]), across[..., 1:-1, :])
