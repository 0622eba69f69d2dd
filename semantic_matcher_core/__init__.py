"""semantic_matcher: match images with local features and semantics."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from semantic_matcher_core.version import __version__ as __version__

if TYPE_CHECKING:
    from semantic_matcher_core.extractors import create_extractor, list_extractors
    from semantic_matcher_core.io.images import read_image
    from semantic_matcher_core.matching.verification import verify
    from semantic_matcher_core.pipeline import SemanticMatcher
    from semantic_matcher_core.types import Features, Matches
    from semantic_matcher_core.variants import list_variants
    from semantic_matcher_core.viz.matches import draw_matches

# Imported on first use: `semantic-matcher --help` and `import semantic_matcher_core` must not pay for torch.
_PUBLIC = {
    "Features": "types",
    "Matches": "types",
    "SemanticMatcher": "pipeline",
    "create_extractor": "extractors",
    "draw_matches": "viz.matches",
    "list_extractors": "extractors",
    "list_variants": "variants",
    "read_image": "io.images",
    "verify": "matching.verification",
}

__all__ = [
    "Features",
    "Matches",
    "SemanticMatcher",
    "create_extractor",
    "draw_matches",
    "list_extractors",
    "list_variants",
    "read_image",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        near = difflib.get_close_matches(name, _PUBLIC, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
