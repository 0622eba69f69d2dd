"""Exact mutual nearest neighbours on the CPU, of which most similarities are known by a bound alone.

Two bounds, either of which serves alone:

- A product of similarities is no larger than one of its factors times the lengths of the other factors' vectors. So
  one factor is computed for all pairs, and the product only where that factor is large enough to hold the nearest.
  Where that leaves too much, the next factor is computed for all pairs as well.
- Matrix units multiply bfloat16 several times faster than float32. Such similarities are off by no more than follows
  from what the rounding left behind (Cauchy-Schwarz), and only what lies within that of the best is computed again.

The result is that of float32, where float32's own rounding does not decide. An entry that the bounds leave with too
many places that may be the nearest is computed in full.

The second bound is in proportion to the length of what is rounded. So the mean of both sides is taken off first, and
put back by six more columns: descriptors that have much in common would otherwise be nearest to everything.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Elements of the matrix, which is held whole: below, setting up costs more; above, memory does.
_SMALLEST, _LARGEST = 1 << 17, 1 << 23
_GROUP = 64
# Down a column each element is a line of the cache of its own.
_GROUP_ACROSS = 16
# One vector in so many tells what all have in common.
_SAMPLED = 16
# Of narrow matrices' columns; others are slow to multiply.
_COLUMNS = 32
# Places of one entry that may be its nearest: with more, all its similarities are computed.
_MOST_PLACES = 32
# Share of entries with more, from which on another factor of all pairs costs less.
_MOST_OPEN = 0.25
_BLOCK_ROWS = 512
_EPSILON = 2.0**-24
_lock = threading.Lock()
_memory = threading.local()


class Factor(NamedTuple):
    """Vectors of both sides of one pair of images, ``N x D`` and ``M x D`` float32."""

    rows: Tensor
    columns: Tensor

    def transposed(self) -> Factor:
        """The same with the sides exchanged."""
        return Factor(self.columns, self.rows)


class MutualPairs(NamedTuple):
    """Rows and columns that are each other's nearest, K int64 each by ascending row, and their float32 similarity."""

    rows: Tensor
    columns: Tensor
    similarity: Tensor


