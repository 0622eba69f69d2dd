"""ORB (Rublee et al., ICCV 2011) by OpenCV, as an extractor of semantic_matcher.

``semantic_matcher_core.extractors.Extractor`` states what is asked: a name, a descriptor dimension, and ``forward``.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core import Features
from semantic_matcher_core.extractors import Extractor

BITS = 256


class Orb(Extractor):
    """ORB's keypoints; the 256 bits of a descriptor become ±1/16, so that the dot product is 1 - Hamming / 128.

    Args:
        max_keypoints: keep at most this many keypoints of each image.
        scale_factor: between the levels of the image pyramid.
        fast_threshold: how much brighter or darker the circle round a corner must be, in 8-bit steps.
    """

    name = "orb"
    descriptor_dim = BITS

    def __init__(self, max_keypoints: int = 2048, *, scale_factor: float = 1.2, fast_threshold: int = 20) -> None:
        super().__init__(max_keypoints)
        self.scale_factor = scale_factor
        self.fast_threshold = fast_threshold

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        """Turn ``B x 3 x H x W`` RGB in [0, 1] into Features; ``masks`` is ``B x H x W`` bool, or ``None``."""
        pictures = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        areas = [None] * len(pictures) if masks is None else list(masks.to(torch.uint8).cpu().numpy())
        # One image after the other, then padded to the longest: Features.stack marks the padding as such.
        features = [self._one(picture, area) for picture, area in zip(pictures, areas, strict=True)]
        return Features.stack(features).to(images.device)

    def _one(self, picture: np.ndarray, area: np.ndarray | None) -> Features:
        orb = cv2.ORB_create(self.max_keypoints, scaleFactor=self.scale_factor, fastThreshold=self.fast_threshold)
        found, bits = orb.detectAndCompute(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), area)
        keypoints = np.array([k.pt for k in found], dtype=np.float32).reshape(-1, 2)
        scores = np.array([k.response for k in found], dtype=np.float32)
        # Keypoints are true pixel indices of the image. OpenCV gives k * scale for pixel k of a pyramid level, but the
        # level's sides are whole numbers, and its pixel k is centred at (k + 0.5) * side / level's side - 0.5.
        scale = np.array([self.scale_factor**k.octave for k in found], dtype=np.float32)[:, None]
        sides = np.array([picture.shape[1], picture.shape[0]], dtype=np.float32)
        keypoints = (keypoints / scale + 0.5) * (sides / np.rint(sides / scale)) - 0.5
        bits = np.zeros((0, BITS // 8), np.uint8) if bits is None else bits
        signs = np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1
        best = np.argsort(-scores, kind="stable")[: self.max_keypoints]
        return Features(
            keypoints=torch.from_numpy(keypoints[best])[None],
            scores=torch.from_numpy(scores[best])[None],
            descriptors=torch.from_numpy(signs[best] / BITS**0.5)[None],
            image_size=(picture.shape[0], picture.shape[1]),
        )
