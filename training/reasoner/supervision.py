"""Which keypoint of one view matches which of the other, from where they truly are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CORRECT_PX = 3.0


class Positives(NamedTuple):
    """The true matches of a batch, one row each.

    Attributes:
        pair, index0, index1: ``P`` int64: pair of the batch, keypoint of view 0, keypoint of view 1.
    """

    pair: Tensor
    index0: Tensor
    index1: Tensor


def true_matches(
    warped0: Tensor,
    valid0: Tensor,
    keypoints1: Tensor,
    valid1: Tensor | None = None,
    *,
    correct_px: float = CORRECT_PX,
) -> Positives:
    """Each keypoint of view 0 with its nearest keypoint of view 1, where that is close enough.

    The published code also takes keypoints *without* a valid warp, which it places at (-1, -1), as matches of whatever
    keypoint lies within 3 px of that corner; here they match nothing.

    Args:
        warped0: ``B x N x 2`` keypoints of view 0 in pixels of view 1.
        valid0: ``B x N`` bool, whether that is known.
        keypoints1: ``B x M x 2``.
        valid1: ``B x M`` bool, false for padding, or ``None``.
        correct_px: largest distance.
    """
    if keypoints1.shape[1] == 0 or warped0.shape[1] == 0:
        nothing = torch.empty(0, dtype=torch.long, device=warped0.device)
        return Positives(nothing, nothing, nothing)
    distance = torch.cdist(keypoints1, torch.nan_to_num(warped0), compute_mode="donot_use_mm_for_euclid_dist")
    if valid1 is not None:
        distance = distance.masked_fill(~valid1[..., None], torch.inf)
    nearest, index1 = distance.min(dim=1)
    pair, index0 = ((nearest <= correct_px) & valid0).nonzero(as_tuple=True)
    return Positives(pair, index0, index1[pair, index0])
