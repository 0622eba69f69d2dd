"""Extractors by name: the built-in table, and third parties through an entry-point group."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from semantic_matcher_core.extractors.base import Extractor

_log = logging.getLogger(__name__)
ENTRY_POINT_GROUP = "semantic_matcher.extractors"
# torch's own name for the module itself among its submodules.
_WHOLE = ""


@dataclass(frozen=True)
class ExtractorEntry:
    """One line of the table.

    Attributes:
        module: the module below ``semantic_matcher_core.extractors`` that holds it; imported on first use.
        factory: a class or function of that module, ``factory(max_keypoints=…, **options) -> Extractor``.
        weights: name of its weights in the weights catalogue; or, where they come in several files, the name for each
            of its submodules; or ``None`` when it has none (SIFT).
        options: options that this name stands for, e.g. which size of a family.
    """

    module: str
    factory: str
    weights: str | dict[str, str] | None = None
    options: dict[str, Any] = field(default_factory=dict)


def _sized(module: str, factory: str, model: str) -> ExtractorEntry:
    return ExtractorEntry(module, factory, weights=model, options={"model": model})


BUILT_IN: dict[str, ExtractorEntry] = {
    "compact": ExtractorEntry("compact", "Compact", weights="compact-extractor"),
    "xfeat": ExtractorEntry("xfeat", "XFeat", weights="xfeat-extractor"),
    "sift": ExtractorEntry("sift", "Sift"),
    "dalf": ExtractorEntry("dalf", "Dalf", weights="dalf"),
    "superpoint": ExtractorEntry("superpoint", "SuperPoint", weights="superpoint-extractor"),
    **{f"alike-{size}": _sized("alike", "Alike", f"alike-{size}") for size in ("t", "s", "n", "l")},
    **{f"aliked-{size}": _sized("aliked", "Aliked", f"aliked-{size}") for size in ("t16", "n16", "n16rot", "n32")},
    **{
        f"edgepoint2-{size}": _sized("edgepoint2", "EdgePoint2", f"edgepoint2-{size}")
        for size in ("t32", "t48", *(f"{letter}{dim}" for letter in "smle" for dim in (32, 48, 64)))
    },
    "dedode-B": ExtractorEntry(
        "dedode",
        "DeDoDe",
        weights={"detector": "dedode-detector-L-upright", "descriptor": "dedode-descriptor-B-upright"},
        options={"descriptor": "B"},
    ),
    "dedode-G": ExtractorEntry(
        "dedode",
        "DeDoDe",
        weights={
            "detector": "dedode-detector-L-upright",
            "descriptor": "dedode-descriptor-G-upright",
            "dinov2": "dinov2_vitl14",
        },
        options={"descriptor": "G"},
    ),
    "disk": ExtractorEntry("disk", "Disk", weights="disk"),
}

# Names that published configurations, checkpoints and papers use for the same thing.
ALIASES: dict[str, str] = {
    "alike": "alike-n",
    "aliked": "aliked-n16",
    "aliked-n": "aliked-n16",
    "dedode": "dedode-B",
    "dedode_B": "dedode-B",
    "dedode_G": "dedode-G",
    "delf": "easy:delf",
    "relf": "easy:relf",
}

# Any method of the easy-local-features package, by its name there.
_EASY = "easy:"


def list_extractors() -> list[str]:
    """Return names that :func:`create_extractor` knows, built-in ones first, then installed third-party ones.

    Besides, it knows ``easy:<method>`` for the methods of the easy-local-features package, where that is installed.
    """
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
    """Return an extractor with its published weights loaded, in evaluation mode.

    Args:
        name: one of :func:`list_extractors`, or ``easy:<method>``.
        max_keypoints: keep at most this many keypoints of each image.
        weights: a weights file (for extractors with one), or a folder to search before the usual places; ``None`` for
            the usual places.
        device: see :func:`~semantic_matcher_core.device.resolve_device`.
        fetch: download the weights when they are not here; otherwise nothing touches the network.
        options: passed to the extractor, e.g. ``detection_threshold``.

    Raises:
        UnknownNameError: no such extractor.
        ConfigError: an option the extractor does not have, or one file for weights that come in several.
        WeightsNotFoundError: its weights are not here (the message has the command that fetches them).
        CheckpointError: the weights file does not fit.
    """
    if not isinstance(name, str):
        raise ConfigError(f"an extractor is called by its name, got {name!r}; see list_extractors()")
    name = ALIASES.get(name, name)
    entry = _built_in(name)
    if weights is not None and not has_weights(name):
        _log.warning("weights %s have no effect: extractor %r takes none", weights, name)
    if entry is None:
        extractor = _create_third_party(name, max_keypoints, options)
    else:
        module = importlib.import_module(f"semantic_matcher_core.extractors.{entry.module}")
        factory, options = getattr(module, entry.factory), {**entry.options, **options}
        if entry.weights is None:
            extractor = _call(factory, name, max_keypoints, options)
        else:
            from semantic_matcher_core.weights.loading import Undrawn, load_state_dict_strictly, read_state_dict

            paths = _find_weights(name, entry.weights, weights, fetch)
            # Some layouts come in versions that only the tensors tell apart.
            if hasattr(factory, "options_of_state_dict"):
                options = {**factory.options_of_state_dict(read_state_dict(paths[_WHOLE])), **options}
            with Undrawn():
                extractor = _call(factory, name, max_keypoints, options)
            for part, path in paths.items():
                load_state_dict_strictly(extractor.get_submodule(part), path)
    return extractor.eval().requires_grad_(False).to(resolve_device(device))


def has_weights(name: str) -> bool:
    """Return whether an extractor takes weights of the catalogue."""
    entry = _built_in(ALIASES.get(name, name))
    return entry is not None and entry.weights is not None


def accepted_options(name: str) -> frozenset[str]:
    """Return names of the options that an extractor takes besides ``max_keypoints``; it is imported, but not built.

    Raises:
        UnknownNameError: no such extractor.
    """
    name = ALIASES.get(name, name)
    entry = _built_in(name)
    if entry is None:
        factory = _loaded(_entry_point(name))
    else:
        factory = getattr(importlib.import_module(f"semantic_matcher_core.extractors.{entry.module}"), entry.factory)
    parameters = inspect.signature(factory).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is not p.VAR_KEYWORD) - {"max_keypoints"}


def _built_in(name: str) -> ExtractorEntry | None:
    if name.startswith(_EASY):
        return ExtractorEntry("easy", "EasyLocalFeature", options={"method": name.removeprefix(_EASY)})
    return BUILT_IN.get(name)


def _find_weights(name: str, wanted: str | dict[str, str], hint: str | Path | None, fetch: bool) -> dict[str, Path]:
    """Return the file for each submodule; the extractor itself is ``_WHOLE``."""
    from semantic_matcher_core.weights import find_weights

    parts = {_WHOLE: wanted} if isinstance(wanted, str) else wanted
    if len(parts) > 1 and hint is not None and Path(hint).expanduser().is_file():
        raise ConfigError(
            f"weights of extractor {name!r} come in {len(parts)} files ({', '.join(parts.values())}), but {hint} is "
            "one; give the folder that holds them"
        )
    return {part: find_weights(entry, hint, fetch=fetch) for part, entry in parts.items()}


def _third_party() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _entry_point(name: str) -> EntryPoint:
    point = _third_party().get(name)
    if point is None:
        raise unknown_name("extractor", name, list_extractors())
    return point


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        package = f" of package {point.dist.name}" if point.dist is not None else ""
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"extractor {point.name!r}{package} ({point.value}) cannot be imported: {reason}") from error


def _create_third_party(name: str, max_keypoints: int, options: dict[str, Any]) -> Extractor:
    point = _entry_point(name)
    from semantic_matcher_core.extractors.base import Extractor

    extractor = _call(_loaded(point), name, max_keypoints, options)
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