def has_narrow_products() -> bool:
    """Whether this torch and this CPU multiply float32 matrices in bfloat16 on request."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    setting = getattr(torch.backends.mkldnn, "matmul", None)
    return (
        torch.backends.mkldnn.is_available() and hasattr(setting, "fp32_precision") and bool(supported and supported())
    )


def is_worth_it(rows: int, columns: int) -> bool:
    """Whether a matrix of this size is searched faster this way."""
    return _SMALLEST <= rows * columns <= _LARGEST


def mutual_nearest(factors: Sequence[Factor], *, narrow: bool) -> MutualPairs:
    """Mutual nearest neighbours by the product of the similarities; ties go to the lowest index.

    Args:
        factors: of one pair of images; N and M at least 1. The first should tell most.
        narrow: compute factors of all pairs in bfloat16, with the second bound.
    """
    scan = None
    for used in range(1, len(factors) + 1):
        scan = _scanned(scan, factors[used - 1], narrow, minima=used < len(factors))
        found = _mutual(scan, list(factors), used)
        if found is not None:
            return found
    raise AssertionError("with all factors computed nothing is left open")


def _mutual(scan: _Scan, factors: list[Factor], used: int) -> MutualPairs | None:
    """Mutual nearest neighbours, or ``None`` where the first ``used`` factors, which were scanned, tell too little."""
    n, m = len(factors[0].rows), len(factors[0].columns)
    reach = factors[0].rows.new_ones(())
    for f in factors[used:]:
        reach = reach * f.rows.norm(dim=1).max() * f.columns.norm(dim=1).max()
    nearest0 = _search(_along_rows(scan, m), factors, used, reach, _indices(n))
    if nearest0 is None:
        return None
    # Only who is somebody's nearest can be in a mutual pair.
    wanted = torch.zeros(m, dtype=torch.bool, device="cpu").index_fill_(0, nearest0, True).nonzero()[:, 0]
    nearest_wanted = _search(_down_columns(scan, n), [f.transposed() for f in factors], used, reach, wanted)
    if nearest_wanted is None:
        return None
    nearest1 = nearest0.new_full((m,), -1).index_copy_(0, wanted, nearest_wanted)
    rows = (nearest1[nearest0] == _indices(n)).nonzero()[:, 0]
    columns = nearest0[rows]
    return MutualPairs(rows, columns, similarities(factors, rows, columns))


def similarities(factors: Sequence[Factor], rows: Tensor, columns: Tensor) -> Tensor:
    """Products of the similarities of pairs, in float32."""
    result = factors[0].rows.new_ones(len(rows))
    for factor in factors:
        left = _kept("left", len(rows), factor.rows.shape[1])
        right = _kept("right", len(rows), factor.rows.shape[1])
        torch.index_select(factor.rows, 0, rows, out=left)
        torch.index_select(factor.columns, 0, columns, out=right)
        result *= left.mul_(right).sum(dim=1)
    return result


class _Bound(NamedTuple):
    """Of each row, or of each column: how large similarities are at most, and how far they may be off."""

    size: Tensor
    error: Tensor

    def times(self, other: _Bound) -> _Bound:
        """Of the product with another similarity."""
        size, with_error = self.size * other.size, (self.size + self.error) * (other.size + other.error)
        # The difference loses what float32 cannot hold of the two.
        return _Bound(size, (with_error - size) + 4 * _EPSILON * with_error)


class _Scan(NamedTuple):
    """Similarities of all pairs, padded to whole groups, and maxima of groups of columns and of rows.

    ``least0`` and ``least1`` are the smallest of each row and of each column (infinite where not asked for).
    """

    similarity: Tensor
    along_rows: Tensor
    down_columns: Tensor
    least0: Tensor
    least1: Tensor
    bound0: _Bound
    bound1: _Bound


def _scanned(earlier: _Scan | None, factor: Factor, narrow: bool, minima: bool) -> _Scan:
    """The product of ``earlier``, whose memory is taken over, and a factor."""
    padded = Factor(_padded(factor.rows), _padded(factor.columns))
    left, right, bound0, bound1 = (_narrow_operands if narrow else _exact_operands)(padded)
    n, m = len(left), len(right)
    similarity = _kept("similarity", n, m)
    along_rows, down_columns = left.new_empty(n, m // _GROUP), left.new_empty(n // _GROUP_ACROSS, m)
    least0, least1 = left.new_full((n,), torch.inf), left.new_full((m,), torch.inf)
    for start in range(0, n, _BLOCK_ROWS):
        stop = min(n, start + _BLOCK_ROWS)
        block = similarity[start:stop]
        target = block if earlier is None else _kept("factor", stop - start, m)
        with _narrow_products(narrow):
            torch.mm(left[start:stop], right.t(), out=target)
        if earlier is not None:
            block.mul_(target)
        # While the block is in the cache. Maxima without their places are vectorised.
        torch.amax(block.view(stop - start, -1, _GROUP), dim=2, out=along_rows[start:stop])
        groups = block.view(-1, _GROUP_ACROSS, m)
        torch.amax(groups, dim=1, out=down_columns[start // _GROUP_ACROSS : stop // _GROUP_ACROSS])
        if minima:
            torch.amin(block, dim=1, out=least0[start:stop])
            torch.minimum(least1, groups.amin(dim=1).amin(dim=0), out=least1)
    if earlier is not None:
        bound0, bound1 = earlier.bound0.times(bound0), earlier.bound1.times(bound1)
    return _Scan(similarity, along_rows, down_columns, least0, least1, bound0, bound1)


class _Direction(NamedTuple):
    """A scan as one side sees it: per entry its groups of places.

    Attributes:
        groups: ``entries x groups x size``, a view of the similarities.
        maxima: ``entries x groups``.
        least: smallest similarity of each entry.
        error: of each entry.
        length: number of places, without padding.
    """

    groups: Tensor
    maxima: Tensor
    least: Tensor
    error: Tensor
    length: int


def _along_rows(scan: _Scan, m: int) -> _Direction:
    groups = scan.similarity.view(len(scan.similarity), -1, _GROUP)
    return _Direction(groups, scan.along_rows, scan.least0, scan.bound0.error, m)


def _down_columns(scan: _Scan, n: int) -> _Direction:
    columns = scan.similarity.shape[1]
    groups = scan.similarity.view(-1, _GROUP_ACROSS, columns).permute(2, 0, 1)
    return _Direction(groups, scan.down_columns.t().contiguous(), scan.least1, scan.bound1.error, n)


def _search(seen: _Direction, factors: list[Factor], used: int, reach: Tensor, entries: Tensor) -> Tensor | None:
    """The nearest place of each of the entries by all factors; ``None`` where most are left open.

    Args:
        seen: the product of the first ``used`` factors.
        factors: with the entries' side first.
        reach: how large each factor's similarities are at most.
        entries: E int64, ascending.
    """
    size = seen.groups.shape[2]
    maxima, error = seen.maxima[entries], seen.error[entries]
    best, group = maxima.max(dim=1)
    first = seen.groups[entries, group]  # the group that has the largest
    others = factors[used:]
    if others:
        place = group * size + first.argmax(dim=1)
        reached = similarities(others, entries, place.clamp_(max=seen.length - 1))
        least, bounded = _least(best, reached, others, reach, error)
        # A similarity far below zero may have the larger product with another below zero.
        bounded &= -seen.least[entries] < least
    else:
        least, bounded = best - 2 * error, torch.ones_like(best, dtype=torch.bool)
    near = maxima >= least[:, None]
    bounded &= near.sum(dim=1) <= _MOST_PLACES
    few_open = (1 - _MOST_OPEN) * len(entries) if others else 0
    if int(bounded.sum()) < few_open:
        return None
    # Most have no other group; reading a group is what takes the time.
    near.scatter_(1, group[:, None], False).logical_and_(bounded[:, None])
    which, place = ((first >= least[:, None]) & bounded[:, None]).nonzero().unbind(1)
    place = group[which] * size + place
    also, group = near.nonzero().unbind(1)
    index, inside = (seen.groups[entries[also], group] >= least[also, None]).nonzero().unbind(1)
    which = torch.cat((which, also[index]))
    place = torch.cat((place, group[index] * size + inside)).clamp_(max=seen.length - 1)
    places = torch.bincount(which, minlength=len(entries))
    # None at all: similarities that are no numbers.
    bounded &= (places > 0) & (places <= _MOST_PLACES)
    if int(bounded.sum()) < few_open:
        return None

    nearest = torch.empty_like(entries).index_copy_(0, which, place)
    doubtful = (bounded & (places > 1))[which]
    which, place = which[doubtful], place[doubtful]
    values = similarities(factors, entries[which], place)
    largest = values.new_full((len(entries),), -torch.inf).scatter_reduce_(0, which, values, "amax")
    place = torch.where(values == largest[which], place, seen.length)
    decided = torch.full_like(entries, seen.length).scatter_reduce_(0, which, place, "amin")
    nearest = torch.where(decided < seen.length, decided, nearest)
    rest = (~bounded).nonzero()[:, 0]
    if len(rest):
        nearest[rest] = _full_search(factors, entries[rest])
    return nearest


def _least(
    best: Tensor, reached: Tensor, others: Sequence[Factor], most: Tensor, error: Tensor
) -> tuple[Tensor, Tensor]:
    """How large a similarity must be to have the largest product, and for which entries that can be told.

    Args:
        best: the largest similarity of each entry, off by at most ``error``.
        reached: the product of the ``others`` there.
        most: what that is at most anywhere.
    """
    rounding = sum(_rounding(factor.rows.shape[1]) for factor in others)
    at_least = reached - rounding * most
    # What the product is where the similarity is largest; the nearest is no worse.
    least = (best - error) * at_least / (most * (1 + 2 * rounding)) - error
    return least, (best > error) & (at_least > 0)


def _indices(count: int) -> Tensor:
    return torch.arange(count, device="cpu")


def _full_search(factors: Sequence[Factor], entries: Tensor) -> Tensor:
    places = []
    for part in entries.split(_BLOCK_ROWS):
        product = factors[0].rows[part] @ factors[0].columns.t()
        for factor in factors[1:]:
            product *= factor.rows[part] @ factor.columns.t()
        places.append(product.max(dim=1).indices)
    return torch.cat(places)


def _padded(vectors: Tensor) -> Tensor:
    """To whole groups, by repeating the last: what is as near as it is it."""
    missing = -len(vectors) % _GROUP
    return vectors if missing == 0 else torch.cat((vectors, vectors[-1:].expand(missing, -1)))


def _rounding(dim: int) -> float:
    """What sums in float32 lose, of the product of two vectors' lengths, here and in the plain search."""
    return 4 * (dim + 16) * _EPSILON


