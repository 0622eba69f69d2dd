"""Nearest neighbours in both directions from one pass over the similarities.

Ties go to the lowest index. Matches of a side are given densely, one entry per row, -1 for none.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.constants import constant
from semantic_matcher_core.matching.similarity import Similarity
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.settings import MatcherConfig

# Similarities held at a time. On the CPU a block should stay in the second-level cache while it is scanned.
_BLOCK_ELEMENTS = {"cpu": 1 << 20}
_BLOCK_ELEMENTS_ELSEWHERE = 1 << 26
_GROUP = 64


class DenseMatches(NamedTuple):
    """Matches between two sides of N and M rows, in a batch of B.

    Attributes:
        matches0: ``B x N`` int64, the row of side 1 that each row of side 0 matches, -1 for none.
        matches1: ``B x M`` int64, likewise from side 1, or ``None`` where it was not asked for.
        similarity0: ``B x N`` float32, similarity of the match, 0 where there is none.
        similarity1: ``B x M`` float32, or ``None`` with ``matches1``.
    """

    matches0: Tensor
    matches1: Tensor | None
    similarity0: Tensor
    similarity1: Tensor | None


class _Best(NamedTuple):
    """Of each row: the largest similarity, where it is, and (where asked for) the second largest."""

    value: Tensor
    position: Tensor
    second: Tensor | None


def match_similarities(
    similarity: Similarity,
    config: MatcherConfig,
    valid0: Tensor | None = None,
    valid1: Tensor | None = None,
    *,
    both_sides: bool = True,
    block_rows: int | None = None,
) -> DenseMatches:
    """Nearest neighbours that pass the tests of ``config``.

    Args:
        similarity: of B x N rows to M rows.
        config: mutual check, ratio test, limits.
        valid0, valid1: ``B x N`` and ``B x M`` bool, false for padding; padding neither matches nor is matched.
        both_sides: also give ``matches1`` when ``config.mutual`` is off (with it, it comes at no cost).
        block_rows: rows of similarities computed at a time; by default, what suits the device.
    """
    batch, n, m = similarity.shape
    device = similarity.device
    if n == 0 or m == 0:
        return DenseMatches(
            torch.full((batch, n), -1, device=device),
            torch.full((batch, m), -1, device=device) if both_sides else None,
            torch.zeros((batch, n), dtype=torch.float32, device=device),
            torch.zeros((batch, m), dtype=torch.float32, device=device) if both_sides else None,
        )
    two_ways = config.mutual or both_sides
    best0, best1 = _scan(similarity, valid0, valid1, config.ratio is not None, two_ways, block_rows)
    matches0 = _accepted(best0, config)
    matches1 = None if best1 is None else _accepted(best1, config)
    if config.mutual and matches1 is not None:
        back = matches1
        matches1 = _mutual(back, matches0) if both_sides else None
        matches0 = _mutual(matches0, back)
    return DenseMatches(
        matches0,
        matches1 if both_sides else None,
        torch.where(matches0 >= 0, best0.value, constant((0,), best0.value)),
        best1.value.masked_fill(matches1 < 0, 0) if both_sides and best1 is not None and matches1 is not None else None,
    )


def _scan(
    similarity: Similarity,
    valid0: Tensor | None,
    valid1: Tensor | None,
    second: bool,
    columns: bool,
    block_rows: int | None,
) -> tuple[_Best, _Best | None]:
    batch, n, m = similarity.shape
    row_parts: list[_Best] = []
    column_best: _Best | None = None
    step = block_rows or _suitable_block(similarity.device, batch, m)
    grouped = similarity.device.type == "cpu" and is_enabled("grouped_maxima")
    for start in range(0, n, step):
        stop = min(n, start + step)
        block = similarity.rows(start, stop)
        marks = [] if valid0 is None else [valid0[:, start:stop, None]]
        marks += [] if valid1 is None else [valid1[:, None, :]]
        if marks:
            block = torch.where(functools.reduce(torch.logical_and, marks), block, constant((-torch.inf,), block))
        row_parts.append(_row_best(block, second, grouped))
        if columns:
            part = _column_best(block, second, grouped)
            part = part._replace(position=part.position + start)
            column_best = part if column_best is None else _merged(column_best, part)
    return _concatenated(row_parts), column_best


def _suitable_block(device: torch.device, batch: int, columns: int) -> int:
    elements = _BLOCK_ELEMENTS.get(device.type, _BLOCK_ELEMENTS_ELSEWHERE)
    return max(_GROUP, elements // (batch * columns) // _GROUP * _GROUP)


def _row_best(block: Tensor, second: bool, grouped: bool) -> _Best:
    """Return the best of each row.

    On the CPU maxima with their indices are not vectorised and those without are: see :func:`_column_best`.
    """
    columns = block.shape[2]
    if not grouped or columns % _GROUP or columns == _GROUP or not block.is_contiguous():
        value, index = block.max(dim=2)
        return _Best(value, index, _second(block, index, 2) if second else None)
    groups = block.unflatten(2, (-1, _GROUP))
    maxima = groups.amax(dim=3)
    group = maxima.argmax(dim=2)
    winning = groups.gather(2, group[..., None, None].expand(-1, -1, 1, _GROUP))[:, :, 0]
    value, inside = winning.max(dim=2)
    runner_up = None
    if second:
        runner_up = torch.maximum(_second(maxima, group, 2), _second(winning, inside, 2))
    return _Best(value, group * _GROUP + inside, runner_up)


def _column_best(block: Tensor, second: bool, grouped: bool) -> _Best:
    """Find what :func:`_row_best` finds in the transposed block, without transposing it.

    On the CPU a reduction with indices over the slow dimension is not vectorised, while one without indices is: so
    the maxima of groups of rows are found first, and an index is looked for in the winning group only.
    """
    batch, rows, columns = block.shape
    if not grouped or rows <= _GROUP:
        value, index = block.max(dim=1)
        return _Best(value, index, _second(block, index, 1) if second else None)
    missing = -rows % _GROUP
    if missing:
        block = F.pad(block, (0, 0, 0, missing), value=-torch.inf)
    groups = block.view(batch, -1, _GROUP, columns)
    maxima = groups.amax(dim=2)
    group = maxima.argmax(dim=1)
    winning = groups.gather(1, group[:, None, None, :].expand(-1, 1, _GROUP, -1))[:, 0]
    value, inside = winning.max(dim=1)
    runner_up = None
    if second:
        runner_up = torch.maximum(_second(maxima, group, 1), _second(winning, inside, 1))
    return _Best(value, group * _GROUP + inside, runner_up)


def _second(block: Tensor, best: Tensor, dim: int) -> Tensor:
    """Return largest value along ``dim`` beside the one at ``best``; minus infinity where there is no other."""
    return block.scatter(dim, best.unsqueeze(dim), -torch.inf).amax(dim)


def _merged(first: _Best, later: _Best) -> _Best:
    """Best of two blocks, the first of which has the lower indices."""
    replace = later.value > first.value
    second = None
    if first.second is not None and later.second is not None:
        loser = torch.minimum(first.value, later.value)
        second = torch.maximum(loser, torch.maximum(first.second, later.second))
    return _Best(
        torch.where(replace, later.value, first.value), torch.where(replace, later.position, first.position), second
    )


def _concatenated(parts: list[_Best]) -> _Best:
    if len(parts) == 1:
        return parts[0]
    seconds = [p.second for p in parts if p.second is not None]
    return _Best(
        torch.cat([p.value for p in parts], dim=1),
        torch.cat([p.position for p in parts], dim=1),
        torch.cat(seconds, dim=1) if seconds else None,
    )


def _accepted(best: _Best, config: MatcherConfig) -> Tensor:
    """Return indices of the nearest neighbours, -1 where a test fails."""
    keep = best.value > -torch.inf
    if best.second is not None and config.ratio is not None:
        keep &= 1 - best.value <= config.ratio**2 * (1 - best.second)
    if config.max_distance is not None:
        keep &= 2 * (1 - best.value) <= config.max_distance**2
    if config.min_similarity is not None:
        keep &= best.value >= config.min_similarity
    return torch.where(keep, best.position, constant((-1,), best.position))


def _mutual(matches: Tensor, back: Tensor) -> Tensor:
    """Return ``matches`` without those whose partner, by ``back``, does not match them in return."""
    rows = torch.arange(matches.shape[1], device=matches.device)
    returned = back.gather(1, matches.clamp(min=0))
    return torch.where((matches >= 0) & (returned == rows), matches, constant((-1,), matches))
