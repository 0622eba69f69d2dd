"""Extractors by name: the built-in table, and third parties through an entry-point group."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from semantic_matcher_core.extractors.base import Extractor

ENTRY_POINT_GROUP = "semantic_matcher.extractors"


@dataclass(frozen=True)
class ExtractorEntry:
    """One line of the table.

    Attributes:
        module: the module below ``semantic_matcher_core.extractors`` that holds it; imported on first use.
        factory: a class or function of that module, ``factory(max_keypoints=…, **options) -> Extractor``.
        weights: name of its weights in the weights catalogue, or ``None`` when it has none (SIFT).
        options: options that this name stands for, e.g. which size of a family.
    """

    module: str
    factory: str
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


BUILT_IN: dict[str, ExtractorEntry] = {
    "xfeat": ExtractorEntry("xfeat", "XFeat", weights="xfeat-extractor"),
    "sift": ExtractorEntry("sift", "Sift"),
    "dalf": ExtractorEntry("dalf", "Dalf", weights="dalf"),
}

# Names that published configurations use for the same thing.
ALIASES: dict[str, str] = {}


def list_extractors() -> list[str]:
    """Names that :func:`create_extractor` knows, built-in ones first, then installed third-party ones."""
    return [*BUILT_IN, *sorted(set(_third_party()) - set(BUILT_IN))]


def create_extractor(
    name: str,
    max_keypoints: int = 2048,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
    fetch: bool = False,
    **options: Any,
) -> Extractor:
    """An extractor with its published weights loaded, in evaluation mode.

    Args:
        name: one of :func:`list_extractors`.
        max_keypoints: keep at most this many keypoints of each image.
        weights: a weights file, or a folder to search before the usual places; ``None`` for the usual places.
        device: see :func:`~semantic_matcher_core.device.resolve_device`.
        fetch: download the weights when they are not here; otherwise nothing touches the network.
        options: passed to the extractor, e.g. ``detection_threshold``.

    Raises:
        UnknownNameError: no such extractor.
        ConfigError: an option the extractor does not have.
        WeightsNotFoundError: its weights are not here (the message has the command that fetches them).
        CheckpointError: the weights file does not fit.
    """
    name = ALIASES.get(name, name)
    entry = BUILT_IN.get(name)
    if entry is None:
        extractor = _create_third_party(name, max_keypoints, options)
    else:
        module = importlib.import_module(f"semantic_matcher_core.extractors.{entry.module}")
        factory, options = getattr(module, entry.factory), {**entry.options, **options}
        if entry.weights is None:
            extractor = _call(factory, name, max_keypoints, options)
        else:
            from semantic_matcher_core.weights import find_weights, load_state_dict_strictly, read_state_dict

            path = find_weights(entry.weights, weights, fetch=fetch)
            # Some layouts come in versions that only the tensors tell apart.
            if hasattr(factory, "options_of_state_dict"):
                options = {**factory.options_of_state_dict(read_state_dict(path)), **options}
            extractor = _call(factory, name, max_keypoints, options)
            load_state_dict_strictly(extractor, path)
    return extractor.eval().requires_grad_(False).to(resolve_device(device))


def accepted_options(name: str) -> frozenset[str]:
    """Names of the options that an extractor takes besides ``max_keypoints``; it is imported, but not built.

    Raises:
        UnknownNameError: no such extractor.
    """
    name = ALIASES.get(name, name)
    entry = BUILT_IN.get(name)
    if entry is None:
        factory = _entry_point(name).load()
    else:
        factory = getattr(importlib.import_module(f"semantic_matcher_core.extractors.{entry.module}"), entry.factory)
    parameters = inspect.signature(factory).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is not p.VAR_KEYWORD) - {"max_keypoints"}


def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _entry_point(name: str) -> EntryPoint:
    point = _third_party().get(name)
    if point is None:
        raise UnknownNameError(f"unknown extractor {name!r}; known: {', '.join(list_extractors())}")
    return point


def _create_third_party(name: str, max_keypoints: int, options: dict[str, Any]) -> Extractor:
    point = _entry_point(name)
    from semantic_matcher_core.extractors.base import Extractor

    extractor = _call(point.load(), name, max_keypoints, options)
    if not isinstance(extractor, Extractor):
        raise ConfigError(f"entry point {name!r} ({point.value}) gave a {type(extractor).__name__}, not an Extractor")
    return extractor


def _call(factory: Callable[..., Extractor], name: str, max_keypoints: int, options: dict[str, Any]) -> Extractor:
    accepted = inspect.signature(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    unknown = [] if takes_any else sorted(set(options) - set(accepted))
    if unknown:
        known = ", ".join(p for p in accepted if p not in ("self", "max_keypoints")) or "none"
        raise ConfigError(f"extractor {name!r} has no option {', '.join(map(repr, unknown))}; it has: {known}")
    return factory(max_keypoints=max_keypoints, **options)
