"""Matching for RTAB-Map of what rtabmap_semantic_detector.py found: the script of PyMatcher/Path (docs/rtabmap.md).

RTAB-Map calls ``init`` before the first match, and ``match`` for each pair of images. No model is needed: descriptors
are mutual nearest neighbours, and where they are reasoned and semantic ones, by the product of both similarities.
"""

from __future__ import annotations

import numpy as np
import torch

from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.matching import MatcherConfig, match_features
from semantic_matcher_core.types import Features

_config = MatcherConfig()
_device = torch.device("cpu")


def init(descriptor_dim: int, match_threshold: float, iterations: int, cuda: int, model: str) -> None:
    """Prepare to match.

    Args:
        descriptor_dim: length of a descriptor.
        match_threshold: PyMatcher/Threshold: similarity that a match has at least.
        iterations, model: for other matchers; of no effect.
        cuda: PyMatcher/Cuda: 1 for a GPU where there is one, 0 for the CPU.
    """
    global _config, _device
    _config = MatcherConfig(min_similarity=match_threshold)
    _device = resolve_device("auto" if cuda else "cpu")
    print(
        f"semantic_matcher: {descriptor_dim} dimensions, similarity {match_threshold:g} or more, {_device}", flush=True
    )


def match(
    keypoints_from: np.ndarray,
    keypoints_to: np.ndarray,
    scores_from: np.ndarray,
    scores_to: np.ndarray,
    descriptors_from: np.ndarray,
    descriptors_to: np.ndarray,
    image_width: int,
    image_height: int,
) -> np.ndarray:
    """Return the matches between two images.

    Args:
        keypoints_from, keypoints_to: ``N x 2`` and ``M x 2`` float32 (x, y).
        scores_from, scores_to: ``N`` and ``M`` float32.
        descriptors_from, descriptors_to: ``N x D`` and ``M x D`` float32, of the detector beside this file.
        image_width, image_height: of both images.

    Returns:
        ``K x 2`` int32: rows of the two sides.

    Raises:
        ValueError: the descriptors are of another detector.
    """
    if len(keypoints_from) == 0 or len(keypoints_to) == 0:
        return np.empty((0, 2), np.int32)
    size = (image_height, image_width)
    matches = match_features(
        _features(keypoints_from, scores_from, descriptors_from, size),
        _features(keypoints_to, scores_to, descriptors_to, size),
        _config,
    )
    # Not int64: RTAB-Map reads it rightly too, but its branches for 64 bits are easily confused.
    return np.ascontiguousarray(matches.indices.cpu().numpy(), np.int32)


def _features(keypoints: np.ndarray, scores: np.ndarray, descriptors: np.ndarray, size: tuple[int, int]) -> Features:
    # Copies: what RTAB-Map passes is its own memory, and gone after the call.
    rows = torch.tensor(np.asarray(descriptors, np.float32), device=_device)[None]
    halves: list[torch.Tensor | None] = [None, None]
    if _is_pair(rows):
        halves = list(rows.chunk(2, dim=-1))
    return Features(
        torch.tensor(np.asarray(keypoints, np.float32), device=_device).reshape(1, -1, 2),
        torch.tensor(np.asarray(scores, np.float32), device=_device)[None],
        rows,
        size,
        reasoned=halves[0],
        semantic=halves[1],
    )


def _is_pair(rows: torch.Tensor) -> bool:
    """Return whether each row is two unit vectors rather than one."""
    squares = rows.square().sum(dim=-1)
    if torch.allclose(squares, torch.ones_like(squares), atol=0.02):
        return False
    if rows.shape[-1] % 2 == 0:
        parts = torch.stack([half.square().sum(dim=-1) for half in rows.chunk(2, dim=-1)])
        if torch.allclose(parts, torch.ones_like(parts), atol=0.02):
            return True
    raise ValueError(
        "the descriptors are neither unit vectors nor pairs of them; set PyDetector/Path to "
        "rtabmap_semantic_detector.py, and Kp/DetectorStrategy and Vis/FeatureType to 15"
    )
