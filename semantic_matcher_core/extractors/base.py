"""What every local feature extractor is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.inputs import as_image_batch, as_mask_batch

if TYPE_CHECKING:
    import cv2

    from semantic_matcher_core.types import Features


class Extractor(nn.Module, ABC):
    """A local feature: images in, :class:`~semantic_matcher_core.types.Features` out.

    A subclass sets ``name`` and ``descriptor_dim`` and implements :meth:`forward`; it builds its network without
    touching disk or network, and weights are loaded by :func:`~semantic_matcher_core.extractors.create_extractor`.

    Convention:
        - Keypoints are true pixel indices of the image as given, whatever padding or resizing the network needs:
          a resized image maps back by ``(kp + 0.5) / scale - 0.5``, a padded one by subtracting the offset.
        - Rows are sorted by descending score; images of a batch are padded to the longest (see ``types``).
        - The result of one image does not depend on the others of its batch.
        - Any size from 1 x 1 works; an image without keypoints gives zero rows.

    Args:
        max_keypoints: keep at most this many keypoints of each image, the best by score.
    """

    name: str = ""
    descriptor_dim: int = 0
    # What `dense` takes: its channels, and a number that both sides are multiples of; 0 where there is no `dense`.
    dense_channels: int = 3
    dense_step: int = 0
    # Runs in float32 at every precision: narrow types would move its keypoints for little time.
    full_precision: bool = False

    def __init__(self, max_keypoints: int = 2048) -> None:
        super().__init__()
        if isinstance(max_keypoints, bool) or not isinstance(max_keypoints, int) or max_keypoints < 1:
            raise ConfigError(f"max_keypoints must be a whole number from 1 up, got {max_keypoints!r}")
        self.max_keypoints = max_keypoints

    @abstractmethod
    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        """Detect and describe.

        Args:
            images: ``B x 3 x H x W`` RGB float in [0, 1].
            masks: ``B x H x W`` bool, true where keypoints are wanted, or ``None`` for everywhere.

        Returns:
            Features of B images, on the device of ``images``, keypoints, scores and descriptors in float32.
        """

    def dense_inputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """All that :meth:`dense` takes: images, and ``1 x P x C`` positions where the network has such an encoding.

        Args:
            images: ``B x dense_channels x H x W``, H and W multiples of ``dense_step``.
        """
        return (images,)

    def dense(self, images: Tensor) -> tuple[Tensor, ...]:
        """The network alone, from images as it takes them to dense maps: what another runtime can do in its place.

        Args:
            images: ``B x dense_channels x H x W``, H and W multiples of ``dense_step``.
        """
        raise NotImplementedError(f"{self.name} has no dense network of its own")

    @property
    def device(self) -> torch.device:
        """Where the network lives (the CPU for extractors without parameters)."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @torch.inference_mode()
    def extract(self, image: Any, mask: Any = None) -> Features:
        """Features of an image or a batch.

        Args:
            image: ``H x W x 3`` or ``H x W`` uint8 array (RGB), ``B x 3 x H x W`` tensor (uint8, or float in [0, 1]),
                or the path of a file.
            mask: ``H x W`` (or ``B x H x W``) array or tensor, non-zero where keypoints are wanted.

        Raises:
            ImageError: shape, type or value range is none of those.
        """
        images = as_image_batch(image, self.device)
        masks = None if mask is None else as_mask_batch(mask, images)
        return self(images, masks)

    def detectAndCompute(
        self, image: np.ndarray, mask: np.ndarray | None = None
    ) -> tuple[list[cv2.KeyPoint], np.ndarray]:
        """OpenCV's calling convention: one RGB (or grey) uint8 image, and a mask that is zero where nothing is wanted.

        Returns:
            A list of N ``cv2.KeyPoint`` and an ``N x D`` float32 array of descriptors.
        """
        import cv2

        if not isinstance(image, np.ndarray):
            raise ImageError(f"detectAndCompute takes one numpy image, got {type(image).__name__}")
        features = self.extract(image, mask)[0]
        keypoints = [
            cv2.KeyPoint(float(x), float(y), 1.0, -1.0, float(score))
            for (x, y), score in zip(features.keypoints[0].tolist(), features.scores[0].tolist(), strict=True)
        ]
        return keypoints, features.descriptors[0].cpu().numpy()
