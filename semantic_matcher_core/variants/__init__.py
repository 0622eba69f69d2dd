"""Variants: an extractor, a semantic encoder and a reasoner that belong together, by name."""

from __future__ import annotations

from semantic_matcher_core.variants.licences import licence_notes
from semantic_matcher_core.variants.names import DEFAULT_VARIANT, Variant, list_variants, resolve_variant

__all__ = ["DEFAULT_VARIANT", "Variant", "licence_notes", "list_variants", "resolve_variant"]
