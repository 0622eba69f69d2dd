"""Matches between Features."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor

from semantic_matcher_core.errors import DeviceError, ShapeError
from semantic_matcher_core.layers import finite_rows
from semantic_matcher_core.matching.guided import match_guided
from semantic_matcher_core.matching.nearest import DenseMatches, match_similarities
from semantic_matcher_core.matching.similarity import FusedSimilarity
from semantic_matcher_core.matching.sizes import Seen, sizes_of
from semantic_matcher_core.matching.turns import best_look
from semantic_matcher_core.settings import MatcherConfig
from semantic_matcher_core.types import Features, Matches, check_same_maker


def match_features(features0: Features, features1: Features, config: MatcherConfig | None = None) -> Matches:
    """Return matches between two batches of features, image by image.

    What a reasoner gave is matched where it is there (``reasoned``, fused with ``semantic`` where that is there too),
    the extractor's descriptors otherwise. A row with NaN or infinity in it is left out, and changes no other. One host
    synchronisation, for the number of matches.

    Args:
        features0, features1: of the same batch size and with the same fields; keypoint counts may differ.
        config: ``None`` for the defaults.

    Returns:
        Matches whose confidence is the (fused) similarity; none where a side has no keypoints.

    Raises:
        ShapeError: batch size, fields, descriptor dimensions or what made them differ.
        DeviceError: the two are on different devices.
    """
    if features0.turn is not None or features0.shrink is not None:
        return _match_looks(features0, features1, config)
    dense = match_features_densely(features0, features1, config)
    pair, index0 = (dense.matches0 >= 0).nonzero(as_tuple=True)
    index1 = dense.matches0[pair, index0]
    return Matches(
        indices=torch.stack((index0, index1), dim=1),
        keypoints0=features0.keypoints[pair, index0],
        keypoints1=features1.keypoints[pair, index1],
        confidence=dense.similarity0[pair, index0],
        pair=pair if len(features0) != 1 else None,
        batch_size=len(features0),
    )


def _match_looks(features0: Features, features1: Features, config: MatcherConfig | None) -> Matches:
    """Return matches with the rows of the turn and size that fit; of a batch, pair by pair."""
    if len(features0) != 1:
        parts = [_match_looks(features0[i], features1[i], config) for i in range(len(features0))]
        pair = torch.cat([torch.full_like(part.indices[:, 0], i) for i, part in enumerate(parts)])
        names = ("indices", "keypoints0", "keypoints1", "confidence")
        joined = [torch.cat([getattr(part, name) for part in parts]) for name in names]
        return Matches(joined[0], joined[1], joined[2], joined[3], pair=pair, batch_size=len(parts))
    looks = _looks(features0[0])
    if not looks:
        return match_features(replace(features0, turn=None, shrink=None), features1, config)
    config = config or MatcherConfig()
    # Which look it is the first search tells.
    first = replace(config, guided="never")
    candidates = [match_features(look.features, features1, first) for look in looks]
    best = best_look(candidates)
    look, found = looks[best], candidates[best]
    if config.guided == "always":
        found = match_features(look.features, features1, config)
    return look.restored(found, features0)


def _looks(features: Features) -> list[Seen]:
    """Return each turn, at each size, that one image was seen at."""
    return [
        Seen(size.features.rows(which), size.rows[which])
        for size in sizes_of(features)
        for which in _turns(size.features)
    ]


def _turns(features: Features) -> list[Tensor]:
    """Return the rows of each turn."""
    if features.turn is None:
        return [torch.arange(features.keypoints.shape[1], device=features.device)]
    return [(features.turn[0] == turn).nonzero()[:, 0] for turn in features.turn.unique_consecutive().tolist()]


def match_features_densely(
    features0: Features, features1: Features, config: MatcherConfig | None = None
) -> DenseMatches:
    """Match as :func:`match_features` does, one entry per keypoint and without any host synchronisation."""
    config = config or MatcherConfig()
    vectors0, vectors1 = _comparable(features0, features1)
    with torch.autocast(features0.device.type, enabled=False):
        vectors0, valid0 = _usable([v.float() for v in vectors0], features0.valid)
        vectors1, valid1 = _usable([v.float() for v in vectors1], features1.valid)
        ordinates = None if config.band_px is None else (features0.keypoints[..., 1], features1.keypoints[..., 1])
        similarity = FusedSimilarity(vectors0, vectors1, config, ordinates)
        if config.guided != "always":
            return match_similarities(similarity, config, valid0, valid1)
        return match_guided(similarity, config, (features0.keypoints, features1.keypoints), (valid0, valid1))


def _usable(vectors: list[Tensor], valid: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
    """Return the vectors, and which rows are to be matched: a row with NaN or infinity is none, and spoils no other.

    One such row makes every similarity to it NaN, which would win each maximum that it takes part in.
    """
    finite = functools.reduce(torch.logical_and, [finite_rows(v) for v in vectors])
    # On a GPU asking would wait for it; there the rows are always marked.
    if vectors[0].device.type == "cpu" and bool(finite.all()):
        return vectors, valid
    # What its similarities are does not matter: the search sees none of them.
    return vectors, finite if valid is None else finite & valid


def _comparable(features0: Features, features1: Features) -> tuple[list[Tensor], list[Tensor]]:
    if len(features0) != len(features1):
        raise ShapeError(f"cannot match a batch of {len(features0)} images with a batch of {len(features1)}")
    if features0.device != features1.device:
        raise DeviceError(f"features are on {features0.device} and {features1.device}; move one with .to()")
    names = ["descriptors"] if features0.reasoned is None else ["reasoned", "semantic"]
    for name in ("reasoned", "semantic"):
        if (getattr(features0, name) is None) != (getattr(features1, name) is None):
            raise ShapeError(f"only one side has {name} descriptors; extract both with the same matcher")
    sides = [[t for name in names if (t := getattr(f, name)) is not None] for f in (features0, features1)]
    for name, v0, v1 in zip(names, *sides, strict=False):
        if v0.shape[-1] != v1.shape[-1]:
            raise ShapeError(f"{name} have {v0.shape[-1]} and {v1.shape[-1]} dimensions; use the same variant for both")
    check_same_maker(features0, features1)
    return sides[0], sides[1]
