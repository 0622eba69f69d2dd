"""Left and right messages paired by their time stamps."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.streams.stamps import StampMonitor, StampOrder

T = TypeVar("T")


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
