"""Semantic feature maps, and sampling them at keypoints."""

from semantic_matcher_core.semantics.encoder import SemanticEncoder, create_semantic_encoder, list_semantic_encoders
from semantic_matcher_core.semantics.resize import resize_for_encoder
from semantic_matcher_core.semantics.sampling import sample_at_keypoints

__all__ = [
    "SemanticEncoder",
    "create_semantic_encoder",
    "list_semantic_encoders",
    "resize_for_encoder",
    "sample_at_keypoints",
]
