"""Feature maps that exist only as the sum of their levels.

ALIKE and ALIKED bring four levels (strides 1, 2, 8, 32) to full resolution, bilinearly from corner to corner, and
concatenate them. Nothing here builds that map: a 1 x 1 convolution commutes with upsampling, so scores are projected
level by level, and descriptors need the map at a few thousand pixels only. Same numbers, a fraction of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_SMALLEST_NORM = 1e-12  # as in torch's normalize


def project(levels: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Return a bias-free 1 x 1 convolution of the concatenated, upsampled levels.

    Args:
        levels: ``B x C_i x H_i x W_i``, the first at full resolution.
        weight: ``O x ΣC_i (x 1 x 1)``.

    Returns:
        ``B x O x H x W``, the size of the first level.
    """
    parts = weight.flatten(1)[:, :, None, None].split([level.shape[1] for level in levels], dim=1)
    total = F.conv2d(levels[0], parts[0])
    for level, part in zip(levels[1:], parts[1:], strict=True):
        total += F.interpolate(F.conv2d(level, part), total.shape[-2:], mode="bilinear", align_corners=True)
    return total


def at_pixels(levels: Sequence[Tensor], pixels: Tensor) -> Tensor:
    """Return the concatenated, upsampled levels at whole pixels.

    Args:
        levels: as in :func:`project`.
        pixels: ``B x N x 2`` int64 (x, y) of the first level, all inside it.

    Returns:
        ``B x ΣC_i x N``.
    """
    height, width = levels[0].shape[-2:]
    index = pixels[..., 1] * width + pixels[..., 0]
    parts = [levels[0].flatten(2).gather(2, index[:, None].expand(-1, levels[0].shape[1], -1))]
    grid = corner_grid(pixels.float(), height, width)[:, :, None]
    parts += [F.grid_sample(level, grid, mode="bilinear", align_corners=True)[..., 0] for level in levels[1:]]
    return torch.cat(parts, dim=1)


def corner_grid(positions: Tensor, height: int, width: int) -> Tensor:
    """Return pixels as ``grid_sample(align_corners=True)`` wants them: the centres of the corner pixels are at -1 and
    1.

    Sides are Python's numbers, here and wherever positions are computed: a tensor made of them would be a copy to the
    GPU, for which it waits and which a CUDA graph cannot record.

    Args:
        positions: ``B x N x 2`` (x, y).
        height, width: of the map.
    """
    x, y = positions.unbind(-1)
    return torch.stack((2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1), dim=-1)


def interpolate_normalized(
    pixel_values: Callable[[Tensor], Tensor], positions: Tensor, height: int, width: int
) -> Tensor:
    """Interpolate an L2-normalised map, given as a function of whole pixels, bilinearly; it is zero outside.

    Args:
        pixel_values: ``B x N x 2`` int64 (x, y), inside the map, to ``B x C x N``, before normalisation; called once.
        positions: ``B x N x 2`` float (x, y) pixels.
        height, width: size of the map.

    Returns:
        ``B x C x N``.
    """
    corner = positions.floor()
    fraction = positions - corner
    step = torch.arange(2, device=positions.device)
    steps = torch.cartesian_prod(step, step).flip(-1)  # (0, 0), (1, 0), (0, 1), (1, 1)
    # B x 4 x N x 2: the four pixels round each position, and their weights.
    pixels = corner.long()[:, None] + steps[:, None]
    weights = torch.where(steps[:, None] == 1, fraction[:, None], 1 - fraction[:, None]).prod(dim=-1)
    x, y = pixels.unbind(-1)
    weights = weights * ((x >= 0) & (x < width) & (y >= 0) & (y < height))
    values = pixel_values(torch.stack((x.clamp(0, width - 1), y.clamp(0, height - 1)), dim=-1).flatten(1, 2))
    norms = values.norm(dim=1).clamp(min=_SMALLEST_NORM).unflatten(1, (4, -1))
    weights = (weights / norms)[:, None]
    values = values.unflatten(2, (4, -1))
    result = values[:, :, 0] * weights[:, :, 0]
    for i in (1, 2, 3):
        result = result.addcmul_(values[:, :, i], weights[:, :, i])
    return result
