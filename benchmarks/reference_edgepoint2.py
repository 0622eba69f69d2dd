"""EdgePoint2 written the straightforward way, to compare and to measure against.

Facts: arXiv 2504.17280 and its repository. Batch normalisation stands by itself, levels are enlarged before anything is
done with them, the descriptor map is dense, suppression is max-pooling, and images are selected from one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_MARGIN = 4


class ReferenceKeypoints(NamedTuple):
    """Keypoints of one image: ``N x 2`` (x, y), ``N`` logits in descending order, ``N x D`` descriptors."""

    keypoints: Tensor
    logits: Tensor
    descriptors: Tensor


class ReferenceEdgePoint2(nn.Module):
    """The network of a published state dict, whose shapes say which of the fourteen it is."""

    def __init__(self, state: dict[str, Tensor], max_keypoints: int, threshold: float = -5.0) -> None:
        super().__init__()
        self.max_keypoints = max_keypoints
        self.threshold = threshold
        first, half = state["block1.0.layer.0.weight"].shape[0], state["block1.1.layer.0.weight"].shape[0]
        eighth, coarse = state["block2.skip.weight"].shape[0], state["block3.skip.weight"].shape[0]
        detector, dim = state["conv1.weight"].shape[0], state["desc_head.2.weight"].shape[0]
        width = half + eighth + coarse
        self.block1 = nn.Sequential(_basic(1, first, 4, 2), _basic(first, half), _Residual(half, half))
        self.block2 = _Residual(half, eighth)
        self.block3 = _Residual(eighth, coarse)
        self.desc_head = nn.Sequential(
            nn.Conv2d(width, width, 1), _basic(width, width, groups=width // 16), nn.Conv2d(width, dim, 1)
        )
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, detector, 1) for c in (half, eighth, coarse))
        self.score_head = nn.Sequential(
            nn.Conv2d(detector, detector, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(detector, detector, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(detector, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.load_state_dict(state, strict=True)
        self.eval()

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return descriptors ``B x D x H/4 x W/4`` and logits ``B x 1 x H x W`` of ``B x 3 x H x W`` in [0, 1]."""
        grey = F.instance_norm(images.mean(1, keepdim=True))
        half = self.block1(grey)
        quarter = F.avg_pool2d(half, 2)
        eighth = self.block2(F.avg_pool2d(quarter, 2))
        coarse = self.block3(F.avg_pool2d(eighth, 4))
        described = self.desc_head(torch.cat([quarter, _enlarged(eighth, 2), _enlarged(coarse, 8)], dim=1))
        score = self.conv1(half) + _enlarged(self.conv2(eighth), 4) + _enlarged(self.conv3(coarse), 16)
        return described, self.score_head(score)

    def forward(self, images: Tensor) -> list[ReferenceKeypoints]:
        """Detect and describe, image by image; ``B x 3 x H x W`` in [0, 1], sides from 32 up."""
        given = images.shape[-2:]
        height, width = (side // 32 * 32 for side in given)
        images = F.interpolate(images, (height, width), mode="bilinear", align_corners=True)
        descriptor_maps, logits = self.maps(images)
        scale = torch.tensor([given[1] / width, given[0] / height])
        results = []
        for descriptor_map, logit in zip(descriptor_maps, logits, strict=True):
            peaks = (logit == F.max_pool2d(logit[None], 5, 1, 2)[0]) & (logit > self.threshold)
            inside = torch.zeros_like(peaks)
            inside[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN] = True
            _, rows, columns = (peaks & inside).nonzero(as_tuple=True)
            scores, order = logit[0, rows, columns].topk(min(self.max_keypoints, len(rows)))
            keypoints = torch.stack([columns, rows], dim=1)[order].float()
            grid = (keypoints + 0.5) / torch.tensor([width, height]) * 2 - 1
            sampled = F.grid_sample(descriptor_map[None], grid[None, :, None], mode="bilinear", align_corners=False)
            results.append(ReferenceKeypoints(keypoints * scale, scores, F.normalize(sampled[0, :, :, 0].T, dim=1)))
        return results


def _basic(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, 1, groups=groups, bias=False)
    sequence = nn.Sequential()
    sequence.layer = nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())
    return sequence


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x) + self.skip(x))


def _enlarged(maps: Tensor, factor: int) -> Tensor:
    return F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
