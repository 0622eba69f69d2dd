"""Which frames are matched with which: temporal, stereo and reference streams.

A stream takes images one by one, extracts the features of each once, and matches them with those of the frame it chose.
The ROS nodes and the offline bag path feed the same streams, so that the same frames give the same matches.

Time stamps are whole nanoseconds. Zero means that the source gives none: such frames are taken as they come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import numpy as np
import torch

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.semantic_reuse import SemanticReuse
from semantic_matcher_core.types import Features, Matches

if TYPE_CHECKING:
    from semantic_matcher_core.pipeline import SemanticMatcher

REFERENCE_POLICIES = ("previous", "every_nth", "keyframe")
# A step back by less than this is a frame that came late or a second source; by more, the source began again.
_RESTART_NS = 1_000_000_000
# Cells per side of the grid that tells how much of the reference is still in view.
_OVERLAP_GRID = 8

T = TypeVar("T")
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


class StampOrder(Enum):
    """How a time stamp follows those before it."""

    NEWER = "newer"
    REPEATED = "repeated"
    LATE = "late"
    RESTARTED = "restarted"

    @property
    def usable(self) -> bool:
        """Whether the frame may be used: repeated and late frames would be matched with the wrong one."""
        return self in (StampOrder.NEWER, StampOrder.RESTARTED)


class StampMonitor:
    """Tells repeated, late and restarted (a bag that plays in a loop) time stamps from those that move on."""

    def __init__(self) -> None:
        self.newest = 0

    def admit(self, stamp: int) -> StampOrder:
        """Where the stamp stands; the newest one is remembered."""
        if stamp == 0 or self.newest == 0 or stamp > self.newest:
            self.newest = stamp
            return StampOrder.NEWER
        if stamp == self.newest:
            return StampOrder.REPEATED
        if self.newest - stamp < _RESTART_NS:
            return StampOrder.LATE
        self.newest = stamp
        return StampOrder.RESTARTED


@dataclass(frozen=True)
class TemporalPairing:
    """Which earlier frame a frame is matched against.

    Attributes:
        policy: ``previous`` (the frame before), ``every_nth`` (one frame serves as reference for the next ``every_nth``
            frames) or ``keyframe`` (one frame serves until too little of it is found again).
        every_nth: frames that a reference serves for, with policy ``every_nth``.
        min_inlier_share: a keyframe is replaced when fewer of its keypoints than this share (of the smaller of the two
            sets) are matched; inliers alone count where a geometric check ran.
        min_overlap: a keyframe is replaced when less than this share of its occupied area is matched.
    """

    policy: str = "previous"
    every_nth: int = 5
    min_inlier_share: float = 0.25
    min_overlap: float = 0.4

    def __post_init__(self) -> None:
        if self.policy not in REFERENCE_POLICIES:
            raise ConfigError(f"unknown reference policy {self.policy!r}; use one of {', '.join(REFERENCE_POLICIES)}")
        if self.every_nth < 1:
            raise ConfigError(f"every_nth must be a whole number from 1 up, got {self.every_nth!r}")
        for name in ("min_inlier_share", "min_overlap"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must be from 0 to 1, got {getattr(self, name)!r}")

    def replaces(self, served: int, pair: MatchedPair) -> bool:
        """Whether the current frame of the pair becomes the reference, which has served for ``served`` frames."""
        if self.policy == "previous":
            return True
        if self.policy == "every_nth":
            return served >= self.every_nth
        return inlier_share(pair) < self.min_inlier_share or overlap(pair) < self.min_overlap


def inlier_share(pair: MatchedPair) -> float:
    """Matched keypoints (inliers where a geometric check ran) over those of the frame that has fewer; 0 without any."""
    smaller = min(pair.reference.features.keypoints.shape[1], pair.current.features.keypoints.shape[1])
    if smaller == 0:
        return 0.0
    inlier = pair.matches.inlier
    return (len(pair.matches) if inlier is None else int(inlier.sum())) / smaller


def overlap(pair: MatchedPair) -> float:
    """Share of the reference that is matched: of the cells of an 8 x 8 grid that hold keypoints; 0 without any."""
    occupied = _cells(pair.reference.features.keypoints[0], pair.reference.features.image_size)
    total = int(occupied.sum())
    if total == 0:
        return 0.0
    matches = pair.matches
    matched = matches.keypoints0 if matches.inlier is None else matches.keypoints0[matches.inlier]
    return int((_cells(matched, pair.reference.features.image_size) & occupied).sum()) / total


def _cells(keypoints: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    height, width = image_size
    scale = keypoints.new_tensor([_OVERLAP_GRID / width, _OVERLAP_GRID / height])
    cell = ((keypoints + 0.5) * scale).long().clamp(0, _OVERLAP_GRID - 1)
    occupied = torch.zeros(_OVERLAP_GRID**2, dtype=torch.bool, device=keypoints.device)
    occupied[cell[:, 1] * _OVERLAP_GRID + cell[:, 0]] = True
    return occupied


class TemporalStream:
    """Matches the frames of one camera with earlier ones.

    Args:
        matcher: features and matches.
        pairing: which earlier frame; may be replaced at any time.
        verify: a geometric check, such as :func:`semantic_matcher_core.matching.verification.verify` with its options
            filled in, or ``None``; may be replaced at any time.
        semantic_every: run the semantic encoder for every n-th frame at least, and let its map serve for those between
            (:mod:`semantic_matcher_core.semantic_reuse`). No effect without a semantic encoder.

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
        self._served = 0
        self._monitor = StampMonitor()
        self._reuse = SemanticReuse(cast("SemanticMatcher", matcher), semantic_every)

    @property
    def semantic_every(self) -> int:
        """Frames that a semantic map serves for; may be set at any time."""
        return self._reuse.every

    @semantic_every.setter
    def semantic_every(self, every: int) -> None:
        if every != self._reuse.every:
            self._reuse = SemanticReuse(self._reuse.matcher, every)

    @property
    def _reuses(self) -> bool:
        return self.semantic_every > 1 and getattr(self.matcher, "semantic_encoder", None) is not None

    def admit(self, stamp: int) -> StampOrder:
        """To be asked before each frame: whether it is usable. A restart forgets the reference."""
        order = self._monitor.admit(stamp)
        if order is StampOrder.RESTARTED:
            self.reset()
        return order

    def process(self, image: Any, stamp: int = 0, tag: Any = None) -> tuple[Frame, MatchedPair | None]:
        """The frame's features, and its matches with the reference; ``None`` for the first frame.

        Raises:
            ImageError: the image cannot be used; the stream goes on as if it had not come.
        """
        features = self._reuse.extract(image) if self._reuses else self.matcher.extract(image)
        frame = Frame(stamp, image, features[0], tag)
        reference = self.reference
        if reference is None:
            self._take_as_reference(frame)
            return frame, None
        pair = _match(self.matcher, reference, frame, self.verify)
        if self._reuses:
            self._reuse.matched(pair.matches)
        self._served += 1
        if self.pairing.replaces(self._served, pair):
            self._take_as_reference(frame)
        return frame, pair

    def reset(self) -> None:
        """Forget the reference: the next frame begins anew."""
        self.reference = None
        self._served = 0
        self._reuse.reset()

    def _take_as_reference(self, frame: Frame) -> None:
        self.reference = frame
        self._served = 0
        self._reuse.became_reference()


