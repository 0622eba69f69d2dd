"""Which pictures make pairs: neighbours in order, and those that look alike, from nearly the same view to barely so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from semantic_matcher_core.retrieval.codebook import Codebook
from training.labelling.teacher import TeacherFeatures

# Distances in order that make pairs: each picture with the next, the one after …
ORDER_GAPS = (1, 2, 4, 8, 16)
# Best keypoints of each picture that are compared, how much nearer than the second a neighbour must be (Lowe 2004), and
# the least number of such mutual neighbours of a pair worth matching.
_COMPARED, _RATIO, _LEAST = 256, 0.8, 8
_SHORTLIST = 40
_SAMPLE = 65_536


def by_order(count: int) -> list[tuple[int, int]]:
    """Return pairs of pictures of a recording that are 1, 2, 4, 8 or 16 apart."""
    return [(i, i + gap) for gap in ORDER_GAPS for i in range(count - gap)]


def by_likeness(
    features: Sequence[TeacherFeatures], per_picture: int, generator: np.random.Generator, device: torch.device
) -> list[tuple[int, int]]:
    """Return pairs of pictures that share something, evenly from much to little.

    Candidates are the most alike by VLAD (Jégou et al., CVPR 2010); of each picture's candidates, ranked by mutual
    nearest neighbours among the best keypoints, ``per_picture`` are drawn evenly over the ranks. So hard pairs are as
    frequent as easy ones, and those without anything in common are left out.

    Args:
        features: of all pictures of one source.
        per_picture: pairs for each picture; a pair that both draw counts once.
        generator: draws.
        device: where descriptors are compared.
    """
    count = len(features)
    codebook = _codebook(features, generator)
    vectors = np.stack([codebook.aggregate(f.descriptors.astype(np.float32)) for f in features])
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -np.inf)
    best = [torch.from_numpy(f.descriptors[:_COMPARED]).to(device).float() for f in features]
    shared: dict[tuple[int, int], int] = {}
    chosen: set[tuple[int, int]] = set()
    for i in range(count):
        ranked = []
        for j in np.argsort(-alike[i])[: min(_SHORTLIST, count - 1)].tolist():
            pair = (min(i, j), max(i, j))
            if pair not in shared:
                shared[pair] = _mutual(best[pair[0]], best[pair[1]])
            if shared[pair] >= _LEAST:
                ranked.append((shared[pair], pair))
        ranked.sort(reverse=True)
        for part in np.array_split(np.arange(len(ranked)), min(per_picture, len(ranked)) or 1):
            if len(part):
                chosen.add(ranked[int(generator.choice(part))][1])
    return sorted(chosen)


def _codebook(features: Sequence[TeacherFeatures], generator: np.random.Generator) -> Codebook:
    every = np.concatenate([f.descriptors[:_COMPARED] for f in features]).astype(np.float32)
    return Codebook.train(generator.permutation(every)[:_SAMPLE], clusters=32)


def _mutual(descriptors0: torch.Tensor, descriptors1: torch.Tensor) -> int:
    if not len(descriptors0) or not len(descriptors1):
        return 0
    similarity = descriptors0 @ descriptors1.T
    best, places = similarity.topk(min(2, similarity.shape[1]), dim=1)
    there, back = places[:, 0], similarity.argmax(dim=0)
    # Distances of unit vectors: 2 (1 - similarity) is their square.
    clear = (1 - best[:, 0]) <= _RATIO**2 * (1 - best[:, -1]) if best.shape[1] > 1 else best[:, 0] > 0
    return int((clear & (back[there] == torch.arange(len(there), device=there.device))).sum())
