"""Exact nearest neighbours from bfloat16 products and a bound on their error.

Matrix units multiply bfloat16 several times faster than float32. Their similarities are off by no more than a bound
that follows from what the rounding left behind (Cauchy-Schwarz). A row whose best is ahead of its second best by more
than twice that has its nearest neighbour; of the others, what lies within the bound of the best is computed again in
float32. The result is that of float32, where float32's own rounding does not decide.

The bound is in proportion to the length of what is rounded. So the mean of both sides is taken off first, and put back
by six more columns: descriptors that have much in common would otherwise be nearest to everything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
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
# Of these matrices' columns; others are slow to multiply.
_COLUMNS = 32
# Candidates that are computed again, per row on average: beyond, the plain search is as fast.
_MOST_CANDIDATES = 24
_BLOCK_ROWS = 256
_lock = threading.Lock()
_scratch = threading.local()


class Factor(NamedTuple):
    """Vectors of both sides of one pair of images, ``N x D`` and ``M x D`` float32."""

    rows: Tensor
    columns: Tensor


def is_available() -> bool:
    """Whether this torch and this CPU multiply float32 matrices in bfloat16 on request."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    setting = getattr(torch.backends.mkldnn, "matmul", None)
    return (
        torch.backends.mkldnn.is_available() and hasattr(setting, "fp32_precision") and bool(supported and supported())
    )


def is_worth_it(rows: int, columns: int) -> bool:
    """Whether a matrix of this size is found faster this way."""
    return _SMALLEST <= rows * columns <= _LARGEST


def nearest_both_ways(factors: Sequence[Factor]) -> tuple[Tensor, Tensor] | None:
    """Of each row the nearest column, and of each column the nearest row, by the product of the similarities.

    Ties go to the lowest index.

    Args:
        factors: of one pair of images; N and M at least 1.

    Returns:
        ``N`` and ``M`` int64, or ``None`` where too many are nearly as near as the nearest.
    """
    n, m = len(factors[0].rows), len(factors[0].columns)
    operands = [_narrow_operands(_padded(f.rows), _padded(f.columns)) for f in factors]
    bounds = [bound for _, _, bound in operands]
    product = _product([(left, right.t()) for left, right, _ in operands])
    error0, error1 = _of_product([bound[:2] for bound in bounds]), _of_product([bound[2:] for bound in bounds])
    index0 = _nearest(product, 1, error0, n, m, lambda i, j: exact_similarities(factors, i, j))
    index1 = _nearest(product, 0, error1, m, n, lambda j, i: exact_similarities(factors, i, j))
    return None if index0 is None or index1 is None else (index0, index1)


class _Product(NamedTuple):
    """The narrow similarities, and the maxima of groups of their columns (``n x m / 64``) and rows (``n / 16 x m``)."""

    similarity: Tensor
    along_rows: Tensor
    down_columns: Tensor


