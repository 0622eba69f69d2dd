"""Messages that were sent and never handed over, found by the numbers that their publisher gives them. No ROS."""

from __future__ import annotations

from collections.abc import Callable

# What middleware without such numbers gives in their place.
_NO_NUMBER = 2**63


class SequenceGaps:
    """Counts what is missing between the messages of one publisher.

    Args:
        publishers: who publishes now; asked only where numbers jump, which several publishers' do all the time.

    Attributes:
        explained: messages of which the middleware has said that they were lost; all of them are in gaps, too.
    """

    def __init__(self, publishers: Callable[[], frozenset[bytes]]) -> None:
        self._publishers = publishers
        self.explained = 0
        self._missing = 0
        self._told = 0
        self._last: int | None = None
        self._source: frozenset[bytes] = frozenset()

    def begin(self) -> None:
        """Take the next message for the first."""
        self._last = None

    def note(self, number: int | None) -> None:
        """Note that a message of this number has come; ``None`` where the middleware knows none."""
        if number is None or not 0 < number < _NO_NUMBER:
            return
        last, self._last = self._last, number
        if last is not None and number == last + 1:
            if not self._source:
                # The graph knows of a publisher a little later than its first messages come.
                self._source = self._publishers()
            return
        source, self._source = self._source, self._publishers()
        if last is not None and number > last and len(source) == 1 and source == self._source:
            self._missing += number - last - 1

    def newly_unexplained(self) -> int:
        """Return how many more are missing than were explained since this was asked last; negative where explained
        since.
        """
        unexplained = max(0, self._missing - self.explained)
        change, self._told = unexplained - self._told, unexplained
        return change
