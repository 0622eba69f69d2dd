"""XFeat: Accelerated Features for Lightweight Image Matching (Potje et al., CVPR 2024; arXiv 2404.19174).

Detection, selection and sampling follow the published sparse inference (verlab/accelerated_features, modules/xfeat.py),
batched.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.errors import check_choice
from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.dense import DenseExtractor, Found
from semantic_matcher_core.extractors.options import check_detection_threshold, check_nms_radius
from semantic_matcher_core.extractors.selection import BORDERS, mask_at_size, select_keypoints
from semantic_matcher_core.extractors.xfeat_network import CELL, XFeatNetwork
from semantic_matcher_core.layers import grid_sample

_STRIDE = 32


class XFeat(DenseExtractor):
    """XFeat's sparse keypoints with 64-dimensional descriptors.

    Convention:
        - The network sees the image resized bilinearly to the next lower multiples of 32 (at least 32). Keypoints are
          whole pixels ``k`` of the resized image, given as ``(k + 0.5) * scale - 0.5`` of the image as given. The
          published code gives ``k * scale``: the same where both sides are multiples of 32.
        - A keypoint is a local maximum of the heat map above ``detection_threshold``; its score is heat map times
          reliability. The published code never returns (0, 0), nor the last row and column of the resized image (its
          sampling of the heat map falls outside there); nor does this one.

    Args:
        max_keypoints: keep at most this many keypoints of each image.
        detection_threshold: of the heat map, in [0, 1). 0.05 is XFeat's own, 0.0 that of the published reasoners.
        nms_radius: radius in pixels of non-maximum suppression; 2 is XFeat's 5 x 5 window.
        border: ``"clipped"`` as published, or ``"valid"`` as kornia; see ``selection.local_maxima``.
        max_side: an image with a longer side is seen at no more than this one, which bounds memory; ``None``, as
            published, for no bound. Below 32 pixels the network does not go.
        fixed_size: always give ``max_keypoints`` rows, see ``selection.best_candidates``.
    """

    name = "xfeat"
    descriptor_dim = 64
    dense_step = _STRIDE
    # In bfloat16 one match in twelve is another one (2048 keypoints of real pictures).
    full_precision = True

    def __init__(
        self,
        max_keypoints: int = 2048,
        *,
        detection_threshold: float = 0.05,
        nms_radius: int = 2,
        border: str = "clipped",
        max_side: int | None = None,
        fixed_size: bool = False,
    ) -> None:
        super().__init__(max_keypoints, max_side=max_side, fixed_size=fixed_size)
        check_choice("border", border, BORDERS)
        self.detection_threshold = check_detection_threshold(detection_threshold)
        self.nms_radius = check_nms_radius(nms_radius)
        self.border = border
        self.net = XFeatNetwork()
        # Batch normalisation must use its running statistics: one image's features never depend on another's.
        self.eval()

    def fit(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor | None]:
        given = (images.shape[-2], images.shape[-1])
        scale = 1.0 if self.max_side is None else min(1.0, self.max_side / max(given))
        height, width = (max(_STRIDE, round(side * scale) // _STRIDE * _STRIDE) for side in given)
        if (height, width) != given:
            # As published, without antialiasing, where it is only for the multiples of 32.
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=scale < 1)
        return images, None if masks is None else mask_at_size(masks, height, width)

    def dense(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return descriptor map, keypoint logits and reliability at an eighth of the size."""
        (images,) = inputs
        return self.net(images)

    def finish(self, maps: Sequence[Tensor], size: tuple[int, int], masks: Tensor | None, limits: Limits) -> Found:
        descriptor_map, logits, reliability = maps
        height, width = size
        heat_map = detection_heat_map(logits)

        def combined_score(keypoints: Tensor) -> Tensor:
            x, y = keypoints.unbind(-1)
            heat = heat_map.flatten(1).gather(1, y * width + x)
            return heat * sample_map(reliability, keypoints, height, width, "bilinear")[..., 0]

        allowed = _published_area(height, width, heat_map.device)
        keypoints, scores, valid = select_keypoints(
            heat_map,
            limits.max_keypoints,
            nms_radius=self.nms_radius,
            threshold=limits.threshold,
            border=self.border,
            masks=allowed if masks is None else allowed & masks,
            rescore=combined_score,
            fixed_size=limits.fixed_size,
        )
        descriptors = sample_map(F.normalize(descriptor_map, dim=1), keypoints, height, width, "bicubic")
        return Found(keypoints, scores, F.normalize(descriptors, dim=-1), valid)


def detection_heat_map(logits: Tensor) -> Tensor:
    """Compute the probability that a pixel is a keypoint, by the logits of its 8 x 8 cell and the cell's "none" class.

    Args:
        logits: ``B x 65 x H/8 x W/8``; channel ``8 y + x`` is pixel (x, y) of the cell, the last one "none".

    Returns:
        ``B x H x W``.
    """
    return F.pixel_shuffle(logits.softmax(dim=1)[:, : CELL * CELL], CELL)[:, 0]


def sample_map(maps: Tensor, keypoints: Tensor, height: int, width: int, mode: str) -> Tensor:
    """Return a coarse map at keypoints of the image, in the convention that XFeat's weights were trained with.

    Pixel 0 … side - 1 is spread over the whole map, edge to edge (``2 k / (side - 1) - 1`` read with
    ``align_corners=False``), with zeros outside: a keypoint reads up to half a pixel beside its own place.

    Args:
        maps: ``B x C x h x w`` float32.
        keypoints: ``B x N x 2`` (x, y) pixels of the ``height x width`` image.
        mode: ``"bilinear"`` or ``"bicubic"``.

    Returns:
        ``B x N x C``.
    """
    x, y = keypoints.float().unbind(-1)
    grid = torch.stack((2.0 * (x / (width - 1)) - 1.0, 2.0 * (y / (height - 1)) - 1.0), dim=-1)
    return grid_sample(maps, grid, mode)


def _published_area(height: int, width: int, device: torch.device) -> Tensor:
    area = torch.ones((1, height, width), dtype=torch.bool, device=device)
    area[:, -1] = False
    area[:, :, -1] = False
    area[:, 0, 0] = False
    return area
