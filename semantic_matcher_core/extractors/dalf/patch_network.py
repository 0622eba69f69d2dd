"""The patch network: a polar patch to a vector that a rotation, a shift along its angle axis, leaves unchanged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semantic_matcher_core.extractors.folding import FoldedSequential


class CircularPad(nn.Module):
    """Pads the angle axis at both ends, round the circle.

    Args:
        rows: added at each end; a convolution uses up one. Padding once for several convolutions spares copies of the
            larger maps between them. In training it is always one row, for the next convolution alone: rows computed
            twice would count twice in the statistics of the batch.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        rows = 1 if self.training else self.rows
        return torch.cat([x[:, :, -rows:], x, x[:, :, :rows]], dim=2) if rows else x


class PatchNetwork(nn.Module):
    """HardNet's layout with a circular angle axis that is averaged away.

    Args:
        out_channels: dimension of the descriptor.
    """

    def __init__(self, out_channels: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.InstanceNorm2d(1)]
        channels = 1
        for width, stride, rows in ((32, 1, 3), (32, 1, 0), (64, 2, 0), (64, 1, 1), (64, 2, 1), (64, 1, 1)):
            layers += [
                CircularPad(rows),
                nn.Conv2d(channels, width, 3, stride=stride, padding=(0, 1), bias=False),
                nn.BatchNorm2d(width, affine=False),
                nn.ReLU(),
            ]
            channels = width
        layers += [nn.Dropout(0.1), nn.AvgPool2d((8, 1), stride=1)]
        for kernel in (3, 3, 3):
            layers += [
                nn.Conv2d(channels, out_channels, (1, kernel), bias=False),
                nn.BatchNorm2d(out_channels, affine=False),
                nn.ReLU(),
            ]
            channels = out_channels
        layers += [nn.Conv2d(channels, out_channels, (1, 2), bias=False), nn.BatchNorm2d(out_channels, affine=False)]
        self.features = FoldedSequential(*layers, channels_last=True)

    def forward(self, patches: Tensor) -> Tensor:
        """Return ``M x 1 x 32 x 32`` to ``M x out_channels``, not normalised."""
        return self.features(patches)[..., 0, 0]
