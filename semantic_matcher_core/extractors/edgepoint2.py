"""EdgePoint2: Compact Descriptors for Superior Efficiency and Accuracy (Yao et al., arXiv 2504.17280).

The network is written after the paper and the published state dicts (HITCSC/EdgePoint2, weights/*.pth, MIT), whose
names it carries. Three things are done in another order than there, with the same result to rounding, because they are
most of the time on a CPU: batch normalisation is folded into the convolutions, a 1 x 1 convolution goes before the
bilinear enlargement of its input (the two commute), and the descriptors' last convolution is applied at the keypoints
only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.errors import unknown_name
from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.dense import DenseExtractor, Found
from semantic_matcher_core.extractors.options import check_detection_threshold, check_nms_radius
from semantic_matcher_core.extractors.selection import best_candidates, local_maxima, mask_at_size, zero_padding
from semantic_matcher_core.layers import grid_sample, memory_format
from semantic_matcher_core.optimisations import is_enabled

_STRIDE = 32
_MARGIN = 4
_GROUP = 16
_NORM_EPS = 1e-5
# Published as a logit of -5.
DETECTION_THRESHOLD = 1 / (1 + math.exp(5))

# Letter of the model: channels of the first convolution, of the three stages, and of the detection head.
_WIDTHS = {
    "t": (8, 8, 16, 24, 8),
    "s": (8, 8, 24, 32, 8),
    "m": (8, 16, 32, 48, 8),
    "l": (8, 16, 48, 64, 8),
    "e": (16, 16, 48, 64, 16),
}
MODELS = tuple(f"edgepoint2-{letter}{dim}" for letter in _WIDTHS for dim in (32, 48, 64) if (letter, dim) != ("t", 64))


class EdgePoint2(DenseExtractor):
    """EdgePoint2's keypoints with 32-, 48- or 64-dimensional descriptors.

    Convention:
        - The network sees the grey image (mean of the channels, zero mean and unit variance) resized bilinearly, corner
          to corner, to the next lower multiples of 32 (at least 32). Keypoints are whole pixels ``k`` of the resized
          image, given as ``k * (side - 1) / (resized side - 1)``, which is where the network saw them. The published
          code gives ``k * side / resized side``: the same where both sides are multiples of 32.
        - A keypoint is a local maximum of the score map above ``detection_threshold`` and at least four pixels from the
          border. Scores are probabilities, the sigmoid of the published code's.

    Args:
        model: ``edgepoint2-t32`` … ``edgepoint2-e64``, see ``MODELS``.
        detection_threshold: of the score, in [0, 1). The default is the published one, a logit of -5.
        nms_radius: radius in pixels of non-maximum suppression.
        max_keypoints, max_side, fixed_size: see :class:`~semantic_matcher_core.extractors.dense.DenseExtractor`.

    Raises:
        UnknownNameError: no such model.
    """

    dense_channels = 1
    dense_step = _STRIDE

    def __init__(
        self,
        max_keypoints: int = 2048,
        *,
        model: str = "edgepoint2-e64",
        detection_threshold: float = DETECTION_THRESHOLD,
        nms_radius: int = 2,
        max_side: int | None = 2048,
        fixed_size: bool = False,
    ) -> None:
        super().__init__(max_keypoints, max_side=max_side, fixed_size=fixed_size)
        if model not in MODELS:
            raise unknown_name("EdgePoint2 model", model, MODELS)
        self.name = model
        size = model.removeprefix("edgepoint2-")
        self.descriptor_dim = int(size[1:])
        self.detection_threshold = check_detection_threshold(detection_threshold)
        self.nms_radius = check_nms_radius(nms_radius)
        self.net = EdgePoint2Network(*_WIDTHS[size[0]], self.descriptor_dim)
        self.channels_last = is_enabled("channels_last")
        self.net.to(memory_format=memory_format(self.channels_last))  # type: ignore[call-overload]  # torch's stubs lack it
        self.eval()

    @staticmethod
    def convert_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn a published file into this module's state dict: batch normalisation goes into the convolutions."""
        if all(name.startswith("net.") for name in state):
            return state
        return {f"net.{name}": tensor for name, tensor in fold_norms(state).items()}

    def prepare(self, images: Tensor) -> Tensor:
        seen = (images.shape[-2], images.shape[-1])
        grey = images.mean(dim=1, keepdim=True)
        if _resized(seen) != seen:
            grey = F.interpolate(grey, _resized(seen), mode="bilinear", align_corners=True)
        return _normalised(grey)

    def dense(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute what the descriptors' last convolution sees, and logits of the score; see the network's forward."""
        (images,) = inputs
        return self.net(images.contiguous(memory_format=memory_format(self.channels_last)))

    def finish(self, maps: Sequence[Tensor], size: tuple[int, int], masks: Tensor | None, limits: Limits) -> Found:
        described, logits = maps
        # Logits are compared and ranked: near 1, different logits give the same float32 probability.
        score_map = logits[:, 0]
        lowest = float(torch.tensor(limits.threshold, dtype=torch.float64).clamp(0, 1).logit())
        keypoints, scores, valid = best_candidates(
            score_map,
            local_maxima(score_map, self.nms_radius) & (score_map > lowest),
            limits.max_keypoints,
            margin=_MARGIN,
            masks=None if masks is None else mask_at_size(masks, *_resized(size)),
            fixed_size=limits.fixed_size,
        )
        places = _corner_to_corner(keypoints.float(), _resized(size), size)
        return Found(places, zero_padding(scores.sigmoid(), valid), self.net.describe(described, keypoints), valid)


class EdgePoint2Network(nn.Module):
    """Three stages at strides 2, 8 and 32, a descriptor head at stride 4 and a detection head at stride 2.

    Args:
        first, half, eighth, coarse: channels of the first convolution, and at strides 2, 8 and 32.
        detector: channels of the detection head.
        descriptor_dim: of the descriptors.
    """

    def __init__(self, first: int, half: int, eighth: int, coarse: int, detector: int, descriptor_dim: int) -> None:
        super().__init__()
        self.block1 = nn.Sequential(_Layer(1, first, 4, 2), _Layer(first, half), _Residual(half, half))
        self.block2 = _Residual(half, eighth)
        self.block3 = _Residual(eighth, coarse)
        self.levels = (half, eighth, coarse)
        width = sum(self.levels)
        self.desc_head: Any = nn.Sequential(
            nn.Conv2d(width, width, 1),
            _Layer(width, width, groups=width // _GROUP),
            nn.Conv2d(width, descriptor_dim, 1),
        )
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(channels, detector, 1) for channels in self.levels)
        self.score_head = nn.Sequential(
            nn.Conv2d(detector, detector, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(detector, detector, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(detector, 4, 3, 1, 1),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute maps.

        Args:
            images: ``B x 1 x H x W``, zero mean and unit variance, H and W multiples of 32.

        Returns:
            ``B x C x H/4 x W/4``, which :meth:`describe` reads, and ``B x 1 x H x W`` logits of the score.
        """
        half = self.block1(images)
        quarter = F.avg_pool2d(half, 2)
        eighth = self.block2(F.avg_pool2d(quarter, 2))
        coarse = self.block3(F.avg_pool2d(eighth, 4))
        score = _mixed(half, self.conv1.weight, self.conv1.bias)
        score += _enlarged(_mixed(eighth, self.conv2.weight, self.conv2.bias), 4)
        score += _enlarged(_mixed(coarse, self.conv3.weight, self.conv3.bias), 16)
        # The head's first convolution, of the three levels side by side, on each level before it is enlarged.
        first, second, third = self.desc_head[0].weight.split(self.levels, dim=1)
        described = _mixed(quarter, first, self.desc_head[0].bias)
        described += _enlarged(_mixed(eighth, second), 2)
        described += _enlarged(_mixed(coarse, third), 8)
        return self.desc_head[1](described), F.pixel_shuffle(self.score_head(score), 2)

    def describe(self, maps: Tensor, keypoints: Tensor) -> Tensor:
        """Compute descriptors at keypoints, L2-normalised: bilinear between cells, then the head's last convolution.

        Args:
            maps: ``B x C x H/4 x W/4`` float32 of :meth:`forward`.
            keypoints: ``B x N x 2`` whole pixels (x, y) of the image that the network saw.

        Returns:
            ``B x N x D``.
        """
        height, width = (4 * side for side in maps.shape[-2:])
        x, y = keypoints.unbind(-1)
        grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
        last = self.desc_head[2]
        return F.normalize(F.linear(grid_sample(maps, grid, "bilinear"), last.weight.flatten(1), last.bias), dim=-1)


class _Layer(nn.Module):
    """A convolution with ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, 1, groups=groups), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class _Residual(nn.Module):
    """Two convolutions beside a direct way (He et al., CVPR 2016), which is 1 x 1 where the channels differ."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # The published indices: 1 and 4 were batch normalisation.
        self.layer = nn.ModuleDict(
            {"0": nn.Conv2d(inputs, outputs, 3, 1, 1), "3": nn.Conv2d(outputs, outputs, 3, 1, 1)}
        )
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.layer["3"](F.relu_(self.layer["0"](x))).add_(self.skip(x)))


