"""Mutual nearest neighbours over fused similarities."""

from semantic_matcher_core.matching.features import match_features, match_features_densely
from semantic_matcher_core.matching.nearest import DenseMatches, match_similarities
from semantic_matcher_core.matching.similarity import BandedSimilarity, FusedSimilarity, SimilarityMatrix
from semantic_matcher_core.settings import MatcherConfig

__all__ = [
    "BandedSimilarity",
    "DenseMatches",
    "FusedSimilarity",
    "MatcherConfig",
    "SimilarityMatrix",
    "match_features",
    "match_features_densely",
    "match_similarities",
]
