"""Distances between pixels, and which are nearest; on a CPU by numpy where torch looks at one number at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.constants import constant

# A place among this many fits in the last bits of a float32, of which it takes a relative 1e-4.
_PLACES = 1 << 10


def distances(points0: Tensor, points1: Tensor) -> Tensor:
    """Return ``B x N x M`` distances of ``B x N x 2`` to ``B x M x 2`` points."""
    # By products of coordinates on a CPU, six times as fast; a GPU might multiply them in fewer digits (TF32).
    how = "use_mm_for_euclid_dist" if points0.device.type == "cpu" else "donot_use_mm_for_euclid_dist"
    return torch.cdist(points0, points1, compute_mode=how)


def nearest_of(points0: Tensor, points1: Tensor, among: Tensor) -> Tensor:
    """Return ``B x N``, the row of ``2 x B x M`` points that is nearest to each of ``2 x B x N``.

    Args:
        points0, points1: as above.
        among: ``B x M`` bool, which are looked at; of a pair without any the row says nothing.
    """
    if points0.device.type != "cpu":
        return distances(points0.movedim(0, 2), far_unless(among, points1).movedim(0, 2)).argmin(dim=2)
    return torch.stack([_nearest(points0[:, i], points1[:, i], among[i]) for i in range(len(among))])


def _nearest(points0: Tensor, points1: Tensor, among: Tensor) -> Tensor:
    rows = among.nonzero()[:, 0]
    if not len(rows):
        return rows.new_zeros(points0.shape[1])
    # Squared distances but for what is the same of all in a row; from the middle, where numbers are smallest.
    middle = points0.mean(dim=1, keepdim=True)
    others = points1.index_select(1, rows) - middle
    apart = torch.addmm(_squared_length(others), (points0 - middle).T, others, alpha=-2)
    return rows.index_select(0, torch.from_numpy(apart.numpy().argmin(axis=1)))


def neighbours_of(points0: Tensor, points1: Tensor, count: int) -> Tensor:
    """Return ``B x K x count``, the rows of ``2 x B x K`` points nearest to each of ``2 x B x K``, nearest first.

    The nearest of all, most often the point itself, is left out.

    Args:
        points0, points1: fewer than 1024 points each. On a CPU two that are as near but for a ten-thousandth of the
            distance come in the order of their rows.
        count: how many.
    """
    count = min(count + 1, points1.shape[2])
    if points0.device.type != "cpu" or points1.shape[2] > _PLACES:
        apart = distances(points0.movedim(0, 2), points1.movedim(0, 2))
        return apart.topk(count, dim=2, largest=False).indices[..., 1:]
    # Numbers that are not negative are in the order of their bits.
    keys = _squared(points0, points1).view(torch.int32).bitwise_and_(-_PLACES)
    keys += torch.arange(points1.shape[2], dtype=torch.int32, device=keys.device)
    nearest = np.partition(keys.numpy(), count - 1, axis=2)[..., :count]
    nearest.sort(axis=2)
    return torch.from_numpy(nearest[..., 1:] & (_PLACES - 1)).long()


def far_unless(kept: Tensor, points: Tensor) -> Tensor:
    """Return ``2 x B x K`` points, those that ``B x K`` bool leaves out far away from all others."""
    # Cheaper than masking all distances to them.
    return torch.where(kept, points, constant((1e7,), points))


def _squared_length(points: Tensor) -> Tensor:
    return points[0].square() + points[1].square()


def _squared(points0: Tensor, points1: Tensor) -> Tensor:
    """Return ``B x N x M`` squared distances."""
    apart = points0[0, :, :, None] - points1[0, :, None]
    return apart.square_().add_((points0[1, :, :, None] - points1[1, :, None]).square_())
