"""The bundled extractor: one pyramid of 3 x 3 convolutions, a score for every pixel and a descriptor for every fourth.

Trained by this project (``training.compact``; the model card lies beside the weights). The layout, strides 2 to 32
summed at a quarter of the size, is that of feature pyramids (Lin et al., CVPR 2017, arXiv 1612.03144); the step to half
size by rearranging pixels and the small widths are in the spirit of XFeat (Potje et al., CVPR 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.compact_network import Architecture, StudentNetwork, architecture_of
from semantic_matcher_core.extractors.dense import DenseExtractor, Found
from semantic_matcher_core.extractors.dkd import detect_keypoints
from semantic_matcher_core.extractors.options import check_detection_threshold, check_nms_radius
from semantic_matcher_core.layers import conv_stack, convolution_layout, standardised

_STRIDE = 32
_DESCRIPTOR_STRIDE = 4
WIDTHS = (32, 64, 96, 128, 160)
DESCRIPTOR_DIM = 128


class CompactNetwork(nn.Module):
    """Images to a map of descriptors and a map of scores.

    Args:
        widths: channels at strides 2, 4, 8, 16 and 32.
        descriptor_dim: of the descriptors.
        batch_norm: with batch normalisation, for training; see
            :func:`~semantic_matcher_core.layers.folded`.
    """

    def __init__(
        self, widths: tuple[int, ...] = WIDTHS, descriptor_dim: int = DESCRIPTOR_DIM, *, batch_norm: bool = False
    ) -> None:
        super().__init__()
        c2, c4, c8, c16, c32 = widths

        def convs(*channels: int, stride: int = 2) -> nn.Sequential:
            return conv_stack(*channels, stride=stride, batch_norm=batch_norm)

        self.stride2 = convs(12, c2, c2, stride=1)
        self.stride4 = convs(c2, c4, c4)
        self.stride8 = convs(c4, c8, c8, c8)
        self.stride16 = convs(c8, c16, c16, c16)
        self.stride32 = convs(c16, c32, c32, c32)
        self.from8, self.from16, self.from32 = (nn.Conv2d(c, c4, 1) for c in (c8, c16, c32))
        self.fused = convs(c4, c4, stride=1)
        self.descriptor = nn.Conv2d(c4, descriptor_dim, 1)
        self.to2 = nn.Conv2d(c4, c2, 1)
        self.score = nn.Sequential(*convs(c2, c2, stride=1), nn.Conv2d(c2, 4, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Args:
            images: ``B x 3 x H x W``, zero mean and unit variance, H and W multiples of 32.

        Returns:
            ``B x D x H/4 x W/4`` descriptors, not normalised, cell (0, 0) centred on pixel (1.5, 1.5), and
            ``B x 1 x H x W`` logits of the score.
        """
        half = self.stride2(F.pixel_unshuffle(images, 2))
        quarter = self.stride4(half)
        eighth = self.stride8(quarter)
        sixteenth = self.stride16(eighth)
        coarse = self.from16(sixteenth) + _doubled(self.from32(self.stride32(sixteenth)))
        coarse = self.from8(eighth) + _doubled(coarse)
        fused = self.fused(quarter + _doubled(coarse))
        score = self.score(F.relu(half + _doubled(self.to2(fused))))
        return self.descriptor(fused), F.pixel_shuffle(score, 2)

    def describe(self, descriptor_map: Tensor, keypoints: Tensor) -> Tensor:
        """L2-normalised descriptors of the map at keypoints, see :func:`sample_descriptors`."""
        return sample_descriptors(descriptor_map, keypoints)


