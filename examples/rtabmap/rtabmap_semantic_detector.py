"""Keypoints and descriptors for RTAB-Map: the script of its parameter PyDetector/Path (docs/rtabmap.md).

RTAB-Map calls ``init`` once and ``detect`` for each image. What to detect with is in the environment, because
PyDetector has no parameter for it:

    SEMANTIC_MATCHER_VARIANT         a variant, or plain:<extractor> for no semantics (default: xfeat)
    SEMANTIC_MATCHER_MAX_KEYPOINTS   keypoints per image at most (default: 1000)
"""

from __future__ import annotations

import os

import numpy as np

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.io.rtabmap import descriptor_rows

_matcher: SemanticMatcher | None = None


def init(cuda: int) -> None:
    """Load the model; ``cuda`` is PyDetector/Cuda: 1 for a GPU where there is one, 0 for the CPU."""
    global _matcher
    variant = os.environ.get("SEMANTIC_MATCHER_VARIANT") or "xfeat"
    keypoints = int(os.environ.get("SEMANTIC_MATCHER_MAX_KEYPOINTS") or 1000)
    _matcher = SemanticMatcher.from_pretrained(variant, device="auto" if cuda else "cpu", max_keypoints=keypoints)
    print(f"semantic_matcher: {variant} on {_matcher.device}, up to {keypoints} keypoints", flush=True)


def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return keypoints and descriptors of a grey image.

    Args:
        image: ``H x W`` uint8.

    Returns:
        ``N x 3`` float32 rows x, y, score, and ``N x D`` float32 descriptors. With a reasoner a descriptor is its two
        unit vectors, the reasoned and the semantic one, one after the other; rtabmap_semantic_matcher.py takes them
        apart again, and Euclidean distances between such rows are meaningful to RTAB-Map's own matching.
    """
    if _matcher is None:
        raise RuntimeError("detect() was called before init()")
    features = _matcher.extract(np.asarray(image, np.uint8))
    keypoints = np.hstack([features.keypoints[0].cpu().numpy(), features.scores[0, :, None].cpu().numpy()])
    # RTAB-Map reads the memory as it lies there.
    return np.ascontiguousarray(keypoints, np.float32), np.ascontiguousarray(descriptor_rows(features))
