"""Frames of one camera, matched with earlier ones."""

from __future__ import annotations

from typing import Any

from semantic_matcher_core.streams.frames import (
    FeatureMatcher,
    Frame,
    MatchedPair,
    SemanticFeatureMatcher,
    Verifier,
    extract_and_match,
    matched_pair,
)
from semantic_matcher_core.streams.pairing import TemporalPairing
from semantic_matcher_core.streams.reuse import SemanticReuse
from semantic_matcher_core.streams.stamps import StampMonitor, StampOrder


class TemporalStream:
    """Matches the frames of one camera with earlier ones.

    Args:
        matcher: features and matches; may be replaced at any time, by one that gives features of the same kind.
        pairing: which earlier frame; may be replaced at any time.
        verify: a geometric check, such as :func:`semantic_matcher_core.matching.verification.verify` with its options
            filled in, or ``None``; may be replaced at any time.
        semantic_every: run the semantic encoder for every n-th frame at least, and let its map serve for those between
            (:mod:`semantic_matcher_core.streams.reuse`). No effect without a semantic encoder.

    Attributes:
        reference: the frame that the next one is matched with.
        served: frames that were matched with it.

    Raises:
        ConfigError: ``semantic_every`` is no whole number from 1 up.
    """

    def __init__(
        self,
        matcher: FeatureMatcher,
        pairing: TemporalPairing | None = None,
        verify: Verifier | None = None,
        *,
        semantic_every: int = 1,
    ) -> None:
        self.matcher = matcher
        self.pairing = pairing or TemporalPairing()
        self.verify = verify
        self.reference: Frame | None = None
        self.served = 0
        self._monitor = StampMonitor()
        self._reuse = SemanticReuse(semantic_every)

    @property
    def semantic_every(self) -> int:
        """Frames that a semantic map serves for; may be set at any time."""
        return self._reuse.every

    @semantic_every.setter
    def semantic_every(self, every: int) -> None:
        if every != self._reuse.every:
            self._reuse = SemanticReuse(every)

    def admit(self, stamp: int) -> StampOrder:
        """Return whether a frame is usable; to be called before each. A restart forgets the reference."""
        order = self._monitor.admit(stamp)
        if order is StampOrder.RESTARTED:
            self.reset()
        return order

    def process(
        self, image: Any, stamp: int = 0, tag: Any = None, mask: Any = None
    ) -> tuple[Frame, MatchedPair | None]:
        """Return the frame's features, and its matches with the reference; ``None`` for the first frame.

        Args:
            image, stamp, tag: of the frame.
            mask: ``H x W``, zero where keypoints are not wanted; ``None`` for everywhere.

        Raises:
            ImageError: the image cannot be used; the stream goes on as if it had not come.
        """
        matcher, reuse, reference = self.matcher, self._reuse, self.reference
        reuses = False
        encodes = getattr(matcher, "semantic_encoder", None) is not None
        if reuse.every > 1 and encodes and isinstance(matcher, SemanticFeatureMatcher):
            reuses = True
            features = reuse.extract(matcher, image, mask)[0]
            matches = [] if reference is None else [matcher.match(reference.features, features)]
        else:
            features, matches = extract_and_match(matcher, image, [] if reference is None else [reference], mask)
        frame = Frame(stamp, image, features, tag)
        if reference is None:
            self._take_as_reference(frame)
            return frame, None
        pair = matched_pair(reference, frame, matches[0], self.verify)
        if reuses:
            reuse.matched(pair.matches)
        self.served += 1
        if self.pairing.replaces(self.served, pair):
            self._take_as_reference(frame)
        return frame, pair

    def reset(self) -> None:
        """Forget the reference: the next frame begins anew."""
        self.reference = None
        self.served = 0
        self._reuse.reset()

    def _take_as_reference(self, frame: Frame) -> None:
        self.reference = frame
        self.served = 0
        self._reuse.became_reference()
