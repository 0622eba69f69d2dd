"""Descriptor losses of DALF (HardNet's triplet margin loss with in-batch hardest negatives)."""

from __future__ import annotations

import torch
from torch import Tensor

from semantic_matcher_core.errors import ShapeError

# Added to distances that must not be chosen as negatives; unit descriptors are never farther than 2 apart.
_FAR = 100.0
_SAME = 0.01


def hard_negative_loss(
    anchors: Tensor,
    positives: Tensor,
    *,
    margin: float = 0.5,
    anchor_swap: bool = False,
    groups: Tensor | None = None,
) -> Tensor:
    """Return mean of ``max(0, margin + d(anchor, positive) - d(anchor, hardest negative))``.

    Args:
        anchors, positives: ``N x D`` unit descriptors; row i of one belongs to row i of the other.
        margin: wanted gap.
        anchor_swap: also look for the negative among the anchors of each positive.
        groups: ``N`` int64: negatives within a group do not count (keypoints of one image), or ``None``.

    Raises:
        ShapeError: the two differ in shape, or are not matrices.
    """
    if anchors.ndim != 2 or anchors.shape != positives.shape:
        raise ShapeError(f"descriptors must both be N x D, got {tuple(anchors.shape)} and {tuple(positives.shape)}")
    distance = torch.cdist(anchors, positives)
    # A descriptor met twice is no negative: its distance of nearly zero has a gradient of no use.
    excluded = torch.eye(len(anchors), device=anchors.device) + (distance.detach() <= _SAME)
    if groups is not None:
        excluded = excluded + (groups[:, None] == groups)
    negatives = distance + _FAR * excluded
    hardest = negatives.amin(dim=1)
    if anchor_swap:
        hardest = torch.minimum(hardest, negatives.amin(dim=0))
    return (margin + distance.diagonal() - hardest).clamp(min=0).mean()
