"""What the bundled extractor learns from: the other view, the teacher's descriptors, and the teacher's keypoints."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.compact import sample_descriptors
from training.compact.teacher import Lesson
from training.compact.views import ViewPairs

_SIGMA_PX = 0.8
_RADIUS = 2


class Marks(NamedTuple):
    """The teacher's keypoints in both views of B pairs, N rows each.

    Attributes:
        points: ``2B x N x 2`` pixels: in the B first views, then in the B second ones.
        seen: ``2B x N`` bool, inside that view (and no padding).
        descriptors: ``B x N x D`` the teacher's, float32.
    """

    points: Tensor
    seen: Tensor
    descriptors: Tensor


class ExtractorLosses(NamedTuple):
    """Scalars: dual softmax between the views, distance to the teacher's descriptors, loss of the scores."""

    matching: Tensor
    distillation: Tensor
    detection: Tensor


def marks(pairs: ViewPairs, lessons: list[Lesson]) -> Marks:
    """Where the keypoints that the teacher found in the pictures are in the views."""
    truth, size = pairs.truth, float(pairs.truth.size[0, 0])
    count = max(len(lesson.keypoints) for lesson in lessons)
    keypoints = torch.stack([F.pad(x.keypoints, (0, 0, 0, count - len(x.keypoints))) for x in lessons])
    descriptors = torch.stack([F.pad(x.descriptors.float(), (0, 0, 0, count - len(x.descriptors))) for x in lessons])
    real = torch.arange(count) < torch.tensor([len(x.keypoints) for x in lessons])[:, None]
    points, seen = [], []
    for at, known in truth.from_picture(keypoints):
        inside = ((at > -0.5) & (at < size - 0.5)).all(dim=-1)
        points.append(at)
        seen.append(real & known & inside)
    return Marks(torch.cat(points), torch.cat(seen), descriptors)


def extractor_losses(
    descriptor_map: Tensor,
    logits: Tensor,
    pairs: ViewPairs,
    found: Marks,
    *,
    points: int,
    temperature: float,
    generator: torch.Generator,
) -> ExtractorLosses:
    """The three losses of one batch.

    Args:
        descriptor_map, logits: outputs of the network for ``pairs.images``, float32.
        pairs: the views.
        found: the teacher's keypoints in them.
        points: correspondences drawn from each pair.
        temperature: of the dual softmax.
        generator: draws the correspondences.
    """
    seen0, seen1 = found.seen.chunk(2)
    both = seen0 & seen1
    # A random choice of those seen in both views, in rows of equal length.
    order = torch.rand(both.shape, generator=generator).masked_fill(~both, 2.0).argsort(dim=1)[:, :points]
    chosen = both.gather(1, order)
    points0, points1 = (
        side.gather(1, order[..., None].expand(-1, -1, 2)).masked_fill(~chosen[..., None], 0.0)
        for side in found.points.chunk(2)
    )
    maps0, maps1 = descriptor_map.chunk(2)
    ours0, ours1 = sample_descriptors(maps0, points0), sample_descriptors(maps1, points1)
    teacher = found.descriptors.gather(1, order[..., None].expand(-1, -1, found.descriptors.shape[-1]))
    number = chosen.sum().clamp(min=1)
    if teacher.shape[-1] == ours0.shape[-1]:
        distance = 2 - (ours0 * teacher).sum(dim=-1) - (ours1 * teacher).sum(dim=-1)
        distillation = (distance * chosen).sum() / number
    else:
        distillation = _relational(ours0, ours1, teacher, chosen)
    similarity = ours0 @ ours1.mT / temperature
    outside = ~chosen
    rows = similarity.masked_fill(outside[:, None], -torch.inf).logsumexp(dim=2)
    columns = similarity.masked_fill(outside[:, :, None], -torch.inf).logsumexp(dim=1)
    surprise = rows + columns - 2 * similarity.diagonal(dim1=1, dim2=2)
    matching = surprise.masked_fill(outside, 0.0).sum() / (2 * number)
    return ExtractorLosses(matching, distillation, detection_loss(logits[:, 0], pairs.inside, found))


def detection_loss(logits: Tensor, inside: Tensor, found: Marks) -> Tensor:
    """Quality focal loss (Li et al., NeurIPS 2020, arXiv 2006.04388) of the scores, a keypoint's target being a
    small Gaussian about its sub-pixel place; per keypoint, and only where the view shows the picture.

    Args:
        logits: ``2B x S x S`` of the scores.
        inside: ``2B x S x S`` bool.
        found: the teacher's keypoints.
    """
    count, height, width = logits.shape
    steps = torch.arange(-_RADIUS, _RADIUS + 1)
    offsets = torch.cartesian_prod(steps, steps)
    pixels = found.points.round()[:, :, None] + offsets
    distance = (pixels - found.points[:, :, None]).square().sum(dim=-1)
    x, y = pixels.unbind(-1)
    usable = found.seen[..., None] & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    # Where a point could not be followed into a view its distance is no number.
    value = torch.where(usable, torch.exp(-distance / (2 * _SIGMA_PX**2)), 0.0)
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).nan_to_num().long()
    target = torch.zeros(count, height * width).scatter_reduce_(1, index.flatten(1), value.flatten(1), "amax")
    target = target.view_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = loss * (target - logits.sigmoid()).square()
    return (loss * inside).sum() / found.seen.sum().clamp(min=1)


def _relational(ours0: Tensor, ours1: Tensor, teacher: Tensor, chosen: Tensor) -> Tensor:
    """Where dimensions differ, similarities between the points of a picture are distilled instead of vectors."""
    wanted = teacher @ teacher.mT
    pairs = chosen[:, :, None] & chosen[:, None]
    error = (ours0 @ ours1.mT - wanted).square() * pairs
    # Scaled to the other form's range: few pairs of points are similar, and those count.
    return 16 * error.sum() / pairs.sum().clamp(min=1)
