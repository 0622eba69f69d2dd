"""How well a matcher does on pairs with known correspondence."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.projection import Warped
from training.reasoner.supervision import CORRECT_PX, Positives


class MatchCounts(NamedTuple):
    """Sums over a batch, ``float64`` so that they can be summed on: pairs, matches, those whose truth is known, those
    that are correct, and true matches that could have been found."""

    pairs: Tensor
    matches: Tensor
    known: Tensor
    correct: Tensor
    possible: Tensor


def count_matches(matches0: Tensor, warped: Warped, keypoints1: Tensor, positives: Positives) -> MatchCounts:
    """Judge mutual matches by where their first keypoint truly is.

    Args:
        matches0: ``B x N`` int64, the match of each keypoint of view 0 in view 1, -1 for none.
        warped: keypoints of view 0 in view 1.
        keypoints1: ``B x M x 2``.
        positives: the true matches.
    """
    matched = matches0 >= 0
    known = matched & warped.valid
    correct = known & (match_errors(matches0, warped, keypoints1) <= CORRECT_PX)
    sums = (len(matches0), matched.sum(), known.sum(), correct.sum(), len(positives.pair))
    return MatchCounts(*(torch.as_tensor(s, dtype=torch.float64, device=matches0.device) for s in sums))


def match_errors(matches0: Tensor, warped: Warped, keypoints1: Tensor) -> Tensor:
    """Return ``B x N`` pixels between where a keypoint truly is and its match; meaningless without one."""
    if keypoints1.shape[1] == 0:
        return torch.full(matches0.shape, torch.inf, device=matches0.device)
    found = keypoints1.gather(1, matches0.clamp(min=0)[..., None].expand(-1, -1, 2))
    return (found - warped.keypoints).norm(dim=-1)


def figures(counts: Tensor) -> dict[str, float]:
    """Compute figures of merit from the summed :class:`MatchCounts`.

    Returns:
        ``precision``: correct matches among those whose truth is known; ``recall``: among the true ones; ``correct``
        and ``matches``: for a pair. Shares of nothing are 0.
    """
    pairs, matches, known, correct, possible = counts.tolist()
    return {
        "precision": correct / known if known else 0.0,
        "recall": correct / possible if possible else 0.0,
        "correct": correct / pairs if pairs else 0.0,
        "matches": matches / pairs if pairs else 0.0,
    }
