"""SIFT (Lowe, IJCV 2004) by OpenCV, with RootSIFT descriptors (Arandjelović & Zisserman, CVPR 2012)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.errors import ConfigError, check_choice
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.extractors.options import check_max_side
from semantic_matcher_core.extractors.resizing import fit_long_side, keypoints_at_size
from semantic_matcher_core.types import Features

ORIENTATIONS = ("all", "upright")

# OpenCV doubles the image with pixel areas kept (x -> 2x + 0.5) but maps back by x / 2, so that its keypoints lie a
# quarter of a pixel right of and below their place. Newer versions can be told not to; taking the quarter off gives
# the same keypoints with all of them.
_BIAS = 0.25


class Sift(Extractor):
    """OpenCV's SIFT on the CPU; descriptors are RootSIFT, so that their dot product is the Hellinger kernel.

    Convention:
        - Keypoints are sub-pixel, scores are the responses (contrast). Equal responses are ordered by y, x, size and
          angle, so the result does not depend on threads.
        - With ``orientations="all"`` a place that has several dominant gradient directions is given once for each, as
          OpenCV does and as a rotated camera needs. ``"upright"`` gives every place once, described without rotation.
        - Images on another device are copied to the CPU, and the features back.

    Args:
        max_keypoints: keep at most this many keypoints of each image.
        contrast_threshold, edge_threshold, octave_layers, sigma: OpenCV's ``contrastThreshold``, ``edgeThreshold``,
            ``nOctaveLayers`` and ``sigma``, with its defaults.
        orientations: ``"all"`` or ``"upright"``.
        max_side: an image with a longer side is seen at this one, which bounds memory; ``None``, as OpenCV, for no
            bound.
    """

    name = "sift"
    descriptor_dim = 128

    def __init__(
        self,
        max_keypoints: int = 2048,
        *,
        contrast_threshold: float = 0.04,
        edge_threshold: float = 10.0,
        octave_layers: int = 3,
        sigma: float = 1.6,
        orientations: str = "all",
        max_side: int | None = None,
    ) -> None:
        super().__init__(max_keypoints)
        for option, value, low in (
            ("contrast_threshold", contrast_threshold, 0.0),
            ("edge_threshold", edge_threshold, 1.0),
            ("octave_layers", octave_layers, 1),
            ("sigma", sigma, 0.5),
        ):
            if not low <= value < float("inf"):
                raise ConfigError(f"{option} must be {low} or more, got {value!r}")
        check_choice("orientations", orientations, ORIENTATIONS)
        self.contrast_threshold = float(contrast_threshold)
        self.edge_threshold = float(edge_threshold)
        self.octave_layers = int(octave_layers)
        self.sigma = float(sigma)
        self.orientations = orientations
        self.max_side = check_max_side(max_side)

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        given = (images.shape[-2], images.shape[-1])
        images, masks = fit_long_side(images, masks, self.max_side)
        seen = (images.shape[-2], images.shape[-1])
        # As OpenCV sees colour: 8 bits first, then grey. A picture that came as uint8 is recovered exactly.
        colour = (images.float() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        areas = [None] * len(colour) if masks is None else list(masks.cpu().numpy())
        features = []
        for picture, area in zip(colour, areas, strict=True):
            grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
            kept, descriptors = self._detect_and_describe(grey, area)
            # x, y, response, size, angle in degrees
            table = np.array([(*k.pt, k.response, k.size, k.angle) for k in kept], np.float32).reshape(-1, 5)
            rows = torch.from_numpy(table)[None]
            features.append(
                Features(
                    keypoints=keypoints_at_size(rows[..., :2] - _BIAS, seen, given),
                    scores=rows[..., 2].contiguous(),
                    descriptors=torch.from_numpy(root_sift(descriptors))[None],
                    image_size=given,
                    scales=rows[..., 3] * (max(given) / max(seen)),
                    orientations=rows[..., 4].deg2rad(),
                )
            )
        return Features.stack(features).to(images.device)

    def _detect_and_describe(
        self, grey: np.ndarray, area: np.ndarray | None
    ) -> tuple[Sequence[cv2.KeyPoint], np.ndarray]:
        """Return OpenCV's keypoints and its descriptors ``N x 128`` float32, best first."""
        kept: Sequence[cv2.KeyPoint]
        descriptors: np.ndarray | None
        if self.orientations == "upright":
            sift = self._sift(0)
            found = sift.detect(grey, None)
            kept = [found[row] for row in self._best_rows(found, area, once=True)]
            for keypoint in kept:
                keypoint.angle = 0.0
            kept, descriptors = sift.compute(grey, kept) if kept else ([], None)
        else:
            # OpenCV caps before it masks: with a mask all are needed. Capped, it keeps all that tie with the last one.
            found, described = self._sift(0 if area is not None else self.max_keypoints).detectAndCompute(grey, None)
            rows = self._best_rows(found, area, once=False)
            kept = [found[row] for row in rows]
            descriptors = described[rows] if rows else None
        if descriptors is None:
            descriptors = np.zeros((0, self.descriptor_dim), np.float32)
        return kept, descriptors

    def _sift(self, cap: int) -> cv2.SIFT:
        # Made anew each time, which takes microseconds: an OpenCV object can be neither copied nor pickled.
        return cv2.SIFT.create(cap, self.octave_layers, self.contrast_threshold, self.edge_threshold, self.sigma)

    def _best_rows(self, found: Sequence[cv2.KeyPoint], area: np.ndarray | None, *, once: bool) -> list[int]:
        """Return rows to keep, best first: inside the area, each place once where asked for, and no more than
        wanted.
        """
        table = np.array([(k.pt[0], k.pt[1], k.response, k.size, k.angle) for k in found], np.float32).reshape(-1, 5)
        x, y, response, size, angle = table.T
        order = np.lexsort((angle, size, x, y, -response))
        if area is not None:
            height, width = area.shape
            row = np.clip(np.rint(y - _BIAS), 0, height - 1).astype(np.intp)
            column = np.clip(np.rint(x - _BIAS), 0, width - 1).astype(np.intp)
            order = order[area[row, column][order]]
        if once and len(order):
            _, first = np.unique(table[order][:, [0, 1, 3]], axis=0, return_index=True)
            order = order[np.sort(first)]
        return order[: self.max_keypoints].tolist()


def root_sift(descriptors: np.ndarray) -> np.ndarray:
    """Compute RootSIFT: L1-normalised, then the square root of each element, which makes rows of unit length.

    Args:
        descriptors: ``N x D``, not negative; a row of zeros stays one.
    """
    total = descriptors.sum(axis=1, keepdims=True)
    return np.sqrt(descriptors / np.maximum(total, np.finfo(np.float32).tiny)).astype(np.float32)
