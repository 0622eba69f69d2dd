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
    """``L`` losses, one for each supervised layer; 0, with a graph, where no pair has a true match.

    Args:
        layers0, layers1: for each layer the texture ``B x N x F`` and semantic ``B x N x F`` outputs (``None`` without
            conditioning) of a view.
        positives: the true matches.
        valid0, valid1: ``B x N`` bool, false for padding, which is left out of the softmax.
    """
    texture0, texture1 = (torch.stack([texture for texture, _ in layers]) for layers in (layers0, layers1))
    similarity = texture0 @ texture1.transpose(-1, -2)
    if layers0[0][1] is not None:
        semantic0, semantic1 = (torch.stack([s for _, s in layers if s is not None]) for layers in (layers0, layers1))
        similarity = similarity * (semantic0 @ semantic1.transpose(-1, -2))
    pair, index0, index1 = positives
    batch = similarity.shape[1]
    matched = similarity[:, pair, index0, index1]
    # log-softmax at the true matches needs only the normalisers of their rows and columns.
    rows = _masked(similarity, valid1, -2)[:, pair, index0].logsumexp(dim=-1)
    columns = _masked(similarity, valid0, -1).transpose(-1, -2)[:, pair, index1].logsumexp(dim=-1)
    likelihood = (rows + columns) / 2 - matched

    counts = torch.bincount(pair, minlength=batch)
    share = 1.0 / counts.clamp(min=1).to(likelihood)
    # The products with zero keep the graph where there is nothing to learn from.
    return (likelihood * share[pair]).sum(dim=1) / batch + 0.0 * similarity.flatten(1)[:, :1].sum(dim=1)


def _masked(similarity: Tensor, valid: Tensor | None, along: int) -> Tensor:
    if valid is None:
        return similarity
    return similarity.masked_fill(~valid.unsqueeze(along), -torch.inf)
