# mypy: disable-error-code=no-untyped-def
"""Nearest neighbours in both directions by the product of similarities, in one Triton kernel.

Each program multiplies a block of rows with all columns, block by block, and keeps the best of its rows; the best of
the columns is found by atomic maxima over programs. The similarities are never written: memory is N + M numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_LOW_BITS = (1 << 32) - 1
_BLOCK_ROWS, _BLOCK_COLUMNS, _BLOCK_DIM = 64, 64, 32


class Best(NamedTuple):
    """Of each row or column: the largest similarity, and where it is."""

    value: Tensor
    position: Tensor


@triton.jit
def _products(
    left,
    right,
    rows,
    columns,
    n,
    m,
    dim,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    """Similarities of a block of rows and a block of columns, both row-major with ``dim`` numbers a row."""
    result = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    for start in range(0, dim, BLOCK_DIM):
        k = start + tl.arange(0, BLOCK_DIM)
        inside = k < dim
        a = tl.load(left + rows[:, None] * dim + k[None, :], mask=(rows < n)[:, None] & inside[None, :], other=0.0)
        b = tl.load(
            right + columns[None, :] * dim + k[:, None], mask=(columns < m)[None, :] & inside[:, None], other=0.0
        )
        # "ieee": tensor cores would round float32 to 10 bits.
        result += tl.dot(a, b, input_precision="ieee")
    return result


@triton.jit
def _keys(similarity, index):
    """Whole numbers that sort by similarity, then by lowest index."""
    bits = similarity.to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) | (4294967295 - index.to(tl.int64))


@triton.jit
def _search(
    left,
    right,
    left_second,
    right_second,
    valid_rows,
    valid_columns,
    row_keys,
    column_keys,
    n,
    m,
    dim,
    dim_second,
    TWO: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_valid = (tl.load(valid_rows + batch * n + rows, mask=rows < n, other=0) != 0) & (rows < n)
    best = tl.full((BLOCK_ROWS,), -9223372036854775808, tl.int64)
    for start in range(0, m, BLOCK_COLUMNS):
        columns = start + tl.arange(0, BLOCK_COLUMNS)
        similarity = _products(
            left + batch * n * dim, right + batch * m * dim, rows, columns, n, m, dim,
            BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_DIM,
        )  # fmt: skip
        if TWO:
            similarity *= _products(
                left_second + batch * n * dim_second, right_second + batch * m * dim_second, rows, columns, n, m,
                dim_second, BLOCK_ROWS, BLOCK_COLUMNS, BLOCK_DIM,
            )  # fmt: skip
        column_valid = (tl.load(valid_columns + batch * m + columns, mask=columns < m, other=0) != 0) & (columns < m)
        similarity = tl.where(row_valid[:, None] & column_valid[None, :], similarity + 0.0, float("-inf"))
        wide = tl.broadcast_to(columns[None, :], (BLOCK_ROWS, BLOCK_COLUMNS))
        best = tl.maximum(best, tl.max(_keys(similarity, wide), axis=1))
        tall = tl.broadcast_to(rows[:, None], (BLOCK_ROWS, BLOCK_COLUMNS))
        column_best = tl.max(_keys(similarity, tall), axis=0)
        tl.atomic_max(column_keys + batch * m + columns, column_best, mask=columns < m)
    tl.store(row_keys + batch * n + rows, best, mask=rows < n)


def fused_search(
    factors: list[tuple[Tensor, Tensor]], valid0: Tensor | None = None, valid1: Tensor | None = None
) -> tuple[Best, Best]:
    """The best of each row and of each column by the product of one or two similarities.

    Ties go to the lowest index. What has no valid partner, and what is not valid, gets minus infinity.

    Args:
        factors: one or two of ``B x N x D`` and ``B x M x D`` float32, contiguous, N and M from 1 up.
        valid0, valid1: ``B x N`` and ``B x M`` bool, or ``None`` for all.

    Returns:
        Of rows, ``B x N``, and of columns, ``B x M``: float32 values and int64 positions.
    """
    (left, right), *others = factors
    left_second, right_second = others[0] if others else (left, right)
    batch, n, m = left.shape[0], left.shape[1], right.shape[1]
    device = left.device
    valid0 = torch.ones(batch, n, dtype=torch.bool, device=device) if valid0 is None else valid0
    valid1 = torch.ones(batch, m, dtype=torch.bool, device=device) if valid1 is None else valid1
    row_keys = torch.empty((batch, n), dtype=torch.int64, device=device)
    column_keys = torch.full((batch, m), torch.iinfo(torch.int64).min, device=device)
    _search[(triton.cdiv(n, _BLOCK_ROWS), batch)](
        left.contiguous(),
        right.contiguous(),
        left_second.contiguous(),
        right_second.contiguous(),
        valid0.to(torch.int8).contiguous(),
        valid1.to(torch.int8).contiguous(),
        row_keys,
        column_keys,
        n,
        m,
        left.shape[2],
        left_second.shape[2],
        TWO=bool(others),
        BLOCK_ROWS=_BLOCK_ROWS,
        BLOCK_COLUMNS=_BLOCK_COLUMNS,
        BLOCK_DIM=_BLOCK_DIM,
    )
    return _decoded(row_keys), _decoded(column_keys)


def _decoded(keys: Tensor) -> Best:
    ordered = (keys >> 32).to(torch.int32)
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    return Best(bits.view(torch.float32), _LOW_BITS - (keys & _LOW_BITS))
