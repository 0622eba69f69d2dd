"""How well an extractor or a matcher does on fixed pairs of held-out pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from semantic_matcher_core.matching.features import match_features_densely
from semantic_matcher_core.types import Features
from training.compact.config import DataConfig
from training.compact.views import ViewPairBatches, ViewPairs
from training.projection import Warped
from training.reasoner.metrics import count_matches, figures
from training.reasoner.supervision import true_matches

_SEED = 987_654


def validation_pairs(pictures: Sequence[Tensor], config: DataConfig) -> dict[str, list[ViewPairs]]:
    """The pairs, one in each batch: ``upright`` (turned by up to 45 degrees) and ``turned`` (by any angle)."""
    half = config.validation_pairs // 2
    kinds = {"upright": 0.0, "turned": 1.0}
    return {
        kind: list(ViewPairBatches(pictures, config, batch=1, seed=_SEED, length=half, turn_probability=share))
        for kind, share in kinds.items()
    }


@torch.inference_mode()
def validate(extract: Callable[[Tensor], Features], pairs: dict[str, list[ViewPairs]]) -> dict[str, dict[str, float]]:
    """Precision, recall, correct and all mutual matches (see ``training.reasoner.metrics.figures``), by kind of pair.

    Args:
        extract: ``B x 3 x S x S`` images in [0, 1] to features.
        pairs: as :func:`validation_pairs` gives them.
    """
    result = {}
    for kind, batches in pairs.items():
        sums = torch.zeros(5, dtype=torch.float64)
        for batch in batches:
            size = batch.images.shape[-1]
            features = [extract(batch.images[i : i + 1]) for i in (0, 1)]
            keypoints0, keypoints1 = (f.keypoints.cpu().float() for f in features)
            warped = batch.truth.forward(keypoints0)
            # Beyond the picture's edge views are mirrored: there is no truth to be judged by.
            x, y = keypoints0.round().long().clamp(0, size - 1).unbind(-1)
            warped = Warped(warped.keypoints, warped.valid & batch.inside[:1].flatten(1).gather(1, y * size + x))
            positives = true_matches(warped.keypoints, warped.valid, keypoints1)
            dense = match_features_densely(*features, both_sides=False)
            sums += torch.stack(count_matches(dense.matches0.cpu(), warped, keypoints1, positives))
        result[kind] = figures(sums)
    return result
