"""Similarity of two sets of unit vectors, and the fusion of several."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from semantic_matcher_core.settings import MatcherConfig


class Similarity(Protocol):
    """Similarities of all rows of one side to all rows of the other, given out in blocks of rows.

    Attributes:
        shape: ``(B, N, M)``.
        device: where :meth:`rows` are.
    """

    shape: tuple[int, ...]
    device: torch.device

    def rows(self, start: int, stop: int) -> Tensor:
        """Return ``B x (stop - start) x M`` float32 similarities."""


class FusedSimilarity:
    """Similarities of all rows of one side to all rows of the other, given out in blocks of rows.

    The whole ``B x N x M`` matrix need never exist. One matrix product per factor: a weighted sum is one product of
    concatenated vectors, and only ``"product"`` takes two.

    Args:
        vectors0: one ``B x N x D`` tensor per kind of descriptor, unit rows, float32.
        vectors1: the same kinds, ``B x M x D``.
        config: its ``fusion`` and ``weights`` are used, where there are two kinds, and its ``band_px``.
        ordinates: ``B x N`` and ``B x M``, the y of keypoints in pixels; with ``band_px``: where two differ by more,
            their similarity is minus infinity.

    Attributes:
        shape: ``(B, N, M)``.
        device: where :meth:`rows` are.
    """

    def __init__(
        self,
        vectors0: Sequence[Tensor],
        vectors1: Sequence[Tensor],
        config: MatcherConfig,
        ordinates: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        if len(vectors0) > 1 and config.fusion != "product":
            scaled = [v if w == 1 else w * v for v, w in zip(vectors0, config.weights, strict=True)]
            vectors0, vectors1 = [torch.cat(scaled, dim=-1)], [torch.cat(list(vectors1), dim=-1)]
        self._factors = [(v0, v1.transpose(1, 2)) for v0, v1 in zip(vectors0, vectors1, strict=True)]
        self._band = None if ordinates is None else config.band_px
        self._ordinates = None if ordinates is None else (ordinates[0][:, :, None], ordinates[1][:, None])
        self.shape = (*vectors0[0].shape[:2], vectors1[0].shape[1])
        self.device = vectors0[0].device

    def rows(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Return ``B x (stop - start) x M`` float32 similarities; in ``out``, if it is given."""
        first, *others = self._factors
        block = torch.bmm(first[0][:, start:stop], first[1], out=out)
        for v0, v1 in others:
            block.mul_(torch.bmm(v0[:, start:stop], v1))
        if self._band is None or self._ordinates is None:
            return block
        y0, y1 = self._ordinates
        # Said so, a position that is not a number is in no band.
        return block.masked_fill_(~((y0[:, start:stop] - y1).abs() <= self._band), -torch.inf)

    @property
    def requires_grad(self) -> bool:
        """Whether something differentiates the similarities."""
        return torch.is_grad_enabled() and any(v.requires_grad for factor in self._factors for v in factor)

    def pair(self, index: int) -> FusedSimilarity:
        """Return the similarities of one pair of the batch, a batch of one."""
        one = copy.copy(self)
        one._factors = [(v0[index, None], v1[index, None]) for v0, v1 in self._factors]
        if self._ordinates is not None:
            one._ordinates = (self._ordinates[0][index, None], self._ordinates[1][index, None])
        one.shape = (1, *self.shape[1:])
        return one

    def of(self, rows0: Tensor, rows1: Tensor) -> Tensor:
        """Return ``B x K`` similarities of rows ``rows0`` to ``rows1``, both ``B x K``; without regard to a band."""
        first, *others = [(_at(v0, rows0) * _at(v1.mT, rows1)).sum(dim=-1) for v0, v1 in self._factors]
        return functools.reduce(torch.mul, others, first)


def _at(vectors: Tensor, rows: Tensor) -> Tensor:
    """Return ``B x K x D`` of ``B x N x D`` vectors at ``B x K`` rows; whole rows are copied fastest from one list."""
    batch, n, _ = vectors.shape
    starts = torch.arange(0, batch * n, n, device=rows.device)[:, None]
    return vectors.flatten(0, 1).index_select(0, (rows + starts).flatten()).unflatten(0, rows.shape)
