"""Points through homographies."""

from __future__ import annotations

import torch
from torch import Tensor


def warp_points(points: Tensor, motion: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return points through a homography, those that leave the image brought to its border.

    Args:
        points: ``B x N x 2`` (x, y) pixels.
        motion: ``3 x 3``.
        image_size: (height, width) of the image they come to.
    """
    motion = motion.to(points)
    moved = points @ motion[:, :2].t() + motion[:, 2]
    height, width = image_size
    limit = points.new_tensor((width - 1, height - 1))
    return torch.minimum((moved[..., :2] / moved[..., 2:]).nan_to_num().clamp(min=0), limit)
