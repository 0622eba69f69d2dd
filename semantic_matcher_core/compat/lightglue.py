"""The calling convention of cvg/LightGlue, for code that moves over.

    from semantic_matcher_core.compat import LightGlue

    matcher = LightGlue(features="aliked")
    result = matcher({"image0": features0, "image1": features1})  # dicts of tensors, as its extractors give them
    result["matches"][0], result["scores"][0]  # M x 2 rows of both images, M probabilities

What differs: weights are looked for here and not downloaded (``fetch=True`` does), and the diagnostics ``stop``,
``prune0`` and ``prune1`` are not among the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semantic_matcher_core.errors import ShapeError, check_choice
from semantic_matcher_core.inference import inference
from semantic_matcher_core.matching.learned import create_lightglue
from semantic_matcher_core.settings import MatcherConfig
from semantic_matcher_core.types import Features

# What published code calls the extractors.
_NAMES = {
    "superpoint": "superpoint",
    "disk": "disk",
    "aliked": "aliked-n16",
    "sift": "sift",
    "xfeat": "xfeat",
    "dedodeb": "dedode-B",
    "dedodeg": "dedode-G",
}


class LightGlue(nn.Module):
    """LightGlue by the names and dictionaries of its own code.

    Args:
        features: ``superpoint``, ``disk``, ``aliked``, ``sift``, ``xfeat``, ``dedodeb`` or ``dedodeg``.
        filter_threshold, depth_confidence, width_confidence: as there; -1 switches the last two off.
        weights, device, fetch: see :func:`~semantic_matcher_core.matching.learned.create_lightglue`.

    Raises:
        ConfigError: none of these names.
        WeightsNotFoundError: the weights are not here; the message has the command that fetches them.
    """

    def __init__(
        self,
        features: str = "superpoint",
        *,
        filter_threshold: float = 0.1,
        depth_confidence: float | None = None,
        width_confidence: float | None = None,
        weights: str | Path | None = None,
        device: str | torch.device = "auto",
        fetch: bool = False,
    ) -> None:
        super().__init__()
        check_choice("features", features, _NAMES)
        self.matcher = create_lightglue(_NAMES[features], weights=weights, device=device, fetch=fetch)
        self.config = MatcherConfig(
            matcher="lightglue",
            filter_threshold=filter_threshold,
            depth_confidence=_published(depth_confidence),
            width_confidence=_published(width_confidence),
        )
        self.eval()

    @inference
    def forward(self, data: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
        """Match a batch of pairs.

        Args:
            data: ``image0`` and ``image1``, each with ``keypoints`` B x N x 2, ``descriptors`` B x N x D,
                ``image_size`` B x 2 (width, height) or ``image`` B x C x H x W, and for SIFT ``scales`` and ``oris``
                B x N.

        Returns:
            ``matches0``, ``matches1`` (B x N, -1 for none), ``matching_scores0``, ``matching_scores1``, and for each
            pair ``matches`` (M x 2) and ``scores`` (M).
        """
        first, second = (_features(data[f"image{i}"]) for i in (0, 1))
        found = self.matcher(first, second, self.config)
        pair = torch.zeros_like(found.indices[:, 0]) if found.pair is None else found.pair
        result: dict[str, Any] = {}
        for side, features in enumerate((first, second)):
            shape = features.keypoints.shape[:2]
            matches = torch.full(shape, -1, device=features.device)
            scores = torch.zeros(shape, device=features.device)
            matches[pair, found.indices[:, side]] = found.indices[:, 1 - side]
            scores[pair, found.indices[:, side]] = found.confidence
            result |= {f"matches{side}": matches, f"matching_scores{side}": scores}
        parts = [found.of_pair(b) for b in range(found.batch_size)]
        return result | {"matches": [p.indices for p in parts], "scores": [p.confidence for p in parts]}


def _published(confidence: float | None) -> float | None:
    return confidence if confidence is None or confidence > 0 else 1.0


def _features(data: Mapping[str, Tensor]) -> Features:
    keypoints = data["keypoints"]
    if "image_size" in data:
        sizes = data["image_size"].reshape(-1, 2)
        if bool((sizes != sizes[0]).any()):
            raise ShapeError(f"images of a batch must be of one size, got {sizes.tolist()}")
        width, height = (int(v) for v in sizes[0])
    elif "image" in data:
        height, width = data["image"].shape[-2:]
    else:
        raise ShapeError("neither image_size nor image is given, which say how large the image is")
    scores = data.get("keypoint_scores", torch.ones_like(keypoints[..., 0]))
    return Features(
        keypoints,
        scores,
        data["descriptors"],
        (height, width),
        scales=data.get("scales"),
        orientations=data.get("oris"),
    )
