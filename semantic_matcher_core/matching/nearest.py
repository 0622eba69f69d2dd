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
_GROUP = 32
# Of a similarity: what the order of its sum makes of it.
_ROUNDING = 1e-6


class DenseMatches(NamedTuple):
    """Matches of each of N rows with M others, in a batch of B.

    Attributes:
        matches0: ``B x N`` int64, the row of side 1 that each row of side 0 matches, -1 for none.
        similarity0: ``B x N`` float32, similarity of the match, 0 where there is none.
    """

    matches0: Tensor
    similarity0: Tensor


class Best(NamedTuple):
    """Of each row: the largest similarity, where it is, and (where asked for) the second largest."""

    value: Tensor
    position: Tensor
    second: Tensor | None


def match_similarities(
    similarity: Similarity, config: MatcherConfig, valid0: Tensor | None = None, valid1: Tensor | None = None
) -> DenseMatches:
    """Find nearest neighbours that pass the tests of ``config``.

    Args:
        similarity: of B x N rows to M rows.
        config: mutual check, ratio test, limits.
        valid0, valid1: ``B x N`` and ``B x M`` bool, false for padding; padding neither matches nor is matched.
    """
    if 0 in similarity.shape:
        matches = torch.full(similarity.shape[:2], -1, device=similarity.device)
        return DenseMatches(matches, torch.zeros_like(matches, dtype=torch.float32))
    return matched(*scan(similarity, valid0, valid1, config.ratio is not None, config.mutual), config)


def matched(best0: Best, best1: Best | None, config: MatcherConfig) -> DenseMatches:
    """Return matches that pass the tests of ``config``, of the best of each row and (for a mutual check) column."""
    matches = _accepted(best0, config)
    if best1 is not None:
        rows = torch.arange(matches.shape[1], device=matches.device)
        returned = _accepted(best1, config).gather(1, matches.clamp(min=0))
        matches = torch.where((matches >= 0) & (returned == rows), matches, constant((-1,), matches))
    return DenseMatches(matches, torch.where(matches >= 0, best0.value, constant((0,), best0.value)))


def scan(
    similarity: Similarity,
    valid0: Tensor | None,
    valid1: Tensor | None,
    second: bool,
    columns: bool,
    kept: Tensor | None = None,
) -> tuple[Best, Best | None]:
    """Find the best of each row, and of each column if asked for, with the second best if that is.

    Args:
        similarity, valid0, valid1: see :func:`match_similarities`.
        second, columns: what else is asked for.
        kept: ``B x N x M``, where all similarities are once they were asked for, if they are kept.
    """
    batch, n, m = similarity.shape
    row_parts: list[Best] = []
    column_best: Best | None = None
    column_maxima: list[Tensor] = []
    step = _suitable_block(similarity.device, batch, m)
    for start in range(0, n, step):
        stop = min(n, start + step)
        block = similarity.rows(start, stop)
        marks = [] if valid0 is None else [valid0[:, start:stop, None]]
        marks += [] if valid1 is None else [valid1[:, None, :]]
        if marks:
            block = torch.where(functools.reduce(torch.logical_and, marks), block, constant((-torch.inf,), block))
        row_parts.append(_best(block, 2, second))
        if columns and kept is not None and not second and _is_grouped(block):
            column_maxima.append(_groups(block, 1).amax(dim=2))
        elif columns:
            part = _best(block, 1, second)
            part = part._replace(position=part.position + start)
            column_best = part if column_best is None else _merged(column_best, part)
    if kept is not None and column_maxima:
        column_best = _best_of_groups(kept, torch.cat(column_maxima, dim=1))
    return _concatenated(row_parts), column_best


