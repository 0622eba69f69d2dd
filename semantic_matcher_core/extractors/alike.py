"""ALIKE: Accurate and Lightweight Keypoint Detection and Descriptor Extraction (Zhao et al., 2022; arXiv 2112.02906).

The network is written after the paper's figure 2, with the names of the published state dicts (Shiaoming/ALIKE,
models/alike-{t,s,n,l}.pth).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.errors import unknown_name
from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.dense import DenseExtractor, Found
from semantic_matcher_core.extractors.dkd import detect_keypoints
from semantic_matcher_core.extractors.options import check_detection_threshold, check_nms_radius
from semantic_matcher_core.extractors.pooling import max_pool
from semantic_matcher_core.extractors.pyramid import at_pixels, interpolate_normalized, project

_STRIDE = 32
_RADIUS = 2
# The published code leaves out three rows and columns at the top and left, and two at the bottom and right.
_MARGINS = (_RADIUS + 1, _RADIUS)

# model: channels of the four blocks, descriptor dimension, whether a hidden layer precedes the head.
_MODELS: dict[str, tuple[tuple[int, int, int, int], int, bool]] = {
    "alike-t": ((8, 16, 32, 64), 64, False),
    "alike-s": ((8, 16, 48, 96), 96, False),
    "alike-n": ((16, 32, 64, 128), 128, False),
    "alike-l": ((32, 64, 128, 128), 128, True),
}


class Alike(DenseExtractor):
    """ALIKE's sub-pixel keypoints with 64-, 96- or 128-dimensional descriptors.

    Convention:
        - Any size goes in: the image is padded with zeros at the right and bottom to multiples of 32, and the maps are
          cropped back, so padding moves no keypoint. No keypoint lies in the outer three rows and columns.
        - A keypoint is a maximum of the score map above ``detection_threshold``; the best ``max_keypoints`` by that
          value are kept, and their score is the map read at the sub-pixel place.
        - An image without such a maximum has no keypoints; the published code then falls back to the map's mean as
          threshold, for all images of a batch together.

    Args:
        model: ``alike-t``, ``alike-s``, ``alike-n`` or ``alike-l``.
        detection_threshold: of the score map, in [0, 1). 0.2 is ALIKE's own, 0.0 that of the published reasoners.
        nms_radius: radius in pixels of non-maximum suppression.
        max_keypoints, max_side, fixed_size: see :class:`~semantic_matcher_core.extractors.dense.DenseExtractor`.

    Raises:
        UnknownNameError: no such model.
    """

    dense_step = _STRIDE

    def __init__(
        self,
        max_keypoints: int = 2048,
        *,
        model: str = "alike-n",
        detection_threshold: float = 0.2,
        nms_radius: int = 2,
        max_side: int | None = 2048,
        fixed_size: bool = False,
    ) -> None:
        super().__init__(max_keypoints, max_side=max_side, fixed_size=fixed_size)
        if model not in _MODELS:
            raise unknown_name("ALIKE model", model, _MODELS)
        self.name = model
        channels, self.descriptor_dim, hidden_head = _MODELS[model]
        self.detection_threshold = check_detection_threshold(detection_threshold)
        self.nms_radius = check_nms_radius(nms_radius)
        self.net = AlikeNet(channels, self.descriptor_dim, hidden_head)
        # Batch normalisation must use its running statistics: one image's features never depend on another's.
        self.eval()

    def prepare(self, images: Tensor) -> Tensor:
        return F.pad(images, (0, -images.shape[-1] % _STRIDE, 0, -images.shape[-2] % _STRIDE))

    def dense(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return four levels ``B x dim/4 x H/s x W/s``, s = 1, 2, 8, 32."""
        (images,) = inputs
        return tuple(self.net(images))

    def finish(self, maps: Sequence[Tensor], size: tuple[int, int], masks: Tensor | None, limits: Limits) -> Found:
        height, width = size
        found = detect_keypoints(
            self.net.score_map(maps)[:, :height, :width],
            limits,
            radius=_RADIUS,
            suppression_radius=self.nms_radius,
            margins=_MARGINS,
            masks=masks,
        )
        descriptors = interpolate_normalized(
            lambda pixels: self.net.descriptors_at(maps, pixels), found.keypoints, height, width
        ).transpose(1, 2)
        return Found(found.keypoints, found.scores, F.normalize(descriptors, dim=-1), found.valid)


class AlikeNet(nn.Module):
    """The backbone: four levels of features, and a head of 1 x 1 convolutions on their concatenation.

    Args:
        channels: of the four blocks.
        dim: of the descriptors; each level gives a quarter.
        hidden_head: the head has a hidden layer.
    """

    def __init__(self, channels: tuple[int, int, int, int], dim: int, hidden_head: bool) -> None:
        super().__init__()
        c1, c2, c3, c4 = channels
        self.block1 = _ConvBlock(3, c1)
        self.block2 = _ResBlock(c1, c2)
        self.block3 = _ResBlock(c2, c3)
        self.block4 = _ResBlock(c3, c4)
        self.conv1 = nn.Conv2d(c1, dim // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(c2, dim // 4, 1, bias=False)
        self.conv3 = nn.Conv2d(c3, dim // 4, 1, bias=False)
        self.conv4 = nn.Conv2d(c4, dim // 4, 1, bias=False)
        self.convhead1 = nn.Conv2d(dim, dim, 1, bias=False) if hidden_head else None
        self.convhead2 = nn.Conv2d(dim, dim + 1, 1, bias=False)  # descriptor, and one score

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return ``B x 3 x H x W``, H and W multiples of 32, to four levels ``B x dim/4 x H/s x W/s``, s = 1, 2, 8,
        32.
        """
        x1 = self.block1(images)
        x2 = self.block2(max_pool(x1, 2))
        x3 = self.block3(max_pool(x2, 4))
        x4 = self.block4(max_pool(x3, 4))
        return [F.relu_(conv(x)) for conv, x in zip(self._laterals(), (x1, x2, x3, x4), strict=True)]

    def score_map(self, levels: Sequence[Tensor]) -> Tensor:
        """Return ``B x H x W`` detection scores in (0, 1)."""
        weight = self.convhead2.weight[-1:]
        if self.convhead1 is None:
            logits = project(levels, weight)
        else:
            logits = F.conv2d(F.relu_(project(levels, self.convhead1.weight)), weight)
        return logits[:, 0].sigmoid_()

    def descriptors_at(self, levels: Sequence[Tensor], pixels: Tensor) -> Tensor:
        """Return ``B x dim x N`` of the dense descriptor map at ``B x N x 2`` whole pixels (x, y), not normalised."""
        features = at_pixels(levels, pixels)
        if self.convhead1 is not None:
            features = F.relu_(self.convhead1.weight[:, :, 0, 0] @ features)
        return self.convhead2.weight[:-1, :, 0, 0] @ features

    def _laterals(self) -> tuple[nn.Conv2d, ...]:
        return self.conv1, self.conv2, self.conv3, self.conv4


class _ConvBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        return F.relu_(self.bn2(self.conv2(x)))


class _ResBlock(_ConvBlock):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out)
        self.downsample = nn.Conv2d(channels_in, channels_out, 1)  # the published name; it changes channels, not size

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu_(self.bn1(self.conv1(x)))
        return F.relu_(self.bn2(self.conv2(residual)) + self.downsample(x))
