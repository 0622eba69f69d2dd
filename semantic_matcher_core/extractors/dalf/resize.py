"""Shrinking by area averaging, as OpenCV's INTER_AREA does it."""

from __future__ import annotations

import torch
from torch import Tensor


def shrink_area(images: Tensor, scale: float) -> Tensor:
    """Return ``B x C x H x W`` in [0, 1] to ``B x C x round(H·scale) x round(W·scale)``, each pixel the mean of its
    area.

    Equals ``cv2.resize(..., fx=scale, fy=scale, interpolation=cv2.INTER_AREA)`` of the 8-bit image, rounding included,
    on whatever device the images are.
    """
    height, width = images.shape[-2:]
    rows, columns = _overlaps(height, scale, images), _overlaps(width, scale, images)
    # 8-bit values and whole-pixel overlaps make the sums exact, so that ties round as OpenCV rounds them:
    # to even, but upwards in its integer code for a factor of two.
    totals = rows @ (images * 255.0).round() @ columns.T
    means = totals / (rows.sum(dim=1)[:, None] * columns.sum(dim=1))
    return ((means + 0.5).floor() if scale == 0.5 else means.round()) / 255.0


def _overlaps(size: int, scale: float, like: Tensor) -> Tensor:
    """Return ``out x size``: how much of source pixel j lies in output pixel i's interval [i, i + 1) / scale."""
    out = max(1, round(size * scale))
    edges = (torch.arange(out + 1, dtype=torch.float64, device=like.device) / scale).clamp_(max=size)
    pixels = torch.arange(size, dtype=torch.float64, device=like.device)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return overlap.clamp_(min=0).to(like)
