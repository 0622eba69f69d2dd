"""Dual-softmax loss of the reasoner's outputs, all layers and pairs in one pass.

Published (arXiv 2410.09533): the mean over true matches of the negative log-likelihoods of row and column softmax, of
the similarity *without* normalisation, times the semantic similarity when conditioning; mean over layers and batch,
times 0.25. The published code forgets to reset its sum within a batch, so that at batch 2 the first pair counts twice;
here every pair counts once, which is the same at batch 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.reasoner.dual_softmax import DualSoftmax
from training.reasoner.supervision import Positives

WEIGHT = 0.25


def dual_softmax_loss(
    layers0: Sequence[tuple[Tensor, Tensor | None]],
    layers1: Sequence[tuple[Tensor, Tensor | None]],
    positives: Positives,
    *,
    valid0: Tensor | None = None,
    valid1: Tensor | None = None,
) -> Tensor:
    """Return ``L`` losses, one for each supervised layer; 0, with a graph, where no pair has a true match.

    Args:
        layers0, layers1: for each layer the texture ``B x N x F`` and semantic ``B x N x F`` outputs (``None`` without
            conditioning) of a view.
        positives: the true matches.
        valid0, valid1: ``B x N`` bool, false for padding, which is left out of the softmax.
    """
    texture0, texture1 = (torch.stack([texture for texture, _ in layers]) for layers in (layers0, layers1))
    semantic0 = semantic1 = None
    if layers0[0][1] is not None:
        semantic0, semantic1 = (torch.stack([s for _, s in layers if s is not None]) for layers in (layers0, layers1))
    batch = texture0.shape[1]
    counts = torch.bincount(positives.pair, minlength=batch)
    weight = 1.0 / (counts.clamp(min=1).to(texture0) * batch)[positives.pair]
    losses: Tensor = DualSoftmax.apply(texture0, texture1, semantic0, semantic1, positives, weight, valid0, valid1)
    return losses
