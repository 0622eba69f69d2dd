"""Differentiable keypoint detection (Zhao et al., ALIKE, IEEE T-MM 2022; arXiv 2112.02906), shared by ALIKE and ALIKED.

Selection and refinement are batched, and look at windows round the keypoints only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.constants import constant
from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.pyramid import corner_grid
from semantic_matcher_core.extractors.selection import Selection, best_candidates, iterative_maxima, zero_padding

_TEMPERATURE = 0.1


def detect_keypoints(
    score_map: Tensor,
    limits: Limits,
    *,
    radius: int,
    suppression_radius: int,
    margins: tuple[int, int],
    masks: Tensor | None = None,
    iterations: int = 2,
) -> Selection:
    """Return the best local maxima of each score map, moved to the soft argmax of their window.

    Which maxima are kept is decided by the map's values at whole pixels; the scores given are those at the refined
    places, and rows are sorted by them. Keypoints are float32, and in rows of padding zero.

    Args:
        score_map: ``B x H x W`` float32 in [0, 1].
        limits: which keypoints are kept.
        radius: of the window of the soft argmax; at most the smaller margin.
        suppression_radius: of non-maximum suppression.
        margins: pixels left out at the left and top, and at the right and bottom.
        masks: see ``selection.best_candidates``.
        iterations: of non-maximum suppression, see ``selection.iterative_maxima``.
    """
    near, far = margins
    height, width = score_map.shape[-2:]
    candidates = iterative_maxima(score_map, suppression_radius, iterations) & (score_map > limits.threshold)
    inside = torch.zeros_like(candidates)
    inside[:, near : max(near, height - far), near : max(near, width - far)] = True
    selection = best_candidates(
        score_map, candidates & inside, limits.max_keypoints, masks=masks, fixed_size=limits.fixed_size
    )
    keypoints = soft_argmax(score_map, selection.keypoints, radius)
    scores = _read(score_map, keypoints)
    valid = selection.valid
    ranked = scores if valid is None else torch.where(valid, scores, -1)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    keypoints = keypoints.gather(1, order[..., None].expand(-1, -1, 2))
    # Padding rows were last and stay last, so `valid` needs no sorting.
    return Selection(zero_padding(keypoints, valid), zero_padding(scores.gather(1, order), valid), valid)


def soft_argmax(score_map: Tensor, keypoints: Tensor, radius: int) -> Tensor:
    """Return keypoints at the softmax-weighted mean of their window (temperature 0.1).

    Args:
        score_map: ``B x H x W`` float32.
        keypoints: ``B x N x 2`` int64 (x, y), at least ``radius`` pixels from the border (or rows to be ignored).
        radius: of the ``(2 radius + 1)²`` window.

    Returns:
        ``B x N x 2`` float32 (x, y).
    """
    weights = (windows_at(score_map, keypoints, radius) / _TEMPERATURE).softmax(dim=-1)
    return keypoints + weights @ _window(radius, keypoints).to(score_map.dtype)


def windows_at(score_map: Tensor, keypoints: Tensor, radius: int) -> Tensor:
    """Return ``B x N x (2 radius + 1)²`` values of ``B x H x W`` maps round ``B x N x 2`` int64 (x, y) pixels, row by
    row; beyond the border it counts.
    """
    height, width = score_map.shape[-2:]
    steps = constant(tuple(range(-radius, radius + 1)), keypoints)
    # Padding rows stand at (0, 0); what they read does not matter, where they read must exist.
    x, y = (keypoints[:, :, i, None] + steps for i in (0, 1))
    index = y.clamp_(0, height - 1)[..., None] * width + x.clamp_(0, width - 1)[:, :, None]
    return score_map.flatten(1).gather(1, index.flatten(1)).unflatten(1, (keypoints.shape[1], len(steps) ** 2))


def _window(radius: int, like: Tensor) -> Tensor:
    steps = range(-radius, radius + 1)
    return constant(tuple(v for y in steps for x in steps for v in (x, y)), like).view(-1, 2)  # K x 2 (x, y)


def _read(score_map: Tensor, keypoints: Tensor) -> Tensor:
    height, width = score_map.shape[-2:]
    grid = corner_grid(keypoints, height, width)[:, :, None]
    return F.grid_sample(score_map[:, None], grid, mode="bilinear", align_corners=True)[:, 0, :, 0]
