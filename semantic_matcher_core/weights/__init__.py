"""Weights: what exists, where it lies on this machine, how it gets here, and how it is read safely."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from semantic_matcher_core.weights.catalogue import Entry, get_entry, list_entries
from semantic_matcher_core.weights.licences import licence_note
from semantic_matcher_core.weights.places import cache_folder, locate, search_folders, weights_folder
from semantic_matcher_core.weights.resolve import find_weights

if TYPE_CHECKING:
    from semantic_matcher_core.weights.fetch import fetch_weights
    from semantic_matcher_core.weights.loading import load_state_dict_strictly, read_state_dict

__all__ = [
    "Entry",
    "cache_folder",
    "fetch_weights",
    "find_weights",
    "get_entry",
    "licence_note",
    "list_entries",
    "load_state_dict_strictly",
    "locate",
    "read_state_dict",
    "search_folders",
    "weights_folder",
]

# Imported on first use: `semantic-matcher weights list` must not pay for torch, nor a look-up for the network code.
_LAZY = {"fetch_weights": "fetch", "load_state_dict_strictly": "loading", "read_state_dict": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
