"""Networks in other formats, for other runtimes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semantic_matcher_core.export.onnx_backend import use_onnx
    from semantic_matcher_core.export.onnx_export import export_onnx

__all__ = ["export_onnx", "use_onnx"]

# Imported on first use: neither needs what the other does.
_LAZY = {"export_onnx": "onnx_export", "use_onnx": "onnx_backend"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
