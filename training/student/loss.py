"""What the student learns from: the teacher in the same view, the other view, and the teacher across both."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.compact_network import CompactNetwork
from semantic_matcher_core.extractors.dkd import soft_argmax
from training.student.config import LossConfig
from training.student.pool import Pairs

_SIGMA_PX, _RADIUS = 0.8, 2
# Keypoints this near to a point's true place are no wrong answer.
_NEAR_PX = 6.0


class Losses(NamedTuple):
    """Scalars, as in ``LossConfig``; ``right`` is the share of points whose best answer is the right one."""

    cosine: Tensor
    contrast: Tensor
    pair: Tensor
    across: Tensor
    detection: Tensor
    place: Tensor
    right: Tensor

    def total(self, config: LossConfig) -> Tensor:
        """Return the weighted sum."""
        return (
            config.cosine * self.cosine
            + config.contrast * self.contrast
            + config.pair * self.pair
            + config.across * self.across
            + config.detection * self.detection
            + config.place * self.place
        )


def losses(network: CompactNetwork, maps: tuple[Tensor, Tensor, Tensor], pairs: Pairs, config: LossConfig) -> Losses:
    """Return all losses of a batch of B pairs.

    Args:
        network: describes keypoints.
        maps: its outputs for the ``2 B`` views, both of a pair one after the other.
        pairs: the teacher's view of them.
        config: the temperature.
    """
    fine, coarse, logits = (part.float() for part in maps)
    count, _, number = pairs.real.shape
    keypoints, points = pairs.keypoints.flatten(0, 1), pairs.points.flatten(0, 1)
    described = network.describe(fine, coarse, torch.cat((keypoints, points), dim=1)).float()
    ours, at_points = described[:, :number], described[:, number:]
    # Zeros in the places that shorter descriptors lack leave all their similarities as they are.
    missing = ours.shape[-1] - pairs.descriptors.shape[-1]
    teacher, real = F.pad(pairs.descriptors.flatten(0, 1).float(), (0, missing)), pairs.real.flatten(0, 1)
    taught = real & pairs.trusted.flatten()[:, None]
    total = taught.sum().clamp(min=1)
    cosine = ((1 - (ours * teacher).sum(dim=-1)) * taught).sum() / total

    hidden = ~real[:, None]
    among = (ours @ teacher.mT / config.temperature).masked_fill(hidden, -torch.inf)
    own = among.diagonal(dim1=1, dim2=2)
    contrast = ((among.logsumexp(dim=2) - own).masked_fill(~taught, 0)).sum() / total

    first, second = at_points.unflatten(0, (count, 2)).unbind(1)
    ours0, ours1 = ours.unflatten(0, (count, 2)).unbind(1)
    there, right0 = _choice(first, second, ours1, pairs, 1, config.temperature)
    back, right1 = _choice(second, first, ours0, pairs, 0, config.temperature)
    known = pairs.known
    points_total = known.sum().clamp(min=1)
    pair = ((there + back).masked_fill(~known, 0)).sum() / (2 * points_total)
    right = (((right0.float() + right1.float()) / 2) * known).sum() / points_total

    teacher0, teacher1 = teacher.unflatten(0, (count, 2)).unbind(1)
    seen = pairs.real[:, 0] & pairs.trusted.all(dim=1, keepdim=True)
    across = _across(ours0, ours1, teacher0, teacher1, seen, pairs.real[:, 1], config.temperature)
    detection = detection_loss(logits[:, 0], keypoints, real, pairs.worth.flatten(0, 1).float())
    return Losses(cosine, contrast, pair, across, detection, place_loss(logits[:, 0], keypoints, real), right)


def _choice(
    wanted: Tensor, same: Tensor, others: Tensor, pairs: Pairs, side: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return ``B x C`` surprise at the right answer among the points of the other view and its keypoints, and
    whether the right one is the most similar.
    """
    known = pairs.known
    near = torch.cdist(pairs.points[:, side], pairs.keypoints[:, side]) < _NEAR_PX
    among_keypoints = (wanted @ others.mT).masked_fill(near | ~pairs.real[:, side][:, None], -torch.inf)
    among_points = wanted @ same.mT
    eye = torch.eye(known.shape[1], dtype=torch.bool, device=known.device)
    close = (torch.cdist(pairs.points[:, side], pairs.points[:, side]) < _NEAR_PX) & ~eye
    among_points = among_points.masked_fill(close | ~known[:, None] & ~eye, -torch.inf)
    own = among_points.diagonal(dim1=1, dim2=2)
    every = torch.cat((among_points, among_keypoints), dim=2)
    return (every / temperature).logsumexp(dim=2) - own / temperature, own >= every.amax(dim=2)


