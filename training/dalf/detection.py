"""Sampling keypoints from a heat map and rewarding those that are found again (REINFORCE)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.correspondence import PlanarCorrespondence

CELL = 8
BORDER_PX = 16
REWARD_PX = 1.5


class Sampled(NamedTuple):
    """Keypoints of one image: ``N x 2`` pixels (float), ``N`` log-probabilities with a graph."""

    keypoints: Tensor
    log_probability: Tensor


def sample_keypoints(logits: Tensor, generator: torch.Generator | None = None) -> list[Sampled]:
    """Draw at most one keypoint of each 8 x 8 cell: a place by the cell's softmax, kept by the sigmoid of its logit.

    Args:
        logits: ``B x H x W`` heat map.
        generator: of the draws, on the device of the logits; ``None`` for torch's own.
    """
    batch, height, width = logits.shape
    rows, columns = height // CELL, width // CELL
    if height <= 2 * BORDER_PX or width <= 2 * BORDER_PX:
        return [Sampled(logits.new_empty(0, 2), logits.new_empty(0)) for _ in range(batch)]
    cells = F.pixel_unshuffle(logits[:, None, : rows * CELL, : columns * CELL], CELL)  # B x 64 x rows x columns
    place = cells.permute(0, 2, 3, 1).reshape(-1, CELL**2)
    chosen = torch.multinomial(place.detach().softmax(dim=1), 1, generator=generator)
    logit = place.gather(1, chosen)[:, 0]
    accept = torch.rand(logit.shape, device=logits.device, generator=generator) < logit.detach().sigmoid()
    log_probability = place.log_softmax(dim=1).gather(1, chosen)[:, 0] + torch.where(
        accept, F.logsigmoid(logit), F.logsigmoid(-logit)
    )
    y, x = torch.meshgrid(
        torch.arange(rows, device=logits.device), torch.arange(columns, device=logits.device), indexing="ij"
    )
    corner = torch.stack([x, y], dim=-1).view(1, -1, 2).expand(batch, -1, -1).reshape(-1, 2) * CELL
    keypoints = (corner + torch.stack([chosen[:, 0] % CELL, chosen[:, 0] // CELL], dim=1)).float()
    limit = keypoints.new_tensor([width - BORDER_PX, height - BORDER_PX])
    kept = (accept & ((keypoints >= BORDER_PX) & (keypoints < limit)).all(dim=1)).view(batch, -1)
    keypoints, log_probability = keypoints.view(batch, -1, 2), log_probability.view(batch, -1)
    return [Sampled(keypoints[i][kept[i]], log_probability[i][kept[i]]) for i in range(batch)]


class Found(NamedTuple):
    """Keypoints of two views that are one place.

    Attributes:
        index0, index1: ``P`` int64.
    """

    index0: Tensor
    index1: Tensor


def found_again(keypoints0: Tensor, keypoints1: Tensor, truth: PlanarCorrespondence) -> Found:
    """Find mutual nearest keypoints of two views, within 1.5 px of each other in view 0.

    Args:
        keypoints0, keypoints1: ``N x 2`` and ``M x 2``.
        truth: of this one pair.
    """
    if not len(keypoints0) or not len(keypoints1):
        nothing = torch.empty(0, dtype=torch.long, device=keypoints0.device)
        return Found(nothing, nothing)
    warped = truth.back(keypoints1[None])
    distance = torch.cdist(keypoints0, warped.keypoints[0]).masked_fill(~warped.valid[0], torch.inf)
    nearest, index1 = distance.min(dim=1)
    index0 = torch.arange(len(keypoints0), device=keypoints0.device)
    mutual = distance.argmin(dim=0)[index1] == index0
    kept = mutual & (nearest < REWARD_PX)
    return Found(index0[kept], index1[kept])


def detection_loss(
    sampled0: Sampled, sampled1: Sampled, found: Found, keypoint_penalty: float, wrong: Tensor, wrong_penalty: float
) -> Tensor:
    """Return minus the expected reward of one pair, for gradient descent.

    Every pair of keypoints has a log-probability, the sum of its two; those found again are rewarded with 1, those of
    keypoints whose descriptors mismatch are charged ``wrong_penalty``. Each keypoint is charged ``keypoint_penalty``.

    Args:
        wrong: ``W`` int64 keypoints of view 0 with a mismatch.
    """
    log0, log1 = sampled0.log_probability, sampled1.log_probability
    if not len(log0) or not len(log1):
        return (log0.sum() + log1.sum()) * 0.0
    rewards = log0.new_zeros(len(log0), len(log1))
    rewards[found.index0, found.index1] = 1.0
    if wrong_penalty:
        rewards[wrong] = wrong_penalty
    expected = (rewards * (log0[:, None] + log1)).mean()
    return -(expected + keypoint_penalty * (log0.mean() + log1.mean()))
