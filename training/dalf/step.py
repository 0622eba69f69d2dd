"""One training step: sample keypoints in both views, describe those found again, add up the losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.dalf import Dalf
from training.correspondence import PlanarCorrespondence
from training.dalf.detection import Found, Sampled, detection_loss, found_again, sample_keypoints
from training.dalf.losses import hard_negative_loss
from training.dalf.schedule import DESCRIPTOR_WEIGHT, KEYPOINT_PENALTY

# Fewer than this in a pair, and batch normalisation of patches has nothing to average over.
LEAST_KEYPOINTS = 16


@dataclass(frozen=True)
class StepResult:
    """Loss with a graph, and figures to log.

    Attributes:
        loss: scalar.
        reward: keypoints found again, mean over pairs.
        accuracy: share of those whose descriptors are nearest to each other; NaN where no pair had enough.
        keypoints: mean over images.
        descriptor_loss: hard-negative loss, NaN where there was none.
    """

    loss: Tensor
    reward: float
    accuracy: float
    keypoints: float
    descriptor_loss: float


def training_step(
    dalf: Dalf,
    view0: Tensor,
    view1: Tensor,
    truths: list[PlanarCorrespondence],
    *,
    ramp: float,
    wrong_penalty: float,
    generator: torch.Generator | None = None,
) -> StepResult:
    """Compute the losses of a batch.

    Args:
        dalf: in training mode.
        view0, view1: ``B x 3 x H x W``.
        truths: one for each pair.
        ramp: 0 … 1, how much of the keypoint penalty holds.
        wrong_penalty: see :func:`~training.dalf.detection.detection_loss`.
        generator: of the keypoint draws.
    """
    sides = [_Side(dalf, view, generator) for view in (view0, view1)]
    if not all(side.is_finite for side in sides):
        # Nothing can be sampled from such a heat map; the caller stops at this loss.
        return StepResult(view0.new_tensor(float("nan")), 0.0, float("nan"), 0.0, float("nan"))
    found = [
        found_again(k0.keypoints, k1.keypoints, truth)
        for k0, k1, truth in zip(sides[0].sampled, sides[1].sampled, truths, strict=True)
    ]
    enough = [i for i, pair in enumerate(found) if len(pair.index0) >= LEAST_KEYPOINTS]
    wrong: dict[int, Tensor] = {}
    described, patch_only, hits, total = [], [], 0, 0
    for i in enough:
        kinds = [side.describe(i, index) for side, index in zip(sides, (found[i].index0, found[i].index1), strict=True)]
        whole0, whole1 = kinds[0][0], kinds[1][0]
        with torch.no_grad():
            matched = torch.cdist(whole0, whole1).argmin(dim=1) == torch.arange(len(whole0), device=whole0.device)
        wrong[i] = found[i].index0[~matched]
        hits, total = hits + int(matched.sum()), total + len(matched)
        described.append((whole0, whole1))
        if kinds[0][1] is not None and kinds[1][1] is not None:
            patch_only.append((kinds[0][1], kinds[1][1]))
    nothing = torch.empty(0, dtype=torch.long, device=view0.device)
    loss = torch.stack(
        [
            detection_loss(k0, k1, pair, KEYPOINT_PENALTY * ramp, wrong.get(i, nothing), wrong_penalty)
            for i, (k0, k1, pair) in enumerate(zip(sides[0].sampled, sides[1].sampled, found, strict=True))
        ]
    ).mean()
    terms = [
        hard_negative_loss(torch.cat([a for a, _ in rows]), torch.cat([b for _, b in rows]))
        for rows in (described, patch_only)
        if rows
    ]
    descriptor_loss = torch.stack(terms).mean() if terms else None
    if descriptor_loss is not None:
        loss = loss + DESCRIPTOR_WEIGHT * descriptor_loss
    return StepResult(
        loss,
        sum(len(pair.index0) for pair in found) / len(found),
        hits / total if total else float("nan"),
        sum(len(k.keypoints) for side in sides for k in side.sampled) / (2 * len(found)),
        float("nan") if descriptor_loss is None else descriptor_loss.item(),
    )


class _Side:
    """One view of the batch through the network."""

    def __init__(self, dalf: Dalf, view: Tensor, generator: torch.Generator | None) -> None:
        self.dalf = dalf
        self.grey = view.mean(dim=1, keepdim=True)
        logits, self.descriptor_map = dalf.net(self.grey)
        self.parameter_map = dalf.tps_net.parameter_map(self.descriptor_map) if dalf.layout.uses_patches else None
        self.is_finite = bool(torch.isfinite(logits).all())
        self.sampled: list[Sampled] = sample_keypoints(logits[:, 0], generator) if self.is_finite else []

    def describe(self, image: int, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return ``P x D`` unit descriptors of some keypoints; of their patches alone, too, where those are half."""
        keypoints = self.sampled[image].keypoints[index][None]
        layout, one = self.dalf.layout, slice(image, image + 1)
        parts: list[Tensor] = []
        if self.parameter_map is not None:
            patches = self.dalf.tps_net(self.parameter_map[one], self.grey[one], keypoints)
            parts.append(self.dalf.hardnet(patches[0][:, None]))
        if layout.uses_backbone:
            size = keypoints.new_tensor([self.grey.shape[-1], self.grey.shape[-2]])
            at = (2.0 * keypoints / (size - 1.0) - 1.0)[:, :, None]
            sampled = F.grid_sample(self.descriptor_map[one], at, mode="bicubic", align_corners=True)
            parts.append(sampled[0, :, :, 0].T)
        joined = torch.cat(parts, dim=1)
        if layout.fused:
            joined = joined * self.dalf.fusion_layer(joined)
        patch_alone = F.normalize(parts[0], dim=1) if len(parts) == 2 else None
        return F.normalize(joined, dim=1), patch_alone


__all__ = ["LEAST_KEYPOINTS", "Found", "StepResult", "training_step"]