def _exact_operands(factor: Factor) -> tuple[Tensor, Tensor, _Bound, _Bound]:
    """Both matrices, and what is known of the similarities of each row and of each column."""
    length0, length1 = factor.rows.norm(dim=1), factor.columns.norm(dim=1)
    size0, size1 = length0 * length1.max(), length1 * length0.max()
    slack = _rounding(factor.rows.shape[1])
    return factor.rows, factor.columns, _Bound(size0, slack * size0), _Bound(size1, slack * size1)


def _narrow_operands(factor: Factor) -> tuple[Tensor, Tensor, _Bound, _Bound]:
    """As :func:`_exact_operands`, of matrices to multiply in bfloat16.

    a · b = (a - c) · (b - c) + a · c + (b - c) · c, whatever c is; the shorter a - c and b - c, the better. Where
    rounding takes e off a - c and f off b - c, and leaves a' of the first, it is off by at most |e| |b - c| + |a'| |f|.
    """
    rows, columns = factor
    common = (rows[::_SAMPLED].mean(dim=0) + columns[::_SAMPLED].mean(dim=0)) / 2
    offset = common.norm()
    left = _operand("rows", rows, common, 0, rows @ common)
    right = _operand("columns", columns, common, 3, columns @ common - offset.square())
    reach0, reach1 = left.kept + left.lost + offset, right.kept + right.lost + offset
    slack = _rounding(rows.shape[1]) * reach0.max() * reach1.max()
    error0 = left.lost * (right.kept + right.lost).max() + left.kept * right.lost.max() + slack
    error1 = right.lost * (left.kept + left.lost).max() + right.kept * left.lost.max() + slack
    return left.matrix, right.matrix, _Bound(reach0 * reach1.max(), error0), _Bound(reach1 * reach0.max(), error1)


