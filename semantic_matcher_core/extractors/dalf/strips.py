"""Layers a strip of rows at a time: on the CPU a strip's maps stay in the cache, and none is ever whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Layers = Callable[[Tensor], Tensor]

# Even, so that strips may be pooled by two; 640 pixels and 32 channels of this many rows are 2.6 MB.
ROWS = 32
# Bicubic interpolation with Keys' kernel, as torch has it.
_KEYS = -0.75


def in_strips(x: Tensor, layers: Layers, halo: int) -> Tensor:
    """Return ``layers(x)`` for layers that keep the size and see ``halo`` rows up and down, max-pooled by two.

    Args:
        x: ``B x C x H x W``.

    Returns:
        ``B x C' x H/2 x W/2``, equal to ``F.max_pool2d(layers(x), 2)`` to the last bit.
    """
    height = x.shape[-2]
    pooled = []
    for top in range(0, height - height % 2, ROWS):
        first, last = max(0, top - halo), min(height, top + ROWS + halo)
        rows = layers(x[..., first:last, :])
        pooled.append(F.max_pool2d(rows[..., top - first : top - first + min(ROWS, height - top), :], 2))
    return torch.cat(pooled, dim=-2)


def upsampled_in_strips(x: Tensor, size: tuple[int, int], layers: Layers, halo: int) -> Tensor:
    """Return ``layers`` of ``x`` upsampled to ``size``, for layers that keep the size and see ``halo`` rows up and
    down.

    Interpolation is a product with one banded matrix for the columns and one for the rows.

    Args:
        x: ``B x C x h x w``.
        size: ``(height, width)``.

    Returns:
        ``B x C' x height x width``, up to rounding equal to ``layers(F.interpolate(x, size, mode="bicubic",
        align_corners=True))``.
    """
    height, width = size
    across = bicubic_matrix(x.shape[-1], width).to(x)
    inner = x.permute(0, 2, 3, 1)
    wide = torch.cat([across[a:b, c:d] @ inner[:, :, c:d] for a, b, c, d in _bands(across)], dim=2).flatten(2)
    down = bicubic_matrix(x.shape[-2], height).to(x)
    strips = []
    for top in range(0, height, ROWS):
        first, last = max(0, top - halo), min(height, top + ROWS + halo)
        (_, _, c, d), *_ = _bands(down[first:last], last - first)
        rows = (down[first:last, c:d] @ wide[:, c:d]).view(x.shape[0], last - first, width, x.shape[1])
        strips.append(layers(rows.permute(0, 3, 1, 2))[..., top - first : top - first + min(ROWS, height - top), :])
    return torch.cat(strips, dim=-2)


def bicubic_matrix(size: int, wanted: int) -> Tensor:
    """Return ``wanted x size`` float32: bicubic interpolation along one axis, the first and last positions kept.

    Positions outside count as the nearest inside. Coordinates are float32, as torch's are.
    """
    scale = torch.tensor((size - 1) / (wanted - 1) if wanted > 1 else 0.0, dtype=torch.float32, device="cpu")
    at = torch.arange(wanted, device="cpu") * scale
    base = at.floor()
    matrix = at.new_zeros(wanted, size)
    for tap in (-1, 0, 1, 2):
        distance = (at - base - tap).abs()
        near = ((_KEYS + 2) * distance - (_KEYS + 3)) * distance * distance + 1
        far = ((_KEYS * distance - 5 * _KEYS) * distance + 8 * _KEYS) * distance - 4 * _KEYS
        index = (base.long() + tap).clamp(0, size - 1)
        matrix.scatter_add_(1, index[:, None], torch.where(distance <= 1, near, far)[:, None])
    return matrix


def _bands(matrix: Tensor, rows: int = ROWS) -> list[tuple[int, int, int, int]]:
    """Return row ranges and the column ranges outside which they are zero: ``(row0, row1, column0, column1)``."""
    found = []
    for start in range(0, matrix.shape[0], rows):
        columns = (matrix[start : start + rows] != 0).any(dim=0).nonzero()[:, 0]
        found.append((start, min(start + rows, matrix.shape[0]), int(columns[0]), int(columns[-1]) + 1))
    return found
