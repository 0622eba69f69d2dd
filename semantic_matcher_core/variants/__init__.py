"""Variants: an extractor, a semantic encoder and a reasoner that belong together, by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from semantic_matcher_core.variants.names import DEFAULT_VARIANT, Variant, list_variants, resolve_variant

if TYPE_CHECKING:
    from semantic_matcher_core.variants.licences import licence_notes

__all__ = ["DEFAULT_VARIANT", "Variant", "licence_notes", "list_variants", "resolve_variant"]

# Imported on first use: listing and resolving names must not pay for torch.
_LAZY = {"licence_notes": "licences"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
