"""Left and right messages paired by their time stamps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median_low
from typing import Generic, TypeVar

from semantic_matcher_core.errors import ConfigError, check_choice
from semantic_matcher_core.streams.stamps import StampMonitor, StampOrder

T = TypeVar("T")

# Of two cameras that run on their own, the nearest images are up to half a frame period apart; more than that and some
# jitter is another frame.
_REACH = 0.75
SYNC = ("approximate", "exact")
"""How left and right are paired, named as message_filters names it."""
_INTERVALS = 16
_STAMPS = 64
_GAPS = 100


def slop_of(sync: str, slop_s: float) -> int | None:
    """Return the slop of a :class:`StereoSynchronizer` in nanoseconds.

    Args:
        sync: one of :data:`SYNC`.
        slop_s: in seconds; 0 leaves it to the frame period, with ``approximate``.

    Raises:
        ConfigError: an unknown ``sync``, or a slop with ``exact``, which has none.
    """
    check_choice("sync", sync, SYNC)
    if sync == "exact":
        if slop_s > 0:
            raise ConfigError(
                f"slop {slop_s:g} has no effect with sync 'exact', which pairs equal stamps; leave it at 0"
            )
        return 0
    return round(slop_s * 1e9) if slop_s > 0 else None


@dataclass
class _Side(Generic[T]):
    queue: deque[tuple[int, T]] = field(default_factory=deque)
    monitor: StampMonitor = field(default_factory=StampMonitor)
    stamps: deque[int] = field(default_factory=lambda: deque(maxlen=_STAMPS))
    intervals: deque[int] = field(default_factory=lambda: deque(maxlen=_INTERVALS))

    def note(self, stamp: int) -> None:
        if self.stamps and stamp > self.stamps[-1]:
            self.intervals.append(stamp - self.stamps[-1])
        self.stamps.append(stamp)

    def forget(self) -> None:
        self.monitor = StampMonitor()
        self.stamps.clear()
        self.intervals.clear()


class StereoSynchronizer(Generic[T]):
    """Pairs left with right messages by their time stamps.

    Two messages are a pair where each is the other's nearest in time, and they are no further apart than the slop. Each
    is used once, and pairs are in order on both sides. A pair is given out as soon as no later message can be a nearer
    partner: at once where the two are less than half of the shortest frame period seen lately apart (or where a slop is
    given, which promises that), else when the next message of the earlier one's side has come. So the pairs do not
    depend on how the two sides interleave. Repeated and late stamps are given up, and so is what can find no partner
    any more; when a side begins again (a bag that plays in a loop), both do.

    Args:
        slop: largest difference between the two stamps in nanoseconds, below half the frame period; 0 pairs equal
            stamps only. ``None`` for three quarters of the frame period of the faster side, as it is observed.
        queue_size: messages of each side that wait for their partner.

    Attributes:
        unpaired: messages of (left, right) that were given up without a partner.
        disordered: those among them, of (left, right), whose stamps repeat or come late.
        gaps: right minus left stamp of the newest 100 pairs, in nanoseconds.
        missed: the same of the newest 100 messages that were given up, to the nearest of the other side.
    """

    def __init__(self, slop: int | None = 0, queue_size: int = 10) -> None:
        if slop is not None and slop < 0:
            raise ConfigError(f"slop must not be negative, got {slop} ns")
        if queue_size < 1:
            raise ConfigError(f"queue_size must be a whole number from 1 up, got {queue_size!r}")
        self.slop = slop
        self.queue_size = queue_size
        self.unpaired = [0, 0]
        self.disordered = [0, 0]
        self.gaps: deque[int] = deque(maxlen=_GAPS)
        self.missed: deque[int] = deque(maxlen=_GAPS)
        self._sides: tuple[_Side[T], _Side[T]] = (_Side(), _Side())

    def add_left(self, stamp: int, message: T) -> tuple[T, T] | None:
        """Return the (left, right) pair that can be given out now that this left message has come, or ``None``."""
        return self._add(0, stamp, message)

    def add_right(self, stamp: int, message: T) -> tuple[T, T] | None:
        """Return the (left, right) pair that can be given out now that this right message has come, or ``None``."""
        return self._add(1, stamp, message)

    @property
    def lead(self) -> int:
        """The newest right stamp minus the newest left one, in nanoseconds; 0 before there are both."""
        left, right = (side.monitor.newest for side in self._sides)
        return right - left if left and right else 0

    def finish(self) -> list[tuple[T, T]]:
        """Return the pairs that are left when nothing more comes; what has no partner is given up."""
        pairs = []
        while (pair := self._next_pair(ended=True)) is not None:
            pairs.append(pair)
        self.clear()
        return pairs

    def clear(self) -> None:
        """Forget what waits for a partner, and the stamps seen."""
        for index, side in enumerate(self._sides):
            for _ in range(len(side.queue)):
                self._give_up(index)
        for side in self._sides:
            side.forget()

    def _add(self, index: int, stamp: int, message: T) -> tuple[T, T] | None:
        side = self._sides[index]
        order = side.monitor.admit(stamp)
        if order is StampOrder.RESTARTED:
            self.clear()
            side.monitor.admit(stamp)
        elif not order.usable:
            self.unpaired[index] += 1
            self.disordered[index] += 1
            return None
        side.note(stamp)
        side.queue.append((stamp, message))
        pair = self._next_pair()
        if pair is None and len(side.queue) > self.queue_size:
            pair = self._next_pair(ended=True)
        while len(side.queue) > self.queue_size:
            self._give_up(index)
        return pair

    def _next_pair(self, ended: bool = False) -> tuple[T, T] | None:
        """Return the oldest pair that is certain; ``ended`` takes it that no nearer partner will come."""
        left, right = self._sides
        while left.queue and right.queue:
            gap = right.queue[0][0] - left.queue[0][0]
            early = 0 if gap >= 0 else 1
            alone = self._stays_alone(early, abs(gap), ended)
            if alone is None:
                break
            if alone:
                self._give_up(early)
                continue
            self.gaps.append(gap)
            return left.queue.popleft()[1], right.queue.popleft()[1]
        self._give_up_hopeless()
        return None

    def _stays_alone(self, early: int, gap: int, ended: bool) -> bool | None:
        """Return whether the earlier of the two oldest stays alone; ``None`` while that is open."""
        if gap == 0:
            return False
        limit = self._limit()
        if limit is not None and gap > limit:
            return True
        side, later = self._sides[early], self._sides[1 - early].queue[0][0]
        if len(side.queue) > 1:
            return abs(side.queue[1][0] - later) < gap
        if ended:
            return False
        shortest = min(side.intervals, default=0) if self.slop is None else 2 * self.slop
        return False if limit is not None and shortest >= 2 * gap else None

    def _limit(self) -> int | None:
        """Return largest gap of a pair; ``None`` before a frame period is known."""
        if self.slop is not None:
            return self.slop
        periods = [median_low(side.intervals) for side in self._sides if side.intervals]
        return round(_REACH * min(periods)) if periods else None

    def _give_up_hopeless(self) -> None:
        # Stamps go up on each side: what is older than the other side's newest by more than the limit stays alone.
        limit = self._limit()
        if limit is None:
            return
        for index, side in enumerate(self._sides):
            earliest = self._sides[1 - index].monitor.newest - limit
            while side.queue and side.queue[0][0] < earliest and not self._sides[1 - index].queue:
                self._give_up(index)

    def _give_up(self, index: int) -> None:
        stamp, _ = self._sides[index].queue.popleft()
        self.unpaired[index] += 1
        others = self._sides[1 - index].stamps
        if others:
            nearest = min(others, key=lambda other: abs(other - stamp))
            self.missed.append((nearest - stamp) * (1 if index == 0 else -1))