class StereoStream:
    """Matches left with right images; arguments as for :class:`TemporalStream`."""

    def __init__(self, matcher: FeatureMatcher, verify: Verifier | None = None) -> None:
        self.matcher = matcher
        self.verify = verify

    def process(
        self, left: Any, right: Any, stamps: tuple[int, int] = (0, 0), tags: tuple[Any, Any] = (None, None)
    ) -> MatchedPair:
        """Features of both images and the matches between them; left is the reference.

        Two uint8 arrays of one shape go through the networks as one batch.

        Raises:
            ImageError: an image cannot be used.
        """
        arrays = all(isinstance(image, np.ndarray) and image.ndim == 3 for image in (left, right))
        if arrays and (left.shape, left.dtype) == (right.shape, right.dtype) and is_enabled("stereo_batch"):
            features = list(self.matcher.extract(np.stack((left, right))))
        else:
            features = [self.matcher.extract(image)[0] for image in (left, right)]
        frames = [
            Frame(stamp, image, found, tag)
            for image, found, stamp, tag in zip((left, right), features, stamps, tags, strict=True)
        ]
        return _match(self.matcher, frames[0], frames[1], self.verify)


class ReferenceStream:
    """Matches frames with one or several stored images; arguments as for :class:`TemporalStream`."""

    def __init__(self, matcher: FeatureMatcher, verify: Verifier | None = None) -> None:
        self.matcher = matcher
        self.verify = verify
        self.references: tuple[Frame, ...] = ()

    def set_references(self, images: Iterable[tuple[Any, Any]]) -> None:
        """Replace the stored images, given as (image, tag); on an error the old ones stay.

        Raises:
            ImageError: an image cannot be used.
        """
        self.references = tuple(Frame(0, image, self.matcher.extract(image)[0], tag) for image, tag in images)

    def process(self, image: Any, stamp: int = 0, tag: Any = None) -> tuple[Frame, list[MatchedPair]]:
        """The frame's features, and its matches with each stored image, in their order.

        Raises:
            ImageError: the image cannot be used.
        """
        frame = Frame(stamp, image, self.matcher.extract(image)[0], tag)
        return frame, [_match(self.matcher, reference, frame, self.verify) for reference in self.references]


