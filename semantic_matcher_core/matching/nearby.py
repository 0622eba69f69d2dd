"""The search for nearest neighbours made again on a CPU, where only what lies near an expected place is looked at.

What lies elsewhere loses one same similarity, and nothing near loses more. So the best of all that lie elsewhere, for a
row and for a column, is what the first search found, less that (or is near, and better still): of the N x M pairs only
those near each other's place need to be looked at, most often one in fifty.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.matching.nearest import Best, DenseMatches, matched, scan
from semantic_matcher_core.matching.similarity import FusedSimilarity
from semantic_matcher_core.settings import MatcherConfig

# Keypoints that lie together.
_LEAF = 16
_LOW_BITS = (1 << 32) - 1
# Leaves near a row that are looked at at a time: few enough for the cache, where all of them are near.
_HITS = 1 << 14
# Similarities of a pair that are kept: 64 MB, 4096 keypoints of each side.
_KEPT_ELEMENTS = 1 << 24


class Expected(NamedTuple):
    """Where N keypoints of B images are to be expected in the other image.

    Attributes:
        place: ``2 x B x N`` pixels.
        elsewhere: ``B x N`` pixels; as far or farther from there is elsewhere.
        most: ``B``, the similarity that something elsewhere loses; what lies nearer loses its share.
    """

    place: Tensor
    elsewhere: Tensor
    most: Tensor


def can_keep(similarity: FusedSimilarity) -> bool:
    """Return whether all similarities of a pair may be held in memory, on a CPU, and nothing differentiates them."""
    _, n, m = similarity.shape
    return similarity.device.type == "cpu" and n * m <= _KEPT_ELEMENTS and not similarity.requires_grad


class NearbySearch:
    """Searches of one pair of images, whose similarities are computed once and kept.

    Args:
        similarity: of 1 x N rows to M rows.
        config: tests of a match.
        keypoints1: ``2 x M`` pixels.
        valid: ``1 x N`` and ``1 x M`` bool, false for padding, or ``None``.

    Attributes:
        similarity: as given.
        first: what the first search finds, wherever it lies.
    """

    def __init__(
        self,
        similarity: FusedSimilarity,
        config: MatcherConfig,
        keypoints1: Tensor,
        valid: tuple[Tensor | None, Tensor | None],
    ) -> None:
        self.similarity, self._config, self._keypoints1 = similarity, config, keypoints1
        self._kept = _Kept(similarity, *valid)
        self._best = scan(self._kept, None, None, config.ratio is not None, config.mutual, self._kept.all)
        self._leaves: _Leaves | None = None
        self.first = matched(*self._best, config)

    def again(self, expected: Expected) -> DenseMatches:
        """Search with less similarity for what lies away from an expected place."""
        place, elsewhere, most = expected.place[:, 0], expected.elsewhere[0], expected.most
        if self._leaves is None:
            self._leaves = _Leaves.of(self._keypoints1)
        best0, best1 = self._best
        floors = [None if b is None else (b.value if b.second is None else b.second)[0] - most for b in self._best]
        row, column, value = _near(self._kept.all[0], self._leaves, place, elsewhere, most, floors)
        found0 = _best_of(value, row, column, best0, most)
        found1 = None if best1 is None else _best_of(value, column, row, best1, most)
        return matched(found0, found1, self._config)


class _Kept:
    """Similarities in memory, computed as they are first asked for; minus infinity for padding."""

    def __init__(self, similarity: FusedSimilarity, valid0: Tensor | None, valid1: Tensor | None) -> None:
        self.shape, self.device = similarity.shape, similarity.device
        self.all = torch.empty(self.shape, dtype=torch.float32, device=self.device)
        self._similarity, self._valid0, self._valid1 = similarity, valid0, valid1

    def rows(self, start: int, stop: int) -> Tensor:
        """Return ``1 x (stop - start) x M`` float32 similarities."""
        block = self._similarity.rows(start, stop, out=self.all[:, start:stop])
        if self._valid0 is not None:
            block.masked_fill_(~self._valid0[:, start:stop, None], -torch.inf)
        if self._valid1 is not None:
            block.masked_fill_(~self._valid1[:, None], -torch.inf)
        return block


class _Leaves(NamedTuple):
    """Points that lie together: strips of equally many by y, and in each by x. Some are there twice, to fill the last.

    Attributes:
        rows: ``L x 16`` of them.
        x, y: ``L x 16`` pixels.
        middle, half: ``2 x L``, of the rectangle around each leaf, and of its sides.
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    middle: Tensor
    half: Tensor

    @staticmethod
    def of(points: Tensor) -> _Leaves:
        """Put ``2 x M`` points into leaves."""
        x, y = points
        leaves = -(-len(x) // _LEAF)
        strips = round(leaves**0.5)
        across = -(-leaves // strips) * _LEAF
        order = y.argsort()
        missing = strips * across - len(order)
        order = torch.cat((order, order[-1:].expand(missing))).unflatten(0, (strips, across))
        rows = order.gather(1, x[order].argsort(dim=1)).view(-1, _LEAF)
        low, high = points[:, rows].aminmax(dim=2)
        return _Leaves(rows, x[rows], y[rows], (low + high) / 2, (high - low) / 2)


def _near(
    similarity: Tensor,
    leaves: _Leaves,
    place: Tensor,
    elsewhere: Tensor,
    most: Tensor,
    floors: list[Tensor | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows, columns and similarities, less what they lose, of the pairs that are not below both floors."""
    beyond = [
        (p[:, None] - m).abs_().sub_(h).clamp_(min=0).square_()
        for p, m, h in zip(place, leaves.middle, leaves.half, strict=True)
    ]
    hits = _where(beyond[0].add_(beyond[1]), np.less, elsewhere[:, None].square())
    parts = [_pairs(some, similarity, leaves, place, elsewhere, most, floors) for some in hits.split(_HITS)]
    row, column, value = (torch.cat(part) for part in zip(*parts, strict=True))
    return row, column, value


def _pairs(
    hits: Tensor,
    similarity: Tensor,
    leaves: _Leaves,
    place: Tensor,
    elsewhere: Tensor,
    most: Tensor,
    floors: list[Tensor | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same of ``hits`` alone: each a leaf that is near a row, counted row by row."""
    row = hits // len(leaves.rows)
    leaf = hits - row * len(leaves.rows)
    columns = leaves.rows.index_select(0, leaf)
    value = similarity.flatten().index_select(0, (columns + (row * similarity.shape[1])[:, None]).flatten())
    value = value.view_as(columns)
    x, y = (p.index_select(0, row)[:, None] for p in place)
    away = leaves.x.index_select(0, leaf).sub_(x).square_()
    away.add_(leaves.y.index_select(0, leaf).sub_(y).square_()).sqrt_()
    # At 1 it is the same, to the last bit, as what is taken off for elsewhere.
    away.div_(elsewhere.index_select(0, row)[:, None]).clamp_(max=1)
    value.addcmul_(away, most, value=-1)
    floor0, floor1 = floors
    assert floor0 is not None
    floor = floor0.index_select(0, row)[:, None]
    if floor1 is not None:
        floor = torch.minimum(floor1[leaves.rows].index_select(0, leaf), floor)
    kept = _where(value, np.greater_equal, floor)
    return (
        row.index_select(0, kept // _LEAF),
        columns.flatten().index_select(0, kept),
        value.flatten().index_select(0, kept),
    )


def _where(values: Tensor, compare: np.ufunc, limits: Tensor) -> Tensor:
    """Return where in the flattened values a comparison holds."""
    # Three times as fast as torch.
    return torch.from_numpy(np.flatnonzero(compare(values.numpy(), limits.numpy())))


def _best_of(value: Tensor, side: Tensor, other: Tensor, first: Best, most: Tensor) -> Best:
    """Return the best of each of N rows: of pairs, or of all elsewhere.

    Args:
        value: of P pairs.
        side: ``P``, the row each is of.
        other: ``P``, its position in the row.
        first: of all, the ``1 x N`` best.
        most: what those elsewhere lose.
    """
    keys = _keys(value, other)
    elsewhere = _keys(first.value[0] - most, first.position[0])
    best = elsewhere.scatter_reduce(0, side, keys, "amax")
    position = _LOW_BITS - (best & _LOW_BITS)
    second = None
    if first.second is not None:
        # The first of all counts as one elsewhere unless it is the best itself; to be near would only make it better.
        left = torch.where(position == first.position[0], first.second[0] - most, first.value[0] - most)
        rest = torch.where(other == position[side], -torch.inf, value)
        second = left.scatter_reduce(0, side, rest, "amax")[None]
    return Best(_values(best)[None], position[None], second)


def _keys(value: Tensor, position: Tensor) -> Tensor:
    """Return int64 that sort by value, then by falling position."""
    return (_ordered(value.contiguous().view(torch.int32)).long() << 32) | (_LOW_BITS - position)


def _values(keys: Tensor) -> Tensor:
    return _ordered((keys >> 32).int()).view(torch.float32)


def _ordered(bits: Tensor) -> Tensor:
    """Return int32 in the order of the float32 that have these bits; and the bits again of such."""
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