def _product(factors: Sequence[tuple[Tensor, Tensor]]) -> _Product:
    """The product of ``n x d`` with ``d x m`` matrices; the similarities are overwritten by this thread's next call."""
    n, m = len(factors[0][0]), factors[0][1].shape[1]
    # New memory costs as much as the product itself: the system clears it page by page.
    kept = getattr(_scratch, "memory", None)
    if kept is None or len(kept) < (n + _BLOCK_ROWS) * m:
        kept = _scratch.memory = torch.empty((n + _BLOCK_ROWS) * m)
    similarity, spare = kept[: n * m].view(n, m), kept[n * m : (n + _BLOCK_ROWS) * m].view(_BLOCK_ROWS, m)
    along_rows, down_columns = torch.empty(n, m // _GROUP), torch.empty(n // _GROUP_ACROSS, m)
    for start in range(0, n, _BLOCK_ROWS):
        stop = min(n, start + _BLOCK_ROWS)
        block = similarity[start:stop]
        for index, (left, right) in enumerate(factors):
            target = spare[: stop - start] if index else block
            with _narrow_products():
                torch.mm(left[start:stop], right, out=target)
            if index:
                block.mul_(target)
        # While the block is in the cache.
        torch.amax(block.view(stop - start, -1, _GROUP), dim=2, out=along_rows[start:stop])
        groups = block.view(-1, _GROUP_ACROSS, m)
        torch.amax(groups, dim=1, out=down_columns[start // _GROUP_ACROSS : stop // _GROUP_ACROSS])
    return _Product(similarity, along_rows, down_columns)


def exact_similarities(factors: Sequence[Factor], rows: Tensor, columns: Tensor) -> Tensor:
    """Similarities of pairs, in float32."""
    result = torch.ones(len(rows))
    for factor in factors:
        result = result * (factor.rows[rows] * factor.columns[columns]).sum(dim=1)
    return result


def _padded(vectors: Tensor) -> Tensor:
    """To whole groups, by repeating the last: what is as near as it is it."""
    missing = -len(vectors) % _GROUP
    return vectors if missing == 0 else torch.cat((vectors, vectors[-1:].expand(missing, -1)))


class _Operand(NamedTuple):
    """A float32 matrix that bfloat16 holds exactly, and of each row the length kept and the length lost in rounding."""

    matrix: Tensor
    kept: Tensor
    lost: Tensor


def _narrow_operands(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Matrices whose product is nearly the similarity, and how nearly.

    a · b = (a - c) · (b - c) + a · c + (b - c) · c, whatever c is; the shorter a - c and b - c, the better. Where
    rounding takes e off a - c and f off b - c, and leaves a' of the first, it is off by at most |e| |b - c| + |a'| |f|.

    Returns:
        Both matrices, and for rows and then for columns: a bound on the size of a similarity, and on the error.
    """
    common = (rows[::_SAMPLED].mean(dim=0) + columns[::_SAMPLED].mean(dim=0)) / 2
    along0, offset = rows @ common, common.norm()
    columns_without = columns - common
    along1 = columns_without @ common
    left = _operand(rows - common, 0, along0)
    right = _operand(columns_without, 3, along1)
    reach0, reach1 = left.kept + left.lost + offset, right.kept + right.lost + offset
    # What sums in float32 lose, here and in the plain search.
    slack = 4 * (rows.shape[1] + 16) * 2.0**-24 * reach0.max() * reach1.max()
    error0 = left.lost * (right.kept + right.lost).max() + left.kept * right.lost.max() + slack
    error1 = right.lost * (left.kept + left.lost).max() + right.kept * left.lost.max() + slack
    return left.matrix, right.matrix, (reach0 * reach1.max(), error0, reach1 * reach0.max(), error1)


def _operand(vectors: Tensor, place: int, along: Tensor) -> _Operand:
    """The rounded vectors, and six more columns: in three of them ``along`` in parts, from ``place`` on, else ones."""
    count, dim = vectors.shape
    matrix = vectors.new_zeros((count, dim + 6 + -(dim + 6) % _COLUMNS))
    narrow = matrix[:, :dim]
    narrow.copy_(vectors.bfloat16())
    kept, lost = narrow.norm(dim=1), (vectors - narrow).norm(dim=1)
    matrix[:, dim : dim + 6] = 1
    for part in range(3):
        rounded = _rounded(along)
        matrix[:, dim + place + part] = rounded
        along = along - rounded
    return _Operand(matrix, kept, lost)


def _rounded(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def _of_product(factors: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """The largest error of a product, from the size and the error of each factor."""
    size = with_error = torch.ones(())
    for factor_size, error in factors:
        size, with_error = size * factor_size, with_error * (factor_size + error)
    # The difference loses what float32 cannot hold of the two.
    return (with_error - size) + 4 * 2.0**-24 * with_error


def _nearest(
    product: _Product, dim: int, error: Tensor, count: int, length: int, exact: Callable[[Tensor, Tensor], Tensor]
) -> Tensor | None:
    """Search along ``dim`` of the padded matrix for each of the first ``count`` entries of the other dimension.

    Maxima without their places are vectorised, so groups are searched first, and then those that may hold the best.

    Args:
        error: of each entry, how far its similarities may be off.
        length: of ``dim``, without padding.
        exact: similarities of pairs, of entries and of places along ``dim``.
    """
    rows, columns = product.similarity.shape
    size = _GROUP if dim == 1 else _GROUP_ACROSS
    if dim == 1:
        groups, maxima = product.similarity.view(rows, columns // size, size), product.along_rows
    else:
        groups = product.similarity.view(rows // size, size, columns).permute(2, 0, 1)
        maxima = product.down_columns.t().contiguous()
    least = maxima.amax(dim=1) - 2 * error
    entry, group = (maxima >= least[:, None])[:count].nonzero().unbind(1)
    if len(entry) > _MOST_CANDIDATES * count:
        return None
    which, inside = (groups[entry, group] >= least[entry, None]).nonzero().unbind(1)
    entry, place = entry[which], (group[which] * size + inside).clamp(max=length - 1)
    if len(entry) > _MOST_CANDIDATES * count:
        return None
    candidates = torch.bincount(entry, minlength=count)
    if int(candidates.min()) == 0:  # similarities that are no numbers
        return None
    nearest = torch.empty(count, dtype=torch.int64).index_copy(0, entry, place)
    doubtful = candidates[entry] > 1
    entry, place = entry[doubtful], place[doubtful]
    values = exact(entry, place)
    best = torch.full((count,), -torch.inf).scatter_reduce(0, entry, values, "amax")
    place = torch.where(values == best[entry], place, length)
    decided = torch.full((count,), length).scatter_reduce(0, entry, place, "amin")
    return torch.where(decided < length, decided, nearest)


@contextmanager
def _narrow_products() -> Iterator[None]:
    """Float32 products run in bfloat16 with float32 sums. The switch is the process's: it is held for one product."""
    backend: Any = torch.backends.mkldnn  # its stubs lack the switch
    setting = backend.matmul
    with _lock:
        before = setting.fp32_precision
        setting.fp32_precision = "bf16"
        try:
            yield
        finally:
            setting.fp32_precision = before
