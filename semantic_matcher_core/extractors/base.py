"""What every local feature extractor is."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.extractors.selection import is_wanted, keep_rows
from semantic_matcher_core.inference import check_process, evaluating, inference
from semantic_matcher_core.inputs import as_image_batch, as_mask_batch
from semantic_matcher_core.settings import check_max_keypoints
from semantic_matcher_core.types import Features

if TYPE_CHECKING:
    import cv2


@dataclass(frozen=True)
class Limits:
    """Which keypoints are kept, for one call.

    Attributes:
        max_keypoints: of each image, the best by score.
        detection_threshold: a keypoint's score must be above it; ``None`` for the extractor's own.
        fixed_size: give ``max_keypoints`` rows and ``valid`` always, without any host synchronisation off the CPU, as a
            CUDA graph must; only a :class:`~semantic_matcher_core.extractors.dense.DenseExtractor` can.
    """

    max_keypoints: int
    detection_threshold: float | None = None
    fixed_size: bool = False

    @property
    def threshold(self) -> float:
        """The detection threshold; 0 where the extractor has none."""
        return 0.0 if self.detection_threshold is None else self.detection_threshold


Dense = Callable[[Tensor], tuple[Tensor, ...]]


class Extractor(nn.Module, ABC):
    """A local feature: images in, :class:`~semantic_matcher_core.types.Features` out.

    A subclass sets ``name`` and ``descriptor_dim`` and implements :meth:`forward`; it builds its network without
    touching disk or network, and weights are loaded by :func:`~semantic_matcher_core.extractors.create_extractor`.
    One with a dense network derives from :class:`~semantic_matcher_core.extractors.dense.DenseExtractor` instead.

    Convention:
        - Keypoints are true pixel indices of the image as given, whatever padding or resizing the network needs:
          a resized image maps back by ``(kp + 0.5) / scale - 0.5``, a padded one by subtracting the offset.
        - Rows are sorted by descending score; images of a batch are padded to the longest (see ``types``).
        - The result of one image does not depend on the others of its batch.
        - Any size from 1 x 1 works; an image without keypoints gives zero rows.
        - Nothing is remembered from one image to the next, so that several threads may share an extractor.

    Args:
        max_keypoints: keep at most this many keypoints of each image, the best by score.
    """

    name: str = ""
    descriptor_dim: int = 0
    # Runs in float32 at every precision: narrow types would move its keypoints for little time.
    full_precision: bool = False
    # Its descriptors are matched by guided search, where nothing else is asked for: see ``matching.guided``.
    guided: bool = False

    def __init__(self, max_keypoints: int = 2048) -> None:
        super().__init__()
        check_process()
        self.max_keypoints = check_max_keypoints(max_keypoints)

    @abstractmethod
    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        """Detect and describe.

        Args:
            images: ``B x 3 x H x W`` RGB float in [0, 1].
            masks: ``B x H x W`` bool, true where keypoints are wanted, or ``None`` for everywhere.

        Returns:
            Features of B images, on the device of ``images``, keypoints, scores and descriptors in float32.
        """

    def configured(self, **options: Any) -> Self:
        """Return this extractor with other options, on the same networks; this one stays as it is.

        Args:
            options: attributes of the extractor, e.g. ``max_keypoints``.

        Raises:
            ConfigError: it has no such option.
        """
        other = copy.copy(self)
        for name, value in options.items():
            if not hasattr(self, name):
                raise ConfigError(f"extractor {self.name!r} has no {name}")
            setattr(other, name, value)
        return other

    def features(
        self, images: Tensor, masks: Tensor | None = None, *, limits: Limits | None = None, dense: Dense | None = None
    ) -> Features:
        """Detect and describe, with limits for this call.

        Args:
            images, masks: as for :meth:`forward`.
            limits: ``None`` for the extractor's own.
            dense: what runs the dense network, for extractors that have one.

        Raises:
            ConfigError: ``limits`` has a detection threshold, and the extractor has none.
        """
        if limits is None:
            return self(images, masks)
        options: dict[str, Any] = {"max_keypoints": limits.max_keypoints}
        if limits.detection_threshold is not None:
            options["detection_threshold"] = limits.detection_threshold
        return self.configured(**options)(images, masks)

    @property
    def device(self) -> torch.device:
        """Where the network lives (the CPU for extractors without parameters)."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @inference
    def extract(self, image: Any, mask: Any = None) -> Features:
        """Return features of an image or a batch.

        Args:
            image: ``H x W x 3`` or ``H x W`` uint8 array (RGB), ``B x 3 x H x W`` tensor (uint8, or float in [0, 1]),
                or the path of a file.
            mask: ``H x W`` (or ``B x H x W``) array or tensor, non-zero where keypoints are wanted.

        Raises:
            ImageError: shape, type or value range is none of those.
        """
        images = as_image_batch(image, self.device)
        masks = None if mask is None else as_mask_batch(mask, images)
        features = replace(evaluating(self)(images, masks), made_by=self.name)
        return features if masks is None else keep_rows(features, is_wanted(features.keypoints, masks))

    def detectAndCompute(self, image: Any, mask: np.ndarray | None = None) -> tuple[list[cv2.KeyPoint], np.ndarray]:
        """Extract by OpenCV's calling convention.

        Args:
            image: one, as for :meth:`extract`; RGB or grey.
            mask: zero where nothing is wanted.

        Returns:
            A list of N ``cv2.KeyPoint`` and an ``N x D`` float32 array of descriptors. Extractors without scales and
            orientations give size 1 and angle -1, which stands for none.
        """
        import cv2

        features = self.extract(image, mask)
        if len(features) != 1:
            raise ImageError(f"detectAndCompute takes one image, got a batch of {len(features)}")
        scores = features.scores[0].tolist()
        sizes = [1.0] * len(scores) if features.scales is None else features.scales[0].tolist()
        turned = features.orientations
        angles = [-1.0] * len(scores) if turned is None else (torch.rad2deg(turned[0]) % 360).tolist()
        keypoints = [
            cv2.KeyPoint(x, y, size, angle, score)
            for (x, y), size, angle, score in zip(features.keypoints[0].tolist(), sizes, angles, scores, strict=True)
        ]
        return keypoints, features.descriptors[0].cpu().numpy()
