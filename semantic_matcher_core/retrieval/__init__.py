"""Finding images of the same deformable object: an index of a folder, and queries verified by matches."""

from semantic_matcher_core.retrieval.build import BuildReport, build_index
from semantic_matcher_core.retrieval.codebook import Codebook
from semantic_matcher_core.retrieval.index import Hit, RetrievalIndex

__all__ = ["BuildReport", "Codebook", "Hit", "RetrievalIndex", "build_index"]
