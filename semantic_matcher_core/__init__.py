"""semantic_matcher: match images with local features and semantics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semantic_matcher_core.extractors import create_extractor, list_extractors
    from semantic_matcher_core.pipeline import SemanticMatcher
    from semantic_matcher_core.types import Features, Matches
    from semantic_matcher_core.variants import list_variants

__version__ = "0.1.0"

# Imported on first use: `semantic-matcher --help` and `import semantic_matcher_core` must not pay for torch.
_PUBLIC = {
    "Features": "types",
    "Matches": "types",
    "SemanticMatcher": "pipeline",
    "create_extractor": "extractors",
    "list_extractors": "extractors",
    "list_variants": "variants",
}

__all__ = ["Features", "Matches", "SemanticMatcher", "create_extractor", "list_extractors", "list_variants"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
