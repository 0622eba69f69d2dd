"""Mutual nearest neighbours over fused similarities."""

from semantic_matcher_core.matching.features import match_features, match_features_densely
from semantic_matcher_core.matching.nearest import DenseMatches, match_similarities
from semantic_matcher_core.matching.similarity import FusedSimilarity
from semantic_matcher_core.settings import MatcherConfig

__all__ = [
    "DenseMatches",
    "FusedSimilarity",
    "MatcherConfig",
    "match_features",
    "match_features_densely",
    "match_similarities",
]
