"""Variants: an extractor, a semantic encoder and a reasoner that belong together, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from semantic_matcher_core.variants.names import DEFAULT_VARIANT, Variant, list_variants, resolve_variant

if TYPE_CHECKING:
    from semantic_matcher_core.variants.build import build_parts

__all__ = ["DEFAULT_VARIANT", "Variant", "build_parts", "list_variants", "resolve_variant"]


def __getattr__(name: str) -> Any:
    # Listing and resolving names must not pay for torch.
    if name != "build_parts":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from semantic_matcher_core.variants.build import build_parts

    return build_parts
