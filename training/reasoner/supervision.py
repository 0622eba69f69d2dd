"""Which keypoint of one view matches which of the other, from where they truly are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.reasoner.blocks import block_shape

CORRECT_PX = 3.0


class Positives(NamedTuple):
    """The true matches of a batch, one row each.

    Attributes:
        pair, index0, index1: ``P`` int64: pair of the batch, keypoint of view 0, keypoint of view 1.
    """

    pair: Tensor
    index0: Tensor
    index1: Tensor


def true_matches(warped0: Tensor, valid0: Tensor, keypoints1: Tensor, valid1: Tensor | None = None) -> Positives:
    """Return each keypoint of view 0 with its nearest keypoint of view 1, where that is within 3 px.

    The published code also takes keypoints *without* a valid warp, which it places at (-1, -1), as matches of whatever
    keypoint lies within 3 px of that corner; here they match nothing.

    Args:
        warped0: ``B x N x 2`` keypoints of view 0 in pixels of view 1.
        valid0: ``B x N`` bool, whether that is known.
        keypoints1: ``B x M x 2``.
        valid1: ``B x M`` bool, false for padding, or ``None``.
    """
    if keypoints1.shape[1] == 0 or warped0.shape[1] == 0:
        nothing = torch.empty(0, dtype=torch.long, device=warped0.device)
        return Positives(nothing, nothing, nothing)
    # Padding is infinitely far from everything.
    others = keypoints1 if valid1 is None else keypoints1.masked_fill(~valid1[..., None], torch.inf)
    chunks = torch.nan_to_num(warped0).split(_rows_at_once(warped0, keypoints1), 1)
    parts = [_nearest(chunk, others) for chunk in chunks]
    distance, index1 = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    pair, index0 = ((distance <= CORRECT_PX) & valid0).nonzero(as_tuple=True)
    return Positives(pair, index0, index1[pair, index0])


def _nearest(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``B x N`` distances to the nearest of ``B x M x 2`` others, and which."""
    # By coordinates: for two of them faster than torch.cdist, and as exact as its exact mode.
    x, y = (points[..., i, None] - others[:, None, :, i] for i in (0, 1))
    squared, index = x.mul_(x).addcmul_(y, y).min(dim=-1)
    return squared.sqrt(), index


def _rows_at_once(points: Tensor, others: Tensor) -> int:
    batch, count = points.shape[:2]
    # All pairs of the batch go together, as more columns.
    return block_shape(points.device, 1, count, batch * others.shape[1])[1]
