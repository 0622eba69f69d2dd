"""Similarity of two sets of unit vectors, and the fusion of several."""

from __future__ import annotations

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

    def rows(self, start: int, stop: int) -> Tensor:
        """Return ``B x (stop - start) x M`` float32 similarities."""
        first, *others = self._factors
        block = torch.bmm(first[0][:, start:stop], first[1])
        for v0, v1 in others:
            block.mul_(torch.bmm(v0[:, start:stop], v1))
        if self._band is None or self._ordinates is None:
            return block
        y0, y1 = self._ordinates
        # Said so, a position that is not a number is in no band.
        return block.masked_fill(~((y0[:, start:stop] - y1).abs() <= self._band), -torch.inf)

    def of(self, rows0: Tensor, rows1: Tensor) -> Tensor:
        """Return ``B x K`` similarities of rows ``rows0`` to ``rows1``, both ``B x K``; without regard to a band."""
        batch = torch.arange(self.shape[0], device=self.device)[:, None]
        first, *others = [(v0[batch, rows0] * v1.mT[batch, rows1]).sum(dim=-1) for v0, v1 in self._factors]
        return functools.reduce(torch.mul, others, first)
