"""Similarity of two sets of unit vectors, and the fusion of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from semantic_matcher_core.settings import MatcherConfig


class Similarity(Protocol):
    """What the search for nearest neighbours reads."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(B, N, M)``: batch, rows of side 0, rows of side 1."""

    @property
    def device(self) -> torch.device:
        """Where :meth:`rows` are."""

    def rows(self, start: int, stop: int) -> Tensor:
        """Return ``B x (stop - start) x M`` float32 similarities, not to be changed."""


class SimilarityMatrix:
    """Similarities that are there already, ``B x N x M``."""

    def __init__(self, matrix: Tensor) -> None:
        batch, rows, columns = matrix.shape
        self.shape = (batch, rows, columns)
        self.device = matrix.device
        self._matrix = matrix.float()

    def rows(self, start: int, stop: int) -> Tensor:
        return self._matrix[:, start:stop]


class FusedSimilarity:
    """Similarities of all rows of one side to all rows of the other, given out in blocks of rows.

    The whole ``B x N x M`` matrix need never exist. One matrix product per factor: a weighted sum is one product of
    concatenated vectors, and only ``"product"`` takes two.

    Args:
        vectors0: one ``B x N x D`` tensor per kind of descriptor, unit rows, float32.
        vectors1: the same kinds, ``B x M x D``.
        config: its ``fusion`` and ``weights`` are used, where there are two kinds.
    """

    def __init__(self, vectors0: Sequence[Tensor], vectors1: Sequence[Tensor], config: MatcherConfig) -> None:
        if len(vectors0) > 1 and config.fusion != "product":
            scaled = [v if w == 1 else w * v for v, w in zip(vectors0, config.weights, strict=True)]
            vectors0, vectors1 = [torch.cat(scaled, dim=-1)], [torch.cat(list(vectors1), dim=-1)]
        self._factors = [(v0, v1.transpose(1, 2)) for v0, v1 in zip(vectors0, vectors1, strict=True)]
        batch, rows = vectors0[0].shape[:2]
        self.shape = (batch, rows, vectors1[0].shape[1])
        self.device = vectors0[0].device

    @property
    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """``B x N x D`` and ``B x D x M`` per factor, whose product is its part of the similarity."""
        return self._factors

    def rows(self, start: int, stop: int) -> Tensor:
        first, *others = self._factors
        block = torch.bmm(first[0][:, start:stop], first[1])
        for v0, v1 in others:
            block.mul_(torch.bmm(v0[:, start:stop], v1))
        return block


class BandedSimilarity:
    """Another similarity, with minus infinity where two rows lie further apart than a band.

    The mask exists for a block of rows at a time, as the similarities do.

    Args:
        similarity: the one to restrict.
        ordinates0, ordinates1: ``B x N`` and ``B x M``, what is compared: the y of keypoints in pixels.
        band: largest difference that is kept.
    """

    def __init__(self, similarity: Similarity, ordinates0: Tensor, ordinates1: Tensor, band: float) -> None:
        self.shape = similarity.shape
        self.device = similarity.device
        self._similarity = similarity
        self._ordinates = ordinates0[:, :, None], ordinates1[:, None, :]
        self._band = band

    def rows(self, start: int, stop: int) -> Tensor:
        ordinates0, ordinates1 = self._ordinates
        # Said so, a position that is not a number is in no band.
        inside = (ordinates0[:, start:stop] - ordinates1).abs() <= self._band
        return self._similarity.rows(start, stop).masked_fill(~inside, -torch.inf)
