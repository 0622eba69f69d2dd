"""ALIKED: a Lighter Keypoint and Descriptor Extraction Network via Deformable Transformation (Zhao et al., IEEE T-IM
2023; arXiv 2304.03608).

Selection searches twice more where local maxima are near each other, as the published code does (kornia's does not);
the descriptor head runs batched and without the dense feature map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.errors import unknown_name
from semantic_matcher_core.extractors.aliked_network import MODELS, AlikedNetwork
from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.dense import DenseExtractor, Found
from semantic_matcher_core.extractors.dkd import detect_keypoints
from semantic_matcher_core.extractors.options import check_detection_threshold, check_nms_radius
from semantic_matcher_core.extractors.pyramid import at_pixels, interpolate_normalized, project

_STRIDE = 32


class Aliked(DenseExtractor):
    """ALIKED's sub-pixel keypoints with 64- or 128-dimensional descriptors.

    Convention:
        - Any size goes in: the image is padded on all sides by repeating its border, to multiples of 32, and the maps
          are cropped back, so padding moves no keypoint. No keypoint lies in the outer ``nms_radius`` rows and columns.
        - A keypoint is a maximum of the score map above ``detection_threshold``; the best ``max_keypoints`` by that
          value are kept, and their score is the map read at the sub-pixel place.
        - An image without such a maximum has no keypoints; the published code then falls back to the map's mean as
          threshold, for all images of a batch together.
        - Keypoints are true pixel indices; the published reasoners' copy of ALIKED gives ``k * W / (W - 1)``.

    Args:
        model: ``aliked-t16``, ``aliked-n16``, ``aliked-n16rot`` or ``aliked-n32``.
        detection_threshold: of the score map, in [0, 1). 0.2 is ALIKED's own, 0.0 that of the published reasoners.
        nms_radius: radius in pixels of non-maximum suppression, and of the window of the sub-pixel refinement.
        max_keypoints, max_side, fixed_size: see :class:`~semantic_matcher_core.extractors.dense.DenseExtractor`.

    Raises:
        UnknownNameError: no such model.
    """

    dense_step = _STRIDE

    def __init__(
        self,
        max_keypoints: int = 2048,
        *,
        model: str = "aliked-n16",
        detection_threshold: float = 0.2,
        nms_radius: int = 2,
        max_side: int | None = 2048,
        fixed_size: bool = False,
    ) -> None:
        super().__init__(max_keypoints, max_side=max_side, fixed_size=fixed_size)
        if model not in MODELS:
            raise unknown_name("ALIKED model", model, MODELS)
        self.name = model
        self.descriptor_dim = MODELS[model].dim
        self.detection_threshold = check_detection_threshold(detection_threshold)
        self.nms_radius = check_nms_radius(nms_radius, least=1)
        self.net = AlikedNetwork(MODELS[model])
        # Batch normalisation must use its running statistics: one image's features never depend on another's.
        self.eval()

    def prepare(self, images: Tensor) -> Tensor:
        return F.pad(images, _padding(images.shape[-2], images.shape[-1]), mode="replicate")

    def dense(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return four levels ``B x dim/4 x H/s x W/s``, s = 1, 2, 8, 32."""
        (images,) = inputs
        return self.net(images)

    def finish(self, maps: Sequence[Tensor], size: tuple[int, int], masks: Tensor | None, limits: Limits) -> Found:
        height, width = size
        left, _, top, _ = _padding(height, width)
        found = detect_keypoints(
            self._score_map(maps)[:, top : top + height, left : left + width],
            limits,
            radius=self.nms_radius,
            suppression_radius=self.nms_radius,
            margins=(self.nms_radius, self.nms_radius),
            masks=masks,
        )
        descriptors = self._describe(maps, found.keypoints, (left, top), height, width)
        return Found(found.keypoints, found.scores, descriptors, found.valid)

    def _score_map(self, levels: Sequence[Tensor]) -> Tensor:
        """Return ``B x H x W`` detection scores in (0, 1)."""
        mix, *others = self.net.score_head
        assert isinstance(mix, nn.Conv2d)
        scores = project(levels, mix.weight)
        for layer in others:
            scores = layer(scores)
        return scores[:, 0].sigmoid()

    def _describe(
        self, levels: Sequence[Tensor], keypoints: Tensor, origin: tuple[int, int], height: int, width: int
    ) -> Tensor:
        """Return the sparse deformable descriptor head (SDDH) at sub-pixel keypoints.

        Args:
            levels: of the padded image.
            keypoints: ``B x N x 2`` (x, y) pixels of the image before padding.
            origin: (x, y) of that image in the padded one.
            height, width: of that image.

        Returns:
            ``B x N x dim``, L2-normalised.
        """
        head = self.net.desc_head
        batch, count = keypoints.shape[:2]

        def features_at(pixels: Tensor) -> Tensor:
            x, y = pixels.unbind(-1)
            return at_pixels(levels, torch.stack((x + origin[0], y + origin[1]), dim=-1))

        # Offsets of the sample positions, from the patch round the keypoint's whole pixel.
        size = head.kernel_size
        steps = torch.arange(size, device=keypoints.device)
        rows, columns = torch.cartesian_prod(steps, steps).unbind(-1)

        def along(corner: Tensor, step: Tensor, side: int) -> Tensor:
            # The patch stays one pixel short of the right and bottom border, as in the published code.
            corner = (corner - size // 2).clamp(0, max(0, side - 1 - size))
            # Only images narrower than a patch, which have no keypoints, need the second bound.
            return (corner[:, :, None] + step).clamp(max=side - 1)

        x, y = keypoints.long().unbind(-1)
        patch = torch.stack((along(x, columns, width), along(y, rows, height)), dim=-1)
        patches = F.normalize(features_at(patch.flatten(1, 2)), dim=1)
        patches = patches.view(batch, self.descriptor_dim, count, size, size)
        patches = patches.transpose(1, 2).flatten(0, 1)
        longest = max(height, width) / 4
        offsets = head.offset_conv(patches).clamp(-longest, longest).view(batch, count, 2, head.n_pos).transpose(2, 3)

        positions = (keypoints[:, :, None] + offsets).flatten(1, 2)
        samples = interpolate_normalized(features_at, positions, height, width)  # B x dim x (N * n_pos)
        samples = F.selu(head.sf_conv.weight[:, :, 0, 0] @ samples, inplace=True)
        samples = samples.view(batch, self.descriptor_dim, count, head.n_pos)
        return F.normalize(torch.einsum("bcnp,pcd->bnd", samples, head.agg_weights), dim=-1)


def _padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Return left, right, top and bottom, to multiples of 32."""
    left, top = -width % _STRIDE // 2, -height % _STRIDE // 2
    return left, -width % _STRIDE - left, top, -height % _STRIDE - top
