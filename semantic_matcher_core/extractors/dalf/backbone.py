"""The U-Net of DALF: a grey image to a detection heat map and a stride-8 descriptor map."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.extractors.dalf.strips import in_strips, upsampled_in_strips
from semantic_matcher_core.extractors.folding import FoldedSequential

# Channels innermost: convolutions, pooling and upsampling of few channels are twice as fast on the CPU.
_sequence = partial(FoldedSequential, channels_last=True)


class UNet(nn.Module):
    """Encoder of three double-convolution blocks, decoder to full size, and a descriptor head on the coarsest map.

    Args:
        channels: of the three encoder blocks; the last is the dimension of the descriptor map.
    """

    def __init__(self, channels: tuple[int, int, int] = (32, 64, 64)) -> None:
        super().__init__()
        self.encoder = Encoder((1, *channels))
        self.decoder = Decoder((1, *channels))
        coarsest = channels[-1]
        self.features = _sequence(
            nn.Conv2d(coarsest, coarsest, 3, padding=1, bias=False),
            nn.BatchNorm2d(coarsest, affine=False),
            nn.ReLU(),
            nn.Conv2d(coarsest, coarsest, 1),
            nn.BatchNorm2d(coarsest, affine=False),
        )

    def forward(self, grey: Tensor, fold: bool = True) -> tuple[Tensor, Tensor]:
        """Return ``B x 1 x H x W`` (H, W >= 32) to logits ``B x 1 x H x W`` and descriptors ``B x C x H/8 x W/8``.

        Pixels that see the same have equal logits, to the last bit, only without folding; such plateaus, mostly
        on flat padding, are what the published detection rule keeps (see ``detection``).
        """
        maps = self.encoder(grey, fold)
        return self.decoder(maps, fold), self.features(maps[-1], fold)


class Encoder(nn.Module):
    """Instance norm, then blocks that halve the size; all maps are kept for the decoder's skips."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels[0], affine=False)
        self.blocks = nn.ModuleList([DownBlock(i, o) for i, o in pairwise(channels)])

    def forward(self, grey: Tensor, fold: bool = True) -> list[Tensor]:
        maps = [self.norm(grey)]
        for block in self.blocks:
            maps.append(block(maps[-1], fold))
        return maps


class DownBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = _sequence(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels, affine=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels, affine=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    def forward(self, x: Tensor, fold: bool = True) -> Tensor:
        if fold and _pays_in_strips(self, x):
            return in_strips(x, self.convs.without_last, halo=2)
        return self.convs(x, fold)


class UpBlock(nn.Module):
    """Two convolutions without padding: each map loses two pixels a side, which the next upsampling stretches away."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _sequence(
            nn.Conv2d(in_channels, out_channels, 3, bias=False),
            nn.BatchNorm2d(out_channels, affine=False),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, bias=False),
            nn.BatchNorm2d(out_channels, affine=False),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, fold: bool = True) -> Tensor:
        return self.conv(x, fold)


class Decoder(nn.Module):
    """Coarse to fine with skips, bicubic to full size, then a small head that gives the heat map's logits."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        fine_to_coarse = channels[1:]
        coarsest, middle, finest = fine_to_coarse[2], fine_to_coarse[1], fine_to_coarse[0]
        self.convs = nn.ModuleList([UpBlock(coarsest + middle, middle), UpBlock(middle + finest, finest)])
        self.conv_heatmap = _sequence(
            nn.Conv2d(finest, finest, 3, padding=1, bias=False),
            nn.BatchNorm2d(finest, affine=False),
            nn.ReLU(),
            nn.Conv2d(finest, 1, 1),
        )

    def forward(self, maps: list[Tensor], fold: bool = True) -> Tensor:
        full, *skips, x = maps
        for block, skip in zip(self.convs, reversed(skips), strict=True):
            upsampled = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=True)
            x = block(torch.cat([upsampled, skip], dim=1), fold)
        if fold and _pays_in_strips(self, full):
            return upsampled_in_strips(x, (full.shape[-2], full.shape[-1]), self.conv_heatmap, halo=1)
        x = F.interpolate(x, size=full.shape[-2:], mode="bicubic", align_corners=True)
        return self.conv_heatmap(x, fold)


def _pays_in_strips(module: nn.Module, full: Tensor) -> bool:
    # Batch statistics need the whole map; and only processors with caches gain.
    return not module.training and full.device.type == "cpu"
