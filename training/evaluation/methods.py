"""What can be evaluated: a variant, an extractor, or any Python function."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from semantic_matcher_core.io.images import shrunk
from semantic_matcher_core.matching.learned import PUBLISHED, create_lightglue
from semantic_matcher_core.settings import MatcherConfig, turns_of
from training.errors import DataError

if TYPE_CHECKING:
    from semantic_matcher_core import SemanticMatcher

PLAIN = "plain:"
LIGHTGLUE = "+lightglue"
# Nearest neighbours with and without the guided search, whatever the extractor's own habit.
_SEARCHES = {"+guided": "always", "+unguided": "never"}
# What has a colon and is no module.
_PREFIXES = ("plain", "easy")
# (image0, image1), uint8 RGB arrays, to matched pixels (points0, points1), both N x 2.
MatchFunction = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def match_function(
    method: str, *, max_keypoints: int = 2048, full_budget: bool = False, keep: int = 8, **options: Any
) -> MatchFunction:
    """Return the matching function of a method.

    Args:
        method: a variant (``xfeat``), ``plain:<extractor>``, a checkpoint folder or zip, or ``module:function`` for a
            Python function ``(image0, image1) -> (points0, points1)`` that can be imported. One that takes
            ``max_keypoints`` is given it. ``@quarter`` or ``@any`` after any other looks at the first image at several
            turns (``semantic_matcher_core.matching.turns``); before that ``+lightglue`` matches with LightGlue, and
            ``+guided`` and ``+unguided`` say how nearest neighbours are searched (``matching.guided``).
        max_keypoints: of each image.
        full_budget: see :func:`load_matcher`.
        keep: images whose features are remembered.
        options: of ``SemanticMatcher.from_pretrained``.

    Raises:
        DataError: there is no such Python function.
    """
    function = imported_function(method, max_keypoints)
    if function is not None:
        return function
    name, _, rotation = method.partition("@")
    matcher = load_matcher(name, full_budget=full_budget, max_keypoints=max_keypoints, **options)
    return FeatureMatching(matcher, keep, rotation or "upright")


def imported_function(method: str, max_keypoints: int = 2048) -> MatchFunction | None:
    """Return the Python function that ``module:function`` names, or ``None`` where the method is none.

    Raises:
        DataError: there is no such function.
    """
    module, separator, name = method.rpartition(":")
    if not separator or module in _PREFIXES or not _is_module_path(module) or not name.isidentifier():
        return None
    function = _imported(module, name)
    if "max_keypoints" in inspect.signature(function).parameters:
        budget: dict[str, Any] = {"max_keypoints": max_keypoints}
        return functools.partial(function, **budget)
    return function


def load_matcher(
    method: str,
    *,
    full_budget: bool = False,
    max_keypoints: int = 2048,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    weights: str | Path | None = None,
) -> SemanticMatcher:
    """Return the matcher of a variant name, ``plain:<extractor>``, ``plain:<extractor>+lightglue``, folder or zip.

    Args:
        method: see above.
        full_budget: a plain extractor gives its keypoints down to a detection threshold of 0, as the published
            reasoners run theirs; otherwise methods with a threshold are compared at fewer keypoints than those without.
        max_keypoints: of each image.
        device, precision, weights: of ``SemanticMatcher.from_pretrained``.
    """
    from semantic_matcher_core import SemanticMatcher, create_extractor
    from semantic_matcher_core.extractors.registry import ALIASES, accepted_options
    from semantic_matcher_core.loading import check_matcher

    path = Path(method)
    matcher, matching = None, MatcherConfig()
    if not path.exists():
        for suffix, guided in _SEARCHES.items():
            if method.endswith(suffix):
                method, matching = method.removesuffix(suffix), MatcherConfig(guided=guided)
        if method.endswith(LIGHTGLUE):
            method, matcher = method.removesuffix(LIGHTGLUE), "lightglue"
            check_matcher(method, matcher)
            matching = replace(matching, matcher=matcher)
    if full_budget and method.startswith(PLAIN) and not path.exists():
        name = method.removeprefix(PLAIN)
        threshold: dict[str, Any] = (
            {"detection_threshold": 0.0} if "detection_threshold" in accepted_options(name) else {}
        )
        trained = PUBLISHED[ALIASES.get(name, name)].options if matcher else {}
        extractor = create_extractor(name, max_keypoints, weights=weights, device=device, **trained, **threshold)
        lightglue = create_lightglue(extractor.name, weights=weights, device=device) if matcher else None
        return SemanticMatcher.from_parts(
            extractor, lightglue=lightglue, device=device, precision=precision, variant=method, matching=matching
        )
    return SemanticMatcher.from_pretrained(
        path if path.exists() else method,
        device=device,
        precision=precision,
        max_keypoints=max_keypoints,
        weights=weights,
        matching=matching,
    )


def on_shrunk(match: MatchFunction, long_side: int) -> MatchFunction:
    """Return matching of images shrunk to a long side (0: as they are), with points in pixels of images as given."""
    if not long_side:
        return match

    def smaller(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        small, _ = shrunk(image, long_side)
        return small, np.array(small.shape[1::-1]) / image.shape[1::-1]

    def matched(image0: np.ndarray, image1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (small0, scale0), (small1, scale1) = smaller(image0), smaller(image1)
        points0, points1 = match(small0, small1)
        # Pixel indices are those of centres.
        return (points0 + 0.5) / scale0 - 0.5, (points1 + 0.5) / scale1 - 0.5

    return matched


def file_states(path: str | Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of a file or the files of a folder; nothing where it is neither.

    Tells results of a checkpoint from those of what was trained into the same folder later.
    """
    path = Path(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path] * path.is_file()
    return [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]


class FeatureMatching:
    """Matching by a :class:`~semantic_matcher_core.SemanticMatcher`, keeping the features of the last images.

    Benchmarks list the pairs of an image one after another: its features are computed once.
    """

    def __init__(self, matcher: SemanticMatcher, keep: int = 8, rotation: str = "upright") -> None:
        turns_of(rotation)
        self.matcher = matcher
        self.rotation = rotation
        self._keep = keep
        self._features: dict[bytes, Any] = {}

    def __call__(self, image0: np.ndarray, image1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        matches = self.matcher.match(self.features(image0, self.rotation), self.features(image1))
        return matches.keypoints0.cpu().numpy(), matches.keypoints1.cpu().numpy()

    def features(self, image: np.ndarray, rotation: str = "upright") -> Any:
        """Return features of an image, remembered for the next calls with the same pixels and rotation."""
        import hashlib

        key = (
            hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
            + f"{image.shape} {rotation}".encode()
        )
        if key not in self._features:
            while len(self._features) >= self._keep:
                self._features.pop(next(iter(self._features)))
            self._features[key] = self.matcher.extract_turned(image, rotation=rotation)
        return self._features[key]


def _is_module_path(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _imported(module: str, name: str) -> MatchFunction:
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"there is no function {name!r} in module {module!r}: {error}") from error
    if not callable(function):
        raise DataError(f"{module}:{name} is a {type(function).__name__}, not a function (image0, image1) -> points")
    return function