def _suitable_block(device: torch.device, batch: int, columns: int) -> int:
    elements = _BLOCK_ELEMENTS.get(device.type, _BLOCK_ELEMENTS_ELSEWHERE)
    return max(_GROUP, elements // (batch * columns) // _GROUP * _GROUP)


def _best(block: Tensor, dim: int, second: bool) -> Best:
    """Return the best of each row (``dim`` 2) or column (1) of ``B x N x M``.

    On the CPU torch's maxima with their indices are not vectorised. Those without are, and numpy's along the last
    dimension: so for columns the maxima of groups are found first, and an index is looked for in the best group alone.
    """
    count = block.shape[dim]
    # A row that is no whole number of groups would have to be copied.
    if not _is_grouped(block) or count <= _GROUP or (dim == 2 and second and count % _GROUP):
        value, index = block.max(dim=dim)
        return Best(value, index, _second(block, index, dim) if second else None)
    if dim == 2 and not second:
        index = _first_largest(block)
        return Best(block.gather(2, index[..., None])[..., 0], index, None)
    groups = _groups(block, dim)
    maxima = groups.amax(dim=dim + 1)
    group = _first_largest(maxima if dim == 2 else maxima.transpose(1, 2))
    where = group.unsqueeze(dim).unsqueeze(dim)
    winning = groups.gather(dim, where.expand_as(groups.narrow(dim, 0, 1))).squeeze(dim)
    value, inside = winning.max(dim=dim)
    runner_up = torch.maximum(_second(maxima, group, dim), _second(winning, inside, dim)) if second else None
    return Best(value, group * _GROUP + inside, runner_up)


def _best_of_groups(kept: Tensor, maxima: Tensor) -> Best:
    """Return the best of each column of ``B x N x M``, of groups of whose rows the ``B x G x M`` maxima are known."""
    group = _first_largest(maxima.transpose(1, 2))[:, None]
    rows = group * _GROUP + torch.arange(_GROUP, device=group.device)[:, None]
    # The last group may be a smaller one: its last row again is not the first of equals.
    rows = rows.clamp_(max=kept.shape[1] - 1)
    inside = _first_largest(kept.gather(1, rows).transpose(1, 2))[:, None]
    return Best(maxima.gather(1, group)[:, 0], rows.gather(1, inside)[:, 0], None)


def _is_grouped(block: Tensor) -> bool:
    return block.device.type == "cpu" and is_enabled("grouped_maxima")


def _groups(block: Tensor, dim: int) -> Tensor:
    """Return ``block`` with ``dim`` in groups, two dimensions; columns filled up with minus infinity."""
    missing = -block.shape[dim] % _GROUP
    return (F.pad(block, (0, 0, 0, missing), value=-torch.inf) if missing else block).unflatten(dim, (-1, _GROUP))


def _first_largest(values: Tensor) -> Tensor:
    """Return where along the last dimension the largest is, the first of equals; on a CPU."""
    return torch.from_numpy(values.detach().contiguous().numpy().argmax(axis=-1))


def _second(block: Tensor, best: Tensor, dim: int) -> Tensor:
    """Return largest value along ``dim`` beside the one at ``best``; minus infinity where there is no other."""
    return block.scatter(dim, best.unsqueeze(dim), -torch.inf).amax(dim)


def _merged(first: Best, later: Best) -> Best:
    """Return the best of two blocks, the first of which has the lower indices."""
    replace = later.value > first.value
    second = None
    if first.second is not None and later.second is not None:
        loser = torch.minimum(first.value, later.value)
        second = torch.maximum(loser, torch.maximum(first.second, later.second))
    return Best(
        torch.where(replace, later.value, first.value), torch.where(replace, later.position, first.position), second
    )


def _concatenated(parts: list[Best]) -> Best:
    if len(parts) == 1:
        return parts[0]
    seconds = [p.second for p in parts if p.second is not None]
    return Best(
        torch.cat([p.value for p in parts], dim=1),
        torch.cat([p.position for p in parts], dim=1),
        torch.cat(seconds, dim=1) if seconds else None,
    )


def _accepted(best: Best, config: MatcherConfig) -> Tensor:
    """Return indices of the nearest neighbours, -1 where a test fails."""
    keep = (best.value > -torch.inf) & within_limits(best.value, config)
    if best.second is not None and config.ratio is not None:
        # Of two that are as near as rounding lets tell, at no distance at all, neither is the nearest.
        keep &= 1 - best.value + _ROUNDING <= config.ratio**2 * (1 - best.second + _ROUNDING)
    return torch.where(keep, best.position, constant((-1,), best.position))


def within_limits(similarity: Tensor, config: MatcherConfig) -> Tensor:
    """Return which similarities are within ``max_distance`` and ``min_similarity``, as bool."""
    keep = torch.ones_like(similarity, dtype=torch.bool)
    if config.max_distance is not None:
        keep &= 2 * (1 - similarity) <= config.max_distance**2
    if config.min_similarity is not None:
        keep &= similarity >= config.min_similarity
    return keep
