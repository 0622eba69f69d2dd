"""Time stamps of a stream: which frame is new, and which came late, twice, or after a restart."""

from __future__ import annotations

from enum import Enum

# A step back by less than this is a frame that came late or a second source; by more, the source began again.
_RESTART_NS = 1_000_000_000


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
        """Return where the stamp stands; the newest one is remembered."""
        if stamp == 0 or self.newest == 0 or stamp > self.newest:
            self.newest = stamp
            return StampOrder.NEWER
        if stamp == self.newest:
            return StampOrder.REPEATED
        if self.newest - stamp < _RESTART_NS:
            return StampOrder.LATE
        self.newest = stamp
        return StampOrder.RESTARTED
