"""Local features: one file each, one registry."""

from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.extractors.registry import create_extractor, list_extractors

__all__ = ["Extractor", "create_extractor", "list_extractors"]