class _Operand(NamedTuple):
    """A float32 matrix that bfloat16 holds exactly, and of each row the length kept and the length lost in rounding."""

    matrix: Tensor
    kept: Tensor
    lost: Tensor


def _operand(name: str, vectors: Tensor, common: Tensor, place: int, along: Tensor) -> _Operand:
    """What of the vectors is not common, rounded, and six more columns: ``along`` in three parts, else ones.

    Args:
        place: of the first part among the six columns.
    """
    count, dim = vectors.shape
    matrix, apart = _kept(name, count, dim + 6 + -(dim + 6) % _COLUMNS), _kept("apart", count, dim)
    narrow = matrix[:, :dim].copy_(torch.sub(vectors, common, out=apart).bfloat16())
    lost = apart.sub_(narrow).norm(dim=1)
    matrix[:, dim : dim + 6] = 1
    matrix[:, dim + 6 :] = 0
    for part in range(3):
        rounded = along.bfloat16().float()
        matrix[:, dim + place + part] = rounded
        along = along - rounded
    return _Operand(matrix, narrow.norm(dim=1), lost)


def _kept(name: str, rows: int, columns: int) -> Tensor:
    """Memory of this thread that its next call with this name overwrites.

    New memory costs as much as a product: the system clears it page by page.
    """
    kept: dict[str, Tensor] = _memory.__dict__
    if name not in kept or len(kept[name]) < rows * columns:
        # Made in inference mode it could not be written to out of it.
        with torch.inference_mode(False):
            kept[name] = torch.empty(rows * columns, dtype=torch.float32, device="cpu")
    return kept[name][: rows * columns].view(rows, columns)


@contextmanager
def _narrow_products(wanted: bool = True) -> Iterator[None]:
    """Float32 products run in bfloat16 with float32 sums. The switch is the process's: it is held for one product."""
    if not wanted:
        yield
        return
    backend: Any = torch.backends.mkldnn  # its stubs lack the switch
    setting = backend.matmul
    with _lock:
        before = setting.fp32_precision
        setting.fp32_precision = "bf16"
        try:
            yield
        finally:
            setting.fp32_precision = before
