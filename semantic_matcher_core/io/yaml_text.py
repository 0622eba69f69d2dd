"""YAML from strangers: a few lines of aliases of aliases can stand for more values than a machine will ever count."""

from __future__ import annotations

import math
from typing import Any

import yaml

_MOST_VALUES = 1_000_000


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return what a YAML document holds.

    Args:
        text: the document.
        loader: a safe one.

    Raises:
        yaml.YAMLError: it is none, or holds more than a million values with its aliases written out.
        RecursionError: it is nested too deeply.
    """
    reading = loader(text)
    try:
        node = reading.get_single_node()
        if _values(node, {}) > _MOST_VALUES:
            raise yaml.YAMLError("its aliases stand for more than a million values")
        return None if node is None else reading.construct_document(node)
    finally:
        reading.dispose()


def _values(node: Any, counted: dict[int, float]) -> float:
    """Return how many values a node holds with its aliases written out; infinite where it holds itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counted:
        counted[id(node)] = math.inf
        inside = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counted[id(node)] = 1 + sum(_values(part, counted) for part in inside)
    return counted[id(node)]
