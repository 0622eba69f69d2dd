"""XFeat's network (Potje et al., CVPR 2024; arXiv 2404.19174), with the names of the published state dict."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.extractors.folding import FoldedSequential
from semantic_matcher_core.layers import memory_format
from semantic_matcher_core.optimisations import is_enabled

# Pixels, each way, of a cell of the keypoint logits.
CELL = 8


class XFeatNetwork(nn.Module):
    """Images to a map of descriptors, logits of keypoints and reliability, all at an eighth of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = _ImageNorm(1)
        self.skip1 = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 24, 1))
        self.block1 = nn.Sequential(_Layer(1, 4), _Layer(4, 8, stride=2), _Layer(8, 8), _Layer(8, 24, stride=2))
        self.block2 = nn.Sequential(_Layer(24, 24), _Layer(24, 24))
        self.block3 = nn.Sequential(_Layer(24, 64, stride=2), _Layer(64, 64), _Layer(64, 64, 1))
        self.block4 = nn.Sequential(_Layer(64, 64, stride=2), _Layer(64, 64), _Layer(64, 64))
        self.block5 = nn.Sequential(_Layer(64, 128, stride=2), _Layer(128, 128), _Layer(128, 128), _Layer(128, 64, 1))
        self.block_fusion = nn.Sequential(_Layer(64, 64), _Layer(64, 64), nn.Conv2d(64, 64, 1))
        self.heatmap_head = nn.Sequential(_Layer(64, 64, 1), _Layer(64, 64, 1), nn.Conv2d(64, 1, 1), nn.Sigmoid())
        self.keypoint_head = nn.Sequential(*(_Layer(64, 64, 1) for _ in range(3)), nn.Conv2d(64, 65, 1))
        # Refines semi-dense matches, which are not made here; the published weights have it.
        hidden = [(nn.Linear(n, 512), nn.BatchNorm1d(512, affine=False), nn.ReLU(True)) for n in (128, 512, 512, 512)]
        self.fine_matcher = nn.Sequential(*(layer for three in hidden for layer in three), nn.Linear(512, 64))
        # A sixth less time on a CPU, and maps whose vectors lie in one piece for what samples them.
        layout = memory_format(is_enabled("channels_last"))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight = nn.Parameter(module.weight.detach().contiguous(memory_format=layout))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the maps of images.

        Args:
            images: ``B x C x H x W``, H and W multiples of 32; the channels are averaged.

        Returns:
            ``B x 64 x H/8 x W/8`` descriptors, ``B x 65 x …`` logits (64 pixels of a cell, row by row, and "none") and
            ``B x 1 x …`` reliability in (0, 1).
        """
        grey = self.norm(images.mean(dim=1, keepdim=True))
        eighth = self.block3(self.block2(self.block1(grey) + self.skip1(grey)))
        sixteenth = self.block4(eighth)
        coarser = (sixteenth, self.block5(sixteenth))
        size = (eighth.shape[-2], eighth.shape[-1])
        sixteenth, thirty_second = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in coarser)
        descriptors = self.block_fusion(eighth + sixteenth + thirty_second)
        return descriptors, self.keypoint_head(F.pixel_unshuffle(grey, CELL)), self.heatmap_head(descriptors)


class _Layer(nn.Module):
    """A convolution, its batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, *, stride: int = 1) -> None:
        super().__init__()
        convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        norm = nn.BatchNorm2d(outputs, affine=False)
        self.layer = FoldedSequential(convolution, norm, nn.ReLU(True), channels_last=is_enabled("channels_last"))

    def forward(self, x: Tensor) -> Tensor:
        # On a GPU, where graphs are recorded, folding would only be more kernels.
        return self.layer(x, fold=x.device.type == "cpu")


class _ImageNorm(nn.InstanceNorm2d):
    """Zero mean and unit variance of one channel. torch's own leaves a GPU to one multiprocessor for each channel."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cuda":
            return super().forward(x)
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
        return (x - mean) * (variance + self.eps).rsqrt()
