"""DeDoDe: Detect, Don't Describe — Describe, Don't Detect (Edstedt et al., 3DV 2024; arXiv 2308.08479).

The networks are kornia's, with the names of the published state dicts (Parskatt/DeDoDe). Two things are ours: the
backbone of the G descriptor is this project's DINOv2, because kornia's fetches weights when it is built; and the
descriptor's last convolution runs at the keypoints only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from kornia.feature.dedode.decoder import ConvRefiner, Decoder
from kornia.feature.dedode.dedode_models import dedode_descriptor_B, dedode_detector_L
from kornia.feature.dedode.encoder import VGG19
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.errors import unknown_name
from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.dense import DenseExtractor, Found
from semantic_matcher_core.extractors.selection import best_candidates
from semantic_matcher_core.layers import grid_sample

_DESCRIPTORS = ("B", "G")
_PATCH = 14
_DIM = 256
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# The published detector divides by the square root of the local density (a Gaussian over 51 pixels), which spreads
# keypoints.
_DENSITY_TAPS = 51


class DeDoDe(DenseExtractor):
    """DeDoDe's keypoints (detector L-upright) with 256-dimensional descriptors (B-upright or G-upright).

    Convention:
        - Any size goes in: the image, normalised as for ImageNet, is padded with zeros at the right and bottom to
          multiples of 14, and the maps are cropped back, so padding moves no keypoint.
        - Keypoints are whole pixels, the ``max_keypoints`` best of all; there is no threshold and no suppression, so an
          image gives fewer only where it, or what its mask leaves of it, has fewer pixels. kornia gives ``k + 0.5``.
        - Scores are the detector's probability over the image, divided by the square root of its local density.

    Args:
        descriptor: ``B`` (VGG-19) or ``G`` (VGG-19 and DINOv2 ViT-L).
        normalize_descriptors: give L2-normalised rows. The published reasoners were trained on rows as the network
            gives them (``False``); plain matching needs ``True``.
        max_keypoints, max_side, fixed_size: see :class:`~semantic_matcher_core.extractors.dense.DenseExtractor`.

    Raises:
        UnknownNameError: no such descriptor.
    """

    descriptor_dim = _DIM
    dense_step = _PATCH
    finds_in_flat = True

    def __init__(
        self,
        max_keypoints: int = 2048,
        *,
        descriptor: str = "B",
        normalize_descriptors: bool = True,
        max_side: int | None = 1280,
        fixed_size: bool = False,
    ) -> None:
        super().__init__(max_keypoints, max_side=max_side, fixed_size=fixed_size)
        if descriptor not in _DESCRIPTORS:
            raise unknown_name("DeDoDe descriptor", descriptor, _DESCRIPTORS)
        self.name = f"dedode-{descriptor}"
        self.normalize_descriptors = normalize_descriptors
        self.detector: Any = dedode_detector_L()
        self.descriptor: Any = dedode_descriptor_B() if descriptor == "B" else _descriptor_G()
        self.dinov2: Any = None
        if descriptor == "G":
            from semantic_matcher_core.semantics.dinov2 import DinoV2

            self.dinov2 = DinoV2("dinov2_vitl14")
        # kornia's decoders hold a view of a dictionary's keys, which can be neither copied nor pickled.
        for part in (self.detector, self.descriptor):
            decoder: Any = part.decoder
            decoder.scales = tuple(decoder.scales)
        # Buffers, because a tensor made on the way would be a copy to the GPU, which a CUDA graph cannot record.
        for name, values in (("mean", _MEAN), ("std", _STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        # Batch normalisation must use its running statistics: one image's features never depend on another's.
        self.eval()

    def prepare(self, images: Tensor) -> Tensor:
        images = (images - self.get_buffer("mean")) / self.get_buffer("std")
        return F.pad(images, (0, -images.shape[-1] % _PATCH, 0, -images.shape[-2] % _PATCH))

    def dense_inputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the images, and DINOv2's position encoding for their size with descriptor ``G``."""
        if self.dinov2 is None:
            return (images,)
        return images, self.dinov2.interpolate_pos_encoding(images.shape[-2] // _PATCH, images.shape[-1] // _PATCH)

    def dense(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return all networks: detection logits, and what descriptors are made of.

        Args:
            inputs: images ``B x 3 x H x W``, normalised, H and W multiples of 14; with descriptor ``G`` also DINOv2's
                position encoding for their size.

        Returns:
            ``B x H x W`` logits; ``B x 256 x H/2 x W/2`` descriptors without the last scale; ``B x C x H x W``, what
            the last scale's 1 x 1 convolution sees.
        """
        images, *positions = inputs
        return self._logits(images), *self._description(images, positions[0] if positions else None)

    def finish(self, maps: Sequence[Tensor], size: tuple[int, int], masks: Tensor | None, limits: Limits) -> Found:
        logits, description, hidden = maps
        height, width = size
        probability = logits[:, :height, :width].flatten(1).softmax(dim=1)
        score_map = spread_scores(probability.view(-1, height, width))
        keypoints, scores, valid = best_candidates(
            score_map,
            torch.ones_like(score_map, dtype=torch.bool),
            limits.max_keypoints,
            masks=masks,
            fixed_size=limits.fixed_size,
        )
        descriptors = self._describe(description, hidden, keypoints)
        if self.normalize_descriptors:
            descriptors = F.normalize(descriptors, dim=-1)
        return Found(keypoints, scores, descriptors, valid)

    def _logits(self, images: Tensor) -> Tensor:
        """Return ``B x H x W`` detection logits; each decoder scale corrects the one before, upsampled bicubically."""
        features = _vgg_features(self.detector.encoder, images)
        logits, context = None, None
        for refiner, level in zip(self.detector.decoder.layers.values(), reversed(features), strict=True):
            if logits is not None and context is not None:
                size = level.shape[-2:]
                logits = F.interpolate(logits, size, mode="bicubic", align_corners=False)
                context = F.interpolate(context, size, mode="bilinear", align_corners=False)
                level = torch.cat((level, context), dim=1)
            delta, context = refine(refiner, level).float().split(_parts(refiner, 1), dim=1)
            logits = delta if logits is None else logits + delta
        assert logits is not None
        return logits[:, 0]

    def _description(self, images: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what descriptors are made of: see :meth:`dense`."""
        if self.dinov2 is None:
            features = _vgg_features(self.descriptor.encoder, images)
        else:
            vgg = self.descriptor.encoder.vgg
            features = [*_vgg_features(vgg, images), self.dinov2.encode(images, positions)]
        *coarse, finest = self.descriptor.decoder.layers.values()
        description, context = None, None
        for refiner, level, finer in zip(coarse, features[:0:-1], features[-2::-1], strict=True):
            if context is not None:
                level = torch.cat((level, context), dim=1)
            delta, context = refine(refiner, level).float().split(_parts(refiner, _DIM), dim=1)
            context = F.interpolate(context, finer.shape[-2:], mode="bilinear", align_corners=False)
            description = delta if description is None else description + delta
            if refiner is not coarse[-1]:
                description = F.interpolate(description, finer.shape[-2:], mode="bilinear", align_corners=False)
        assert description is not None and context is not None
        return description, hidden_features(finest, torch.cat((features[0], context), dim=1))

    def _describe(self, description: Tensor, hidden: Tensor, keypoints: Tensor) -> Tensor:
        """Return ``B x N x 256`` float32 descriptors, not normalised, at ``B x N x 2`` whole pixels (x, y)."""
        height, width = hidden.shape[-2:]
        x, y = keypoints.unbind(-1)
        # At full resolution only what lies under the keypoints is needed.
        index = (y * width + x)[:, None].expand(-1, hidden.shape[1], -1)
        found = hidden.flatten(2).gather(2, index).transpose(1, 2)
        last = self.descriptor.decoder.layers["1"].out_conv
        delta = F.linear(found, last.weight[:_DIM, :, 0, 0].float(), last.bias[:_DIM].float())
        grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
        # Read as if it were upsampled: its border is repeated.
        return grid_sample(description, grid, "bilinear", "border") + delta


def spread_scores(scores: Tensor) -> Tensor:
    """Divide scores by the square root of their local density, so that keypoints are spread over the image.

    Args:
        scores: ``B x H x W`` float32, a probability over each image.
    """
    taps = torch.linspace(-2, 2, _DENSITY_TAPS, dtype=torch.float32, device=scores.device).square().neg().exp()
    half = _DENSITY_TAPS // 2
    # The published constants: they keep the density of a flat area finite.
    density = F.conv2d((scores[:, None] + 1e-6) * 10000, taps[None, None, None], padding=(0, half))
    density = F.conv2d(density, taps[None, None, :, None], padding=(half, 0))[:, 0]
    return scores * (density + 1e-8).rsqrt()


def refine(refiner: ConvRefiner, features: Tensor) -> Tensor:
    """Return all output channels of a decoder scale.

    kornia's own forward does the same, but sets the precision itself.
    """
    return refiner.out_conv(hidden_features(refiner, features))


def hidden_features(refiner: ConvRefiner, features: Tensor) -> Tensor:
    """Return what the last, 1 x 1, convolution of a decoder scale sees."""
    first = refiner.block1(features)
    hidden = refiner.hidden_blocks(first)
    # 1.4 ~ √2 keeps the variance; the weights were trained with it.
    return (hidden + first) / 1.4 if refiner.residual else hidden


def _parts(refiner: ConvRefiner, outputs: int) -> list[int]:
    """Return channels of a scale's output: ``outputs`` of result, the rest is context for the next scale."""
    return [outputs, refiner.out_conv.out_channels - outputs]


def _vgg_features(encoder: VGG19, images: Tensor) -> list[Tensor]:
    """Compute maps before each pooling: strides 1, 2, 4, 8."""
    features: list[Tensor] = []
    x = images
    for layer in encoder.layers:
        if isinstance(layer, nn.MaxPool2d):
            features.append(x)
            if len(features) == 4:
                break
        x = layer(x)
    return features


class _VggAndDino(nn.Module):
    """Only gives the VGG part its published name; DINOv2 has a file of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = VGG19()


class _Descriptor(nn.Module):
    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder


def _descriptor_G() -> nn.Module:
    # scale: channels in, hidden, context out (kornia.feature.dedode.dedode_models.dedode_descriptor_G).
    scales: dict[str, Sequence[int]] = {
        "14": (1024, 768, 512),
        "8": (512 + 512, 512, 256),
        "4": (256 + 256, 256, 128),
        "2": (128 + 128, 64, 32),
        "1": (64 + 32, 32, 1),
    }
    refiners = {
        scale: ConvRefiner(channels, hidden, context + _DIM, hidden_blocks=5, residual=True)
        for scale, (channels, hidden, context) in scales.items()
    }
    return _Descriptor(_VggAndDino(), Decoder(nn.ModuleDict(refiners), num_prototypes=_DIM))