def fold_norms(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold each batch normalisation ``….n`` of a state dict into the convolution ``….(n - 1)``, which has no bias.

    Raises:
        KeyError: a normalisation, or the convolution before it, is not whole.
    """
    state = dict(state)
    for name in [name for name in state if name.endswith("running_var")]:
        norm = name.removesuffix("running_var")
        parent, _, index = norm[:-1].rpartition(".")
        conv = f"{parent}.{int(index) - 1}."
        scale = state.pop(norm + "weight") / (state.pop(name) + _NORM_EPS).sqrt()
        state[conv + "bias"] = state.pop(norm + "bias") - state.pop(norm + "running_mean") * scale
        state[conv + "weight"] = state[conv + "weight"] * scale[:, None, None, None]
        state.pop(norm + "num_batches_tracked", None)
    return state


def _normalised(images: Tensor) -> Tensor:
    # As instance normalisation; one pass for each moment is several times faster than torch's for both.
    centred = images - images.mean(dim=(-2, -1), keepdim=True)
    return centred * (centred.square().mean(dim=(-2, -1), keepdim=True) + _NORM_EPS).rsqrt()


def _mixed(maps: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute a 1 x 1 convolution as a matrix product, which is faster where the channels of a pixel lie side by
    side.
    """
    return F.linear(maps.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def _enlarged(maps: Tensor, factor: int) -> Tensor:
    return F.interpolate(maps, scale_factor=float(factor), mode="bilinear", align_corners=False)


def _corner_to_corner(keypoints: Tensor, seen: tuple[int, int], given: tuple[int, int]) -> Tensor:
    """Return keypoints (x, y) of an image that was resized with its outermost pixel centres kept, as pixels before
    that.
    """
    if seen == given:
        return keypoints
    x, y = keypoints.unbind(-1)
    return torch.stack((x * ((given[1] - 1) / (seen[1] - 1)), y * ((given[0] - 1) / (seen[0] - 1))), dim=-1)


def _resized(seen: tuple[int, int]) -> tuple[int, int]:
    """Return the next lower multiples of 32, at least 32."""
    height, width = (max(_STRIDE, side // _STRIDE * _STRIDE) for side in seen)
    return height, width
