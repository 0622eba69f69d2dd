"""A semantic encoder without weights, for training runs that show that all of it works."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.semantics.encoder import SemanticEncoder

_POSITION_WEIGHT = 0.7


class ColourContext(SemanticEncoder):
    """Colours around each patch, at three scales, and its position: a stand-in for a foundation model in smoke runs.

    It needs no weights, and knows what local descriptors of grey images do not: the colour of what a corner belongs to.
    Like a foundation model's features its own also tell where in the image a patch is, which training has to learn to
    disregard. It is of no use on real images, and published checkpoints never name it: it is here so that what a smoke
    run trains can be loaded, as any trained model is.
    """

    name = "colour-context"
    feature_dim = 13
    patch_size = 14

    def __init__(self, name: str = name) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> Tensor:
        patches = F.avg_pool2d(images, self.patch_size)
        wider = [F.avg_pool2d(patches, side, 1, side // 2, count_include_pad=False) for side in (3, 5)]
        rows, columns = patches.shape[-2:]
        y, x = torch.meshgrid(
            *((torch.arange(n, device=images.device) + 0.5) / n * math.pi for n in (rows, columns)), indexing="ij"
        )
        position = torch.stack([x.cos(), y.cos(), x.sin(), y.sin()]).to(patches) * _POSITION_WEIGHT
        return torch.cat([patches, *wider, position.expand(len(images), -1, -1, -1)], dim=1)
