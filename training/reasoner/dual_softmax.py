"""The dual-softmax loss and its gradients in closed form, block by block.

Of the ``N x M`` similarities only the rows and columns of true matches enter the loss, and nothing of that size is kept
for the backward pass: the derivative of a row's ``w logsumexp(x)`` is ``w softmax(x)``, so the gradients of a block are
taken while the block is at hand. Each layer's loss is one number, so the backward pass only scales what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.reasoner.blocks import block_shape
from training.reasoner.supervision import Positives

# Texture, and where there is one semantic, features of both views; similarities of the two are multiplied.
_Factors = list[tuple[Tensor, Tensor]]


class Rows(NamedTuple):
    """The distinct rows of true matches, padded to the same number ``R`` in each of ``B`` pairs.

    Attributes:
        index: ``B x R`` int64.
        weight: ``B x R``, what each counts; 0 for padding.
        place: ``P`` int64, where each true match has its row.
    """

    index: Tensor  # type: ignore[assignment]  # tuples have a method of that name
    weight: Tensor
    place: Tensor


class DualSoftmax(torch.autograd.Function):
    """``L`` sums over true matches of weighted negative log-likelihoods, means of row and column softmax.

    Arguments of ``apply``: ``texture0`` (``L x B x N x F``), ``texture1`` (``L x B x M x F``), ``semantic0`` and
    ``semantic1`` likewise or ``None``, the true matches, ``P`` weights of them, and ``valid0`` (``B x N``) and
    ``valid1`` (``B x M``), false for what is left out of the softmax, or ``None``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        texture0: Tensor,
        texture1: Tensor,
        semantic0: Tensor | None,
        semantic1: Tensor | None,
        positives: Positives,
        weight: Tensor,
        valid0: Tensor | None,
        valid1: Tensor | None,
    ) -> Tensor:
        factors = [(texture0, texture1)]
        if semantic0 is not None and semantic1 is not None:
            factors.append((semantic0, semantic1))
        wanted = any(ctx.needs_input_grad[:4])
        gradients = [(_zeros_like(a), _zeros_like(b)) for a, b in factors] if wanted else []

        pair, index0, index1 = positives
        batch = texture0.shape[1]
        rows0 = padded_rows(pair, index0, weight / 2, batch, texture0.shape[2])
        rows1 = padded_rows(pair, index1, weight / 2, batch, texture1.shape[2])
        swapped, swapped_gradients = ([(b, a) for a, b in sides] for sides in (factors, gradients))
        normaliser0 = _row_normalisers(factors, gradients, rows0, valid1)[:, pair, rows0.place]
        normaliser1 = _row_normalisers(swapped, swapped_gradients, rows1, valid0)[:, pair, rows1.place]
        matched = _matched(factors, gradients, positives, weight)
        ctx.save_for_backward(*(gradient for sides in gradients for gradient in sides))
        return (((normaliser0 + normaliser1) / 2 - matched) * weight).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scaled: list[Tensor | None] = [upstream.view(-1, 1, 1, 1) * gradient for gradient in ctx.saved_tensors]
        return (*scaled, *[None] * (8 - len(scaled)))


def padded_rows(pair: Tensor, index: Tensor, weight: Tensor, batch: int, count: int) -> Rows:
    """Return rows by pair, each once with the sum of its weights.

    Args:
        pair, index, weight: ``P``, the rows and what they count.
        batch: pairs.
        count: rows a pair has in all.
    """
    distinct, inverse = torch.unique(pair * count + index, return_inverse=True)
    total = weight.new_zeros(len(distinct)).index_add_(0, inverse, weight)
    of_pair, index = distinct // count, distinct % count
    counts = torch.bincount(of_pair, minlength=batch)
    width = int(counts.max()) if len(pair) else 0
    # Rows come sorted by pair: the place within a pair is the distance from where it starts.
    place = torch.arange(len(distinct), device=pair.device) - (counts.cumsum(0) - counts)[of_pair]
    rows = Rows(index.new_zeros(batch, width), weight.new_zeros(batch, width), place[inverse])
    rows.index[of_pair, place], rows.weight[of_pair, place] = index, total
    return rows


