"""What can be evaluated: a variant, an extractor, or any Python function."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.errors import DataError

if TYPE_CHECKING:
    from semantic_matcher_core import SemanticMatcher

# (image0, image1), uint8 RGB arrays, to matched pixels (points0, points1), both N x 2.
MatchFunction = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def match_function(method: str, **options: Any) -> MatchFunction:
    """The matching function of a method.

    Args:
        method: a variant (``xfeat``), ``plain:<extractor>``, a checkpoint folder or zip, or ``module:function`` for a
            Python function ``(image0, image1) -> (points0, points1)`` that can be imported.
        options: of ``SemanticMatcher.from_pretrained``.

    Raises:
        DataError: there is no such Python function.
    """
    module, separator, name = method.rpartition(":")
    if separator and module != "plain" and _is_module_path(module) and name.isidentifier():
        return _imported(module, name)
    return FeatureMatching(load_matcher(method, **options))


def load_matcher(method: str, **options: Any) -> SemanticMatcher:
    """The matcher of a variant name, ``plain:<extractor>``, folder or zip."""
    from semantic_matcher_core import SemanticMatcher

    path = Path(method)
    return SemanticMatcher.from_pretrained(path if path.exists() else method, **options)


class FeatureMatching:
    """Matching by a :class:`~semantic_matcher_core.SemanticMatcher`, keeping the features of the last images.

    Benchmarks list the pairs of an image one after another: its features are computed once.
    """

    def __init__(self, matcher: SemanticMatcher, keep: int = 8) -> None:
        self.matcher = matcher
        self._keep = keep
        self._features: dict[bytes, Any] = {}

    def __call__(self, image0: np.ndarray, image1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        matches = self.matcher.match(self.features(image0), self.features(image1))
        return matches.keypoints0.cpu().numpy(), matches.keypoints1.cpu().numpy()

    def features(self, image: np.ndarray) -> Any:
        """Features of an image, remembered for the next calls with the same pixels."""
        import hashlib

        key = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() + str(image.shape).encode()
        if key not in self._features:
            while len(self._features) >= self._keep:
                self._features.pop(next(iter(self._features)))
            self._features[key] = self.matcher.extract(image)
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
    return function  # type: ignore[no-any-return]