class Compact(DenseExtractor):
    """Sub-pixel keypoints with 128-dimensional descriptors, by the weights that come with this package.

    Convention:
        - Any size goes in: the image is padded at the right and bottom by repeating its border, to multiples of 32.
        - A keypoint is a maximum of the score map above ``detection_threshold``, refined by the soft argmax of its
          5 x 5 window (as in ALIKE). None lies in the outer two rows and columns.

    Args:
        max_keypoints: keep at most this many keypoints of each image.
        detection_threshold: of the score map, in [0, 1).
        nms_radius: radius in pixels of non-maximum suppression, and of the window of the sub-pixel refinement.
        max_side: an image with a longer side is seen at this one, which bounds memory; ``None`` for no bound.
        fixed_size: always give ``max_keypoints`` rows, see ``selection.best_candidates``.
        widths, descriptor_dim: of :class:`CompactNetwork`; read from the weights where there are some.
    """

    name = "compact"
    dense_step = _STRIDE
    # In bfloat16 one match in 25 is another one (2048 keypoints of a TUM pair); so it is one in 1000.
    full_precision = True

    def __init__(
        self,
        max_keypoints: int = 2048,
        *,
        detection_threshold: float = 0.0,
        nms_radius: int = 2,
        max_side: int | None = 2048,
        fixed_size: bool = False,
        widths: tuple[int, ...] = WIDTHS,
        descriptor_dim: int = DESCRIPTOR_DIM,
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__(max_keypoints, max_side=max_side, fixed_size=fixed_size)
        self.descriptor_dim = architecture.descriptor_dim if architecture else descriptor_dim
        self.detection_threshold = check_detection_threshold(detection_threshold)
        self.nms_radius = check_nms_radius(nms_radius, least=1)
        self.net: Any = StudentNetwork(architecture) if architecture else CompactNetwork(widths, descriptor_dim)
        self.layout = convolution_layout()
        self.net.to(memory_format=self.layout)  # type: ignore[call-overload]  # torch's stubs lack it
        self.eval()

    @staticmethod
    def options_of_state_dict(state: dict[str, Tensor]) -> dict[str, Any]:
        """Sizes of the network that a weights file is of; those of another layout say nothing."""
        if "head.0.weight" in state:
            return {"architecture": architecture_of(state)}
        levels = [state.get(f"stride{stride}.0.0.weight") for stride in (2, 4, 8, 16, 32)]
        descriptor = state.get("descriptor.weight")
        if descriptor is None or any(level is None for level in levels):
            return {}
        return {"widths": tuple(len(level) for level in levels if level is not None), "descriptor_dim": len(descriptor)}

    def prepare(self, images: Tensor) -> Tensor:
        """See :meth:`DenseExtractor.prepare <semantic_matcher_core.extractors.dense.DenseExtractor.prepare>`."""
        padding = (0, -images.shape[-1] % _STRIDE, 0, -images.shape[-2] % _STRIDE)
        images = standardised(images)
        return F.pad(images, padding, mode="replicate") if any(padding) else images

    def dense(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps of features, and logits of the score at full size."""
        (images,) = inputs
        return self.net(images.contiguous(memory_format=self.layout))

    def finish(self, maps: Sequence[Tensor], size: tuple[int, int], masks: Tensor | None, limits: Limits) -> Found:
        """See :meth:`DenseExtractor.finish <semantic_matcher_core.extractors.dense.DenseExtractor.finish>`."""
        *features, logits = maps
        height, width = size
        radius = self.nms_radius
        found = detect_keypoints(
            logits.sigmoid()[:, 0, :height, :width],
            limits.max_keypoints,
            radius=radius,
            suppression_radius=radius,
            threshold=limits.threshold,
            margins=(radius, radius),
            masks=masks,
            fixed_size=limits.fixed_size,
            iterations=0,
        )
        return Found(found.keypoints, found.scores, self.net.describe(*features, found.keypoints), found.valid)


def sample_descriptors(descriptor_map: Tensor, keypoints: Tensor) -> Tensor:
    """L2-normalised descriptors at keypoints, bilinear between cells; beyond the outermost centres the border counts.

    Args:
        descriptor_map: ``B x D x H/4 x W/4`` float32, cell (i, j) centred on pixel (4 j + 1.5, 4 i + 1.5).
        keypoints: ``B x N x 2`` (x, y) pixels.

    Returns:
        ``B x N x D``.
    """
    height, width = (_DESCRIPTOR_STRIDE * side for side in descriptor_map.shape[-2:])
    x, y = keypoints.unbind(-1)
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    sampled = F.grid_sample(descriptor_map, grid[:, None], padding_mode="border", align_corners=False)
    return F.normalize(sampled[:, :, 0].transpose(1, 2), dim=-1)


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)
