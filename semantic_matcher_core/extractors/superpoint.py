"""SuperPoint: Self-Supervised Interest Point Detection and Description (DeTone et al., CVPRW 2018; arXiv 1712.07629).

The network is written after the paper, with the names of the published state dict (magicleap,
superpoint_v1.pth). Those weights may be used for academic, non-commercial work only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.dense import DenseExtractor, Found
from semantic_matcher_core.extractors.options import check_detection_threshold, check_nms_radius
from semantic_matcher_core.extractors.pooling import max_pool
from semantic_matcher_core.extractors.selection import best_candidates, iterative_maxima
from semantic_matcher_core.settings import check_whole

_CELL = 8
# ITU-R BT.601 luma, as in the published pipelines.
_LUMA = (0.299, 0.587, 0.114)


class SuperPoint(DenseExtractor):
    """SuperPoint's keypoints with 256-dimensional descriptors.

    Convention:
        - The network sees the grey image at its own size, without padding. Keypoints are whole pixels of the largest
          area of 8 x 8 cells, so up to seven rows and columns at the bottom and right have none, nor have images with
          a side below 8.
        - A keypoint is a maximum of the heat map above ``detection_threshold``, ``remove_borders`` pixels or more from
          the border of that area; suppression is iterated twice, as in the published matchers' code (SuperGlue,
          LightGlue, descriptor reasoning).

    Args:
        detection_threshold: of the heat map, in [0, 1). 0.005 is SuperGlue's, 0.0 that of the published reasoners.
        nms_radius: radius in pixels of non-maximum suppression.
        remove_borders: pixels along the border that have no keypoints.
        legacy_sampling: read descriptors as SuperGlue's code does; otherwise as the published reasoners do. They differ
            by up to half a pixel in 8-pixel cells.
        max_keypoints, max_side, fixed_size: see :class:`~semantic_matcher_core.extractors.dense.DenseExtractor`.
    """

    name = "superpoint"
    descriptor_dim = 256
    dense_channels = 1
    dense_step = _CELL

    def __init__(
        self,
        max_keypoints: int = 2048,
        *,
        detection_threshold: float = 0.005,
        nms_radius: int = 4,
        remove_borders: int = 4,
        legacy_sampling: bool = False,
        max_side: int | None = 2048,
        fixed_size: bool = False,
    ) -> None:
        super().__init__(max_keypoints, max_side=max_side, fixed_size=fixed_size)
        # A buffer: a tensor made on the way would be a copy to the GPU, which a CUDA graph cannot record.
        self.register_buffer("luma", torch.tensor(_LUMA)[:, None, None], persistent=False)
        self.detection_threshold = check_detection_threshold(detection_threshold)
        self.nms_radius = check_nms_radius(nms_radius)
        self.remove_borders = check_whole("remove_borders", remove_borders, 0, unit=" of pixels")
        self.legacy_sampling = legacy_sampling
        self.net = SuperPointNet()

    def prepare(self, images: Tensor) -> Tensor:
        # Below one cell there is nothing to detect; the network is still run, so that shapes and dtypes are its own.
        height, width = images.shape[-2:]
        images = F.pad(images, (0, max(0, _CELL - width), 0, max(0, _CELL - height)), mode="replicate")
        return (images * self.get_buffer("luma")).sum(dim=1, keepdim=True)

    def dense(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return logits and descriptor map at an eighth of the size, see :class:`SuperPointNet`."""
        (grey,) = inputs
        return self.net(grey)

    def finish(self, maps: Sequence[Tensor], size: tuple[int, int], masks: Tensor | None, limits: Limits) -> Found:
        logits, descriptor_map = maps
        heat_map = F.pixel_shuffle(logits.softmax(dim=1)[:, : _CELL * _CELL], _CELL)[:, 0]
        height, width = heat_map.shape[-2:]
        candidates = iterative_maxima(heat_map, self.nms_radius) & (heat_map > limits.threshold)
        if min(size) < _CELL:
            candidates = torch.zeros_like(candidates)
        keypoints, scores, valid = best_candidates(
            heat_map,
            candidates,
            limits.max_keypoints,
            margin=self.remove_borders,
            masks=None if masks is None else _cropped(masks, height, width),
            fixed_size=limits.fixed_size,
        )
        grid = sampling_grid(keypoints.float(), height, width, self.legacy_sampling)[:, :, None]
        descriptor_map = F.normalize(descriptor_map, dim=1)
        sampled = F.grid_sample(descriptor_map, grid, mode="bilinear", align_corners=self.legacy_sampling)
        return Found(keypoints, scores, F.normalize(sampled[..., 0].transpose(1, 2), dim=-1), valid)


class SuperPointNet(nn.Module):
    """The VGG-like encoder with a detector and a descriptor head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(1, 64, 3, padding=1)
        self.conv1b = nn.Conv2d(64, 64, 3, padding=1)
        self.conv2a = nn.Conv2d(64, 64, 3, padding=1)
        self.conv2b = nn.Conv2d(64, 64, 3, padding=1)
        self.conv3a = nn.Conv2d(64, 128, 3, padding=1)
        self.conv3b = nn.Conv2d(128, 128, 3, padding=1)
        self.conv4a = nn.Conv2d(128, 128, 3, padding=1)
        self.conv4b = nn.Conv2d(128, 128, 3, padding=1)
        self.convPa = nn.Conv2d(128, 256, 3, padding=1)
        self.convPb = nn.Conv2d(256, _CELL * _CELL + 1, 1)
        self.convDa = nn.Conv2d(128, 256, 3, padding=1)
        self.convDb = nn.Conv2d(256, 256, 1)

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """Compute maps of ``B x 1 x H x W`` in [0, 1].

        Returns:
            ``B x 65 x H/8 x W/8`` logits (channel ``8 y + x`` is pixel (x, y) of the cell, the last one "none"), and
            ``B x 256 x H/8 x W/8`` descriptors, not normalised.
        """
        x = F.relu_(self.conv1b(F.relu_(self.conv1a(grey))))
        x = F.relu_(self.conv2b(F.relu_(self.conv2a(max_pool(x, 2)))))
        x = F.relu_(self.conv3b(F.relu_(self.conv3a(max_pool(x, 2)))))
        x = F.relu_(self.conv4b(F.relu_(self.conv4a(max_pool(x, 2)))))
        return self.convPb(F.relu_(self.convPa(x))), self.convDb(F.relu_(self.convDa(x)))


def sampling_grid(keypoints: Tensor, height: int, width: int, legacy: bool) -> Tensor:
    """Return where in the descriptor map, [-1, 1], keypoints are read.

    Args:
        keypoints: ``B x N x 2`` float (x, y) pixels.
        height, width: of the area of whole cells.
        legacy: for ``align_corners=True``, as SuperGlue's code; otherwise for ``align_corners=False``, as the published
            reasoners.
    """
    pairs = zip(keypoints.unbind(-1), (width, height), strict=True)
    if legacy:
        return torch.stack([2 * (k - _CELL / 2 + 0.5) / (side - _CELL / 2 - 0.5) - 1 for k, side in pairs], dim=-1)
    return torch.stack([2 * k / side - 1 for k, side in pairs], dim=-1)


def _cropped(masks: Tensor, height: int, width: int) -> Tensor:
    """Return masks at the size of the area of cells; images below one cell are masked out anyway."""
    masks = masks[:, :height, :width]
    return F.pad(masks, (0, width - masks.shape[2], 0, height - masks.shape[1]))
