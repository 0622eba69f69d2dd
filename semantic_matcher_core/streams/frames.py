"""What a stream works on: frames, pairs of them, and what matches them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from semantic_matcher_core.semantics.semantic_map import SemanticMap
from semantic_matcher_core.types import Features, Matches

Verifier = Callable[[Matches], Matches]


class FeatureMatcher(Protocol):
    """What a stream needs of :class:`~semantic_matcher_core.pipeline.SemanticMatcher`."""

    def extract(self, image: Any, mask: Any = ..., /) -> Features: ...

    def match(self, features0: Features, features1: Features, /) -> Matches: ...


@runtime_checkable
class SteppingFeatureMatcher(FeatureMatcher, Protocol):
    """What extracts and matches a frame in one go, which a GPU does with a single wait."""

    def extract_and_match(self, image: Any, references: Sequence[Features], /) -> tuple[Features, list[Matches]]:
        """See :meth:`SemanticMatcher.extract_and_match <semantic_matcher_core.SemanticMatcher.extract_and_match>`."""


@runtime_checkable
class TurningFeatureMatcher(FeatureMatcher, Protocol):
    """What stored images that are seen at several turns need besides."""

    def extract_turned(self, image: Any, /, *, rotation: str = ...) -> Features:
        """See :meth:`SemanticMatcher.extract_turned <semantic_matcher_core.SemanticMatcher.extract_turned>`."""


@runtime_checkable
class SemanticFeatureMatcher(FeatureMatcher, Protocol):
    """What the reuse of semantic maps needs besides.

    Whether there is an encoder is asked for apart: from Python 3.12 on ``isinstance`` sees no attribute that a module
    of torch looks up.
    """

    @property
    def device(self) -> torch.device:
        """Where images go."""

    def extract_with_map(
        self,
        image: Any,
        mask: Any = ...,
        /,
        *,
        semantic_map: SemanticMap | None = None,
        motion: torch.Tensor | None = None,
    ) -> tuple[Features, SemanticMap | None]:
        """See :meth:`SemanticMatcher.extract_with_map <semantic_matcher_core.SemanticMatcher.extract_with_map>`."""


@dataclass(frozen=True, eq=False)
class Frame:
    """An image, its features (a batch of one), its time stamp, and what the caller keeps with it (a header, a name)."""

    stamp: int
    image: Any
    features: Features
    tag: Any = None


@dataclass(frozen=True, eq=False)
class MatchedPair:
    """Two frames and the matches between them; ``reference`` is the previous, left or stored image."""

    reference: Frame
    current: Frame
    matches: Matches


def features_of(matcher: FeatureMatcher, image: Any, mask: Any = None) -> Features:
    """Extract features of an image, or of a batch, where ``mask`` (``None`` for everywhere) is not zero."""
    return matcher.extract(image) if mask is None else matcher.extract(image, mask)


def extract_and_match(
    matcher: FeatureMatcher, image: Any, references: Sequence[Frame], mask: Any = None
) -> tuple[Features, list[Matches]]:
    """Extract features of an image, a batch of one, and match earlier frames with them."""
    known = [reference.features for reference in references]
    if mask is None and isinstance(matcher, SteppingFeatureMatcher):
        features, matches = matcher.extract_and_match(image, known)
        return features[0], matches
    features = features_of(matcher, image, mask)[0]
    return features, [matcher.match(reference, features) for reference in known]


def matched_pair(reference: Frame, current: Frame, matches: Matches, verify: Verifier | None = None) -> MatchedPair:
    """Return two frames with their matches, checked where a check is given."""
    return MatchedPair(reference, current, matches if verify is None else verify(matches))