def _match(matcher: FeatureMatcher, reference: Frame, current: Frame, verify: Verifier | None) -> MatchedPair:
    matches = matcher.match(reference.features, current.features)
    if verify is not None:
        matches = verify(matches)
    return MatchedPair(reference, current, matches)


@dataclass
class _Side(Generic[T]):
    queue: deque[tuple[int, T]] = field(default_factory=deque)
    monitor: StampMonitor = field(default_factory=StampMonitor)


class StereoSynchronizer(Generic[T]):
    """Pairs left with right messages by their time stamps.

    An arriving message is paired with the nearest one of the other side within ``slop``, and both are used up with all
    that is older. With a slop below half the frame period each message has one possible partner, so the pairs do not
    depend on the order of arrival. Repeated and late stamps are given up, and so is what can find no partner any more;
    when a side begins again (a bag that plays in a loop), both do.

    Args:
        slop: largest difference between the two stamps in nanoseconds; 0 pairs equal stamps only.
        queue_size: messages of each side that wait for their partner.

    Attributes:
        unpaired: messages of (left, right) that were given up without a partner.
    """

    def __init__(self, slop: int = 0, queue_size: int = 10) -> None:
        if slop < 0:
            raise ConfigError(f"slop must not be negative, got {slop} ns")
        if queue_size < 1:
            raise ConfigError(f"queue_size must be a whole number from 1 up, got {queue_size!r}")
        self.slop = slop
        self.queue_size = queue_size
        self.unpaired = [0, 0]
        self._sides: tuple[_Side[T], _Side[T]] = (_Side(), _Side())

    def add_left(self, stamp: int, message: T) -> tuple[T, T] | None:
        """The (left, right) pair that this left message completes, or ``None``."""
        partner = self._add(0, stamp, message)
        return None if partner is None else (message, partner)

    def add_right(self, stamp: int, message: T) -> tuple[T, T] | None:
        """The (left, right) pair that this right message completes, or ``None``."""
        partner = self._add(1, stamp, message)
        return None if partner is None else (partner, message)

    def clear(self) -> None:
        """Forget what waits for a partner, and the stamps seen."""
        for index, side in enumerate(self._sides):
            self._give_up(index, len(side.queue))
            side.monitor = StampMonitor()

    def _add(self, index: int, stamp: int, message: T) -> T | None:
        side, other = self._sides[index], self._sides[1 - index]
        order = side.monitor.admit(stamp)
        if order is StampOrder.RESTARTED:
            self.clear()
            side.monitor.admit(stamp)
        elif not order.usable:
            self.unpaired[index] += 1
            return None
        position = self._nearest(other.queue, stamp)
        if position is None:
            side.queue.append((stamp, message))
            partner = None
        else:
            partner = other.queue[position][1]
            self._give_up(1 - index, position)
            other.queue.popleft()
            self._give_up(index, len(side.queue))
        self._give_up_hopeless()
        self._give_up(index, len(side.queue) - self.queue_size)
        return partner

    def _give_up_hopeless(self) -> None:
        for index, side in enumerate(self._sides):
            earliest = self._sides[1 - index].monitor.newest - self.slop
            self._give_up(index, sum(stamp < earliest for stamp, _ in side.queue))

    def _nearest(self, queue: Sequence[tuple[int, T]], stamp: int) -> int | None:
        gaps = [abs(other - stamp) for other, _ in queue]
        best = min(range(len(gaps)), key=gaps.__getitem__, default=None)
        return best if best is not None and gaps[best] <= self.slop else None

    def _give_up(self, index: int, count: int) -> None:
        for _ in range(max(count, 0)):
            self._sides[index].queue.popleft()
            self.unpaired[index] += 1