def _across(
    ours0: Tensor, ours1: Tensor, teacher0: Tensor, teacher1: Tensor, real0: Tensor, real1: Tensor, temperature: float
) -> Tensor:
    """Return how far our similarities between the views, as a choice of each keypoint's partner, are from the
    teacher's.
    """
    wanted = (teacher0 @ teacher1.mT / temperature).masked_fill(~real1[:, None], -1e4)
    given = (ours0 @ ours1.mT / temperature).masked_fill(~real1[:, None], -1e4)
    divergence = F.kl_div(given.log_softmax(dim=2), wanted.log_softmax(dim=2), log_target=True, reduction="none")
    return (divergence.sum(dim=2) * real0).sum() / real0.sum().clamp(min=1)


def detection_loss(logits: Tensor, keypoints: Tensor, real: Tensor, worth: Tensor | None = None) -> Tensor:
    """Compute the quality focal loss (Li et al., NeurIPS 2020, arXiv 2006.04388) of the scores, per keypoint.

    A keypoint's target is a small Gaussian about its sub-pixel place.

    Args:
        logits: ``B x S x S`` of the scores.
        keypoints: ``B x K x 2`` the teacher's.
        real: ``B x K`` bool.
        worth: ``B x K`` height of each Gaussian, 0 … 1; ``None``: 1.
    """
    count, height, width = logits.shape
    steps = torch.arange(-_RADIUS, _RADIUS + 1, device=logits.device)
    offsets = torch.cartesian_prod(steps, steps)
    pixels = keypoints.round()[:, :, None] + offsets
    distance = (pixels - keypoints[:, :, None]).square().sum(dim=-1)
    x, y = pixels.unbind(-1)
    usable = real[..., None] & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    value = torch.where(usable, torch.exp(-distance / (2 * _SIGMA_PX**2)), 0.0)
    if worth is not None:
        value = value * worth[..., None]
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long()
    target = torch.zeros(count, height * width, device=logits.device)
    target = target.scatter_reduce_(1, index.flatten(1), value.flatten(1), "amax").view_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * (target - logits.sigmoid()).square()).sum() / real.sum().clamp(min=1)


def place_loss(logits: Tensor, keypoints: Tensor, real: Tensor) -> Tensor:
    """Return mean distance in pixels, along x and y added, between the teacher's keypoints and where the extractor
    refines its own beside them: a soft argmax about the highest score within a pixel.

    Args:
        logits: ``B x S x S`` of the scores.
        keypoints: ``B x K x 2`` the teacher's.
        real: ``B x K`` bool.
    """
    height, width = logits.shape[-2:]
    scores = logits.sigmoid()
    steps = torch.arange(-1, 2, device=logits.device)
    x, y = (keypoints.round().long()[:, :, None] + torch.cartesian_prod(steps, steps)).unbind(-1)
    x, y = x.clamp(_RADIUS, width - 1 - _RADIUS), y.clamp(_RADIUS, height - 1 - _RADIUS)
    near = scores.detach().flatten(1).gather(1, (y * width + x).flatten(1)).view_as(x)
    highest = near.argmax(dim=-1, keepdim=True)
    centre = torch.cat((x.gather(2, highest), y.gather(2, highest)), dim=-1)
    found = soft_argmax(scores, centre, _RADIUS)
    usable = real & ((keypoints - centre).abs() < 1.5).all(dim=-1)
    distance = (found - keypoints).abs().sum(dim=-1)
    return torch.where(usable, distance, 0.0).sum() / usable.sum().clamp(min=1)
