"""DISK: Learning local features with policy gradient (Tyszkiewicz et al., NeurIPS 2020; arXiv 2006.13566).

The network is kornia's, with the names of the published state dicts (cvlab-epfl/disk, ``depth-save.pth``, under
``extractor``). Selection is ours, batched, with the result of kornia's. The last convolution, which is most of the
work, gives its score channel everywhere and its descriptor channels at the keypoints only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from kornia.feature import DISK
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.errors import ConfigError, check_choice
from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.dense import DenseExtractor, Found
from semantic_matcher_core.extractors.options import check_nms_radius
from semantic_matcher_core.extractors.selection import BORDERS, select_keypoints

_STRIDE = 16


class Disk(DenseExtractor):
    """DISK's keypoints with 128-dimensional descriptors.

    Convention:
        - Any size goes in: the image is padded with zeros at the right and bottom to multiples of 16, and the maps are
          cropped back, so padding moves no keypoint.
        - A keypoint is a whole pixel, a local maximum of the heat map above ``detection_threshold``; scores are that
          map's logits, not probabilities.

    Args:
        detection_threshold: of the heat map's logits, any finite number.
        nms_radius: radius in pixels of non-maximum suppression; 2 is kornia's 5 x 5 window.
        border: ``"valid"`` as kornia, or ``"clipped"`` as the published code; see ``selection.local_maxima``.
        max_keypoints, max_side, fixed_size: see :class:`~semantic_matcher_core.extractors.dense.DenseExtractor`.
    """

    name = "disk"
    descriptor_dim = 128
    dense_step = _STRIDE
    finds_in_flat = True

    def __init__(
        self,
        max_keypoints: int = 2048,
        *,
        detection_threshold: float = 0.0,
        nms_radius: int = 2,
        border: str = "valid",
        max_side: int | None = 2048,
        fixed_size: bool = False,
    ) -> None:
        super().__init__(max_keypoints, max_side=max_side, fixed_size=fixed_size)
        if not math.isfinite(detection_threshold):
            raise ConfigError(f"detection_threshold must be a finite number, got {detection_threshold!r}")
        check_choice("border", border, BORDERS)
        self.detection_threshold = detection_threshold
        self.nms_radius = check_nms_radius(nms_radius)
        self.border = border
        self.net: Any = DISK(desc_dim=self.descriptor_dim)

    def prepare(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        right, bottom = -width % _STRIDE, -height % _STRIDE
        if max(height + bottom, width + right) == _STRIDE:
            right += _STRIDE  # the coarsest map would be one pixel, which instance normalisation cannot take
        return F.pad(images, (0, right, 0, bottom))

    def dense(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the U-Net's last convolution sees, ``B x C x H x W``; one of H and W is more than 16."""
        (images,) = inputs
        unet = self.net.unet
        skips = [images]
        for block in unet.path_down:
            skips.append(block(skips[-1]))
        x = skips.pop()
        for block in unet.path_up[:-1]:
            x = block(x, skips.pop())
        last = unet.path_up[-1]
        x = torch.cat((last.upsample(x), skips.pop()), dim=1)
        for layer in list(last.conv)[:-1]:
            x = layer(x)
        return (x,)

    def finish(self, maps: Sequence[Tensor], size: tuple[int, int], masks: Tensor | None, limits: Limits) -> Found:
        (features,) = maps
        keypoints, scores, valid = select_keypoints(
            self._heat_map(features)[:, : size[0], : size[1]],
            limits.max_keypoints,
            nms_radius=self.nms_radius,
            threshold=limits.threshold,
            border=self.border,
            masks=masks,
            fixed_size=limits.fixed_size,
        )
        return Found(keypoints, scores, F.normalize(self._describe(features, keypoints), dim=-1), valid)

    def _heat_map(self, features: Tensor) -> Tensor:
        """Return ``B x H x W`` detection logits."""
        conv = self._last_convolution
        return F.conv2d(features, conv.weight[-1:], conv.bias[-1:], padding="same")[:, 0]

    def _describe(self, features: Tensor, keypoints: Tensor) -> Tensor:
        """Return ``B x N x dim`` descriptors, not normalised, at ``B x N x 2`` whole pixels (x, y)."""
        conv = self._last_convolution
        size = conv.kernel_size[0]
        padded = F.pad(features, (size // 2,) * 4)
        steps = torch.arange(size, device=keypoints.device)
        x, y = (keypoints[:, :, None] + torch.cartesian_prod(steps, steps).flip(-1)).unbind(-1)
        index = (y * padded.shape[-1] + x).flatten(1)
        patches = padded.flatten(2).gather(2, index[:, None].expand(-1, padded.shape[1], -1))
        patches = patches.unflatten(2, x.shape[1:]).transpose(1, 2).flatten(2)  # B x N x (C * size * size)
        return F.linear(patches, conv.weight[:-1].flatten(1), conv.bias[:-1])

    @property
    def _last_convolution(self) -> Any:
        return self.net.unet.path_up[-1].conv[-1]
