"""The bundled extractor: a score for every pixel, and descriptors computed at keypoints from two maps of features.

Distilled by this project (``training.student``; the model card lies beside the weights).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.compact_network import STRIDE, Architecture, CompactNetwork, architecture_of
from semantic_matcher_core.extractors.dense import DenseExtractor, Found
from semantic_matcher_core.extractors.dkd import detect_keypoints
from semantic_matcher_core.extractors.options import check_detection_threshold, check_nms_radius
from semantic_matcher_core.layers import memory_format, standardised
from semantic_matcher_core.optimisations import is_enabled


class Compact(DenseExtractor):
    """Sub-pixel keypoints with 128-dimensional descriptors, by the weights that come with this package.

    Convention:
        - Any size goes in: the image is padded at the right and bottom by repeating its border, to multiples of 32.
        - A keypoint is a maximum of the score map above ``detection_threshold``, refined by the soft argmax of its
          5 x 5 window (as in ALIKE). None lies in the outer two rows and columns.

    Args:
        detection_threshold: of the score map, in [0, 1).
        nms_radius: radius in pixels of non-maximum suppression, and of the window of the sub-pixel refinement.
        max_keypoints, max_side, fixed_size: see :class:`~semantic_matcher_core.extractors.dense.DenseExtractor`.
        architecture: sizes of the network; read from the weights where there are some.
    """

    name = "compact"
    dense_step = STRIDE
    finds_in_flat = True
    # In bfloat16 one match in 25 is another one (2048 keypoints of a TUM pair), and on a CPU nothing is gained. A GPU
    # runs the network in float16 at both narrow precisions.
    full_precision = True
    guided = True
    narrow_weights = "all"

    def __init__(
        self,
        max_keypoints: int = 2048,
        *,
        detection_threshold: float = 0.0,
        nms_radius: int = 2,
        max_side: int | None = 2048,
        fixed_size: bool = False,
        architecture: Architecture | None = None,
    ) -> None:
        super().__init__(max_keypoints, max_side=max_side, fixed_size=fixed_size)
        architecture = architecture or Architecture()
        self.descriptor_dim = architecture.descriptor_dim
        self.detection_threshold = check_detection_threshold(detection_threshold)
        self.nms_radius = check_nms_radius(nms_radius, least=1)
        self.net = CompactNetwork(architecture)
        self.channels_last = is_enabled("channels_last")
        self.net.to(memory_format=memory_format(self.channels_last))  # type: ignore[call-overload]  # torch's stubs lack it
        self.eval()

    @staticmethod
    def options_of_state_dict(state: dict[str, Tensor]) -> dict[str, Any]:
        """Return sizes of the network that a weights file is of; none for those of another layout."""
        architecture = architecture_of(state)
        return {} if architecture is None else {"architecture": architecture}

    def prepare(self, images: Tensor) -> Tensor:
        padding = (0, -images.shape[-1] % STRIDE, 0, -images.shape[-2] % STRIDE)
        images = standardised(images)
        return F.pad(images, padding, mode="replicate") if any(padding) else images

    def dense(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute maps of features, and logits of the score at full size."""
        (images,) = inputs
        return self.net(images.contiguous(memory_format=memory_format(self.channels_last)))

    def finish(self, maps: Sequence[Tensor], size: tuple[int, int], masks: Tensor | None, limits: Limits) -> Found:
        fine, coarse, logits = maps
        height, width = size
        radius = self.nms_radius
        found = detect_keypoints(
            logits.sigmoid()[:, 0, :height, :width],
            limits,
            radius=radius,
            suppression_radius=radius,
            margins=(radius, radius),
            masks=masks,
            iterations=0,
        )
        return Found(found.keypoints, found.scores, self.net.describe(fine, coarse, found.keypoints), found.valid)