def _row_normalisers(factors: _Factors, gradients: _Factors, rows: Rows, valid1: Tensor | None) -> Tensor:
    """Return ``L x B x R`` log-sum-exps of rows; the gradients of their weighted sum are added to ``gradients`` if
    any.
    """
    layers, batch, count1 = factors[0][1].shape[:3]
    tables, width = layers * batch, rows.index.shape[1]
    flat = [(a.flatten(0, 1), b.flatten(0, 1)) for a, b in factors]
    into = [(a.flatten(0, 1), b.flatten(0, 1)) for a, b in gradients]
    index, weight = (t.expand(layers, batch, width).flatten(0, 1) for t in (rows.index, rows.weight))
    hidden = None if valid1 is None else ~valid1.expand(layers, batch, count1).flatten(0, 1)[:, None]
    normalisers = weight.new_zeros(tables, width)
    tables_at_once, rows_at_once = block_shape(weight.device, tables, width, count1)
    # One large block may well compute padding; many small ones leave it out.
    widths = (weight != 0).sum(dim=1).tolist() if tables_at_once == 1 else [width] * tables
    for first in range(0, tables, tables_at_once):
        block = slice(first, min(first + tables_at_once, tables))
        for start in range(0, widths[first], rows_at_once):
            some = slice(start, min(start + rows_at_once, widths[first]))
            normalisers[block, some] = _block(
                flat, into, block, index[block, some], weight[block, some], None if hidden is None else hidden[block]
            )
    return normalisers.view(layers, batch, width)


def _block(
    flat: _Factors, into: _Factors, block: slice, index: Tensor, weight: Tensor, hidden: Tensor | None
) -> Tensor:
    """Return ``k x R`` log-sum-exps of rows ``index`` of ``k`` tables, and their gradients."""
    first = torch.arange(block.start, block.stop, device=index.device)[:, None] * flat[0][0].shape[1]
    at = (first + index).flatten()
    anchors = [a.flatten(0, 1).index_select(0, at).view(*index.shape, -1) for a, _ in flat]
    others = [b[block] for _, b in flat]
    products = [a @ b.transpose(1, 2) for a, b in zip(anchors, others, strict=True)]
    similarity = _product(products)
    if hidden is not None:
        similarity = similarity.masked_fill(hidden, -torch.inf)
    # Where all are hidden the maximum is -inf, and infinity less itself is no number.
    highest = similarity.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(similarity.dtype).min)
    # In place from here on, as blocks that stay in the cache cost far less than new ones.
    softmax = similarity.sub_(highest).exp_()
    total = softmax.sum(dim=-1, keepdim=True)
    if into:
        softmax *= torch.where(weight != 0, weight / total[..., 0], 0.0)[..., None]
        for side, (gradient0, gradient1) in enumerate(into):
            # The product rule: each factor's derivative is the other one.
            slope = products[1 - side].mul_(softmax) if len(products) > 1 else softmax
            gradient0.flatten(0, 1).index_add_(0, at, (slope @ others[side]).flatten(0, 1))
            gradient1[block].baddbmm_(slope.transpose(1, 2), anchors[side])
    return (highest + total.log())[..., 0]


def _matched(factors: _Factors, gradients: _Factors, positives: Positives, weight: Tensor) -> Tensor:
    """Return ``L x P`` similarities of the true matches; the gradients of less their weighted sum are added."""
    pair, index0, index1 = positives
    ends = [(a[:, pair, index0], b[:, pair, index1]) for a, b in factors]
    products = [(a * b).sum(dim=-1) for a, b in ends]
    rows = [pair * t.shape[2] + index for t, index in zip(factors[0], (index0, index1), strict=True)]
    for side, (gradient0, gradient1) in enumerate(gradients):
        slope = -weight.expand_as(products[0])
        if len(products) > 1:
            slope = slope * products[1 - side]
        for gradient, at, other in ((gradient0, rows[0], ends[side][1]), (gradient1, rows[1], ends[side][0])):
            gradient.flatten(1, 2).index_add_(1, at, slope[..., None] * other)
    return _product(products)


def _zeros_like(tensor: Tensor) -> Tensor:
    # Parts of it are added to through flattened views, which only contiguous memory has.
    return torch.zeros_like(tensor, memory_format=torch.contiguous_format)


def _product(terms: Sequence[Tensor]) -> Tensor:
    return terms[0] * terms[1] if len(terms) > 1 else terms[0]
