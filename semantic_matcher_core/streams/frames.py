"""What a stream works on: frames, pairs of them, and what matches them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from semantic_matcher_core.types import Features, Matches

Verifier = Callable[[Matches], Matches]


class FeatureMatcher(Protocol):
    """What a stream needs of :class:`~semantic_matcher_core.pipeline.SemanticMatcher`."""

    def extract(self, image: Any) -> Features: ...

    def match(self, features0: Features, features1: Features) -> Matches: ...


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


def match_frames(
    matcher: FeatureMatcher, reference: Frame, current: Frame, verify: Verifier | None = None
) -> MatchedPair:
    """Match two frames, and check the matches where a check is given."""
    matches = matcher.match(reference.features, current.features)
    if verify is not None:
        matches = verify(matches)
    return MatchedPair(reference, current, matches)
