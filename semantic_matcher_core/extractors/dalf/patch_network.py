"""The patch network: a polar patch to a vector that a rotation, a shift along its angle axis, leaves unchanged."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.extractors.dalf.folding import FoldedSequential


class CircularPad(nn.Module):
    """Pads the angle axis by one row at each end, round the circle."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 1, 1), mode="circular")


class PatchNetwork(nn.Module):
    """HardNet's layout with a circular angle axis that is averaged away.

    Args:
        out_channels: dimension of the descriptor.
    """

    def __init__(self, out_channels: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.InstanceNorm2d(1)]
        channels = 1
        for width, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (64, 2), (64, 1)):
            layers += [
                CircularPad(),
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
        self.features = FoldedSequential(*layers)

    def forward(self, patches: Tensor) -> Tensor:
        """``M x 1 x 32 x 32`` to ``M x out_channels``, not normalised."""
        return self.features(patches)[..., 0, 0]
