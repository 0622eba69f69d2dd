"""Networks in other formats, for other runtimes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.weights.places import cache_folder

if TYPE_CHECKING:
    from semantic_matcher_core.export.onnx_backend import use_onnx
    from semantic_matcher_core.export.onnx_export import export_onnx

__all__ = ["export_onnx", "onnx_folder", "use_onnx"]

# Imported on first use: neither needs what the other does.
_LAZY = {"export_onnx": "onnx_export", "use_onnx": "onnx_backend"}


def onnx_folder(variant: str) -> Path:
    """Where the graphs of a variant lie unless another folder is named: in the cache, by the variant's name.

    Raises:
        ConfigError: the variant is a path, which has no name of its own.
    """
    if "/" in variant or "\\" in variant or variant.startswith("."):
        raise ConfigError(f"variant {variant!r} is a path; name the folder of its ONNX graphs")
    return cache_folder() / "onnx" / variant.replace(":", "-")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
