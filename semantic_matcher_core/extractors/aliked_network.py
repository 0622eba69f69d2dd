"""ALIKED's layers (Zhao et al., IEEE T-IM 2023; arXiv 2304.03608, section III), with the names of the published state
dicts (Shiaoming/ALIKED, models/aliked-*.pth).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.extractors.deformable import DeformableConv

_PATCH = 3


@dataclass(frozen=True)
class Architecture:
    """Sizes of an :class:`AlikedNetwork`.

    Attributes:
        widths: channels at strides 1, 2, 8 and 32.
        dim: of the descriptors.
        positions: that a descriptor is made of.
    """

    widths: tuple[int, int, int, int] = (16, 32, 64, 128)
    dim: int = 128
    positions: int = 16


MODELS = {
    "aliked-t16": Architecture((8, 16, 32, 64), dim=64),
    "aliked-n16": Architecture(),
    "aliked-n16rot": Architecture(),
    "aliked-n32": Architecture(positions=32),
}


class AlikedNetwork(nn.Module):
    """Images to four levels of features; the layers of both heads, which ``Aliked`` runs at keypoints.

    Args:
        architecture: its sizes.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        c1, c2, c3, c4 = architecture.widths
        dim = architecture.dim
        self.block1 = _Block(c1, _conv3(3, c1), _conv3(c1, c1))
        self.block2 = _Residual(c1, c2, _conv3(c1, c2), _conv3(c2, c2))
        self.block3 = _Residual(c2, c3, DeformableConv(c2, c3), DeformableConv(c3, c3))
        self.block4 = _Residual(c3, c4, DeformableConv(c3, c4), DeformableConv(c4, c4))
        laterals = (nn.Conv2d(channels, dim // 4, 1, bias=False) for channels in architecture.widths)
        self.conv1, self.conv2, self.conv3, self.conv4 = laterals
        self.score_head = nn.Sequential(
            nn.Conv2d(dim, 8, 1, bias=False), nn.SELU(True), _conv3(8, 4), nn.SELU(True), _conv3(4, 4), nn.SELU(True),
            _conv3(4, 1),
        )  # fmt: skip
        self.desc_head = SparseHead(dim, architecture.positions)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return four levels ``B x dim/4 x H/s x W/s``, s = 1, 2, 8, 32, of ``B x 3 x H x W``, multiples of 32."""
        x1 = self.block1(images)
        x2 = self.block2(F.avg_pool2d(x1, 2))
        x3 = self.block3(F.avg_pool2d(x2, 4))
        x4 = self.block4(F.avg_pool2d(x3, 4))
        l1, l2, l3, l4 = (
            F.selu_(lateral(x))
            for lateral, x in ((self.conv1, x1), (self.conv2, x2), (self.conv3, x3), (self.conv4, x4))
        )
        return l1, l2, l3, l4


class SparseHead(nn.Module):
    """The layers of the sparse deformable descriptor head (SDDH): where a keypoint's patch says to look, and the sum
    over these places.

    Args:
        dim: of features and descriptors.
        positions: places.
    """

    def __init__(self, dim: int, positions: int) -> None:
        super().__init__()
        self.kernel_size, self.n_pos = _PATCH, positions
        self.offset_conv = nn.Sequential(
            nn.Conv2d(dim, 2 * positions, _PATCH), nn.SELU(True), nn.Conv2d(2 * positions, 2 * positions, 1)
        )
        self.sf_conv = nn.Conv2d(dim, dim, 1, bias=False)
        self.agg_weights = nn.Parameter(torch.randn(positions, dim, dim) * dim**-0.5)


class _Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm and SELU."""

    def __init__(self, outputs: int, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = first, nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = second, nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.selu_(self._both(x))

    def _both(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(F.selu_(self.bn1(self.conv1(x)))))


class _Residual(_Block):
    """The same, added to what comes in."""

    def __init__(self, inputs: int, outputs: int, first: nn.Module, second: nn.Module) -> None:
        super().__init__(outputs, first, second)
        self.downsample = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.selu_(self._both(x).add_(self.downsample(x)))


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
