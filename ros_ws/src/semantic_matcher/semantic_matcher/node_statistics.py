"""What a node has done lately: counters, rates and the age of results. No ROS; safe to use from several threads."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable

import numpy as np

_WINDOW_S = 10.0
_AGES = 500


class Statistics:
    """Counters since the start, rates over the last ten seconds, and the ages of the last 500 results.

    Args:
        clock: seconds that only go up.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started = clock()
        self._counts: Counter[str] = Counter()
        self._times: dict[str, deque[float]] = {}
        self._last: dict[str, float] = {}
        self._ages: deque[float] = deque(maxlen=_AGES)
        self._values: dict[str, str] = {}
        self.last_error = ""
        self._last_error_at = -float("inf")

    def count(self, event: str, times: int = 1) -> None:
        """Count one event."""
        with self._lock:
            self._counts[event] += times
            if times > 0:
                self._last[event] = self._clock()
            recent = self._times.setdefault(event, deque())
            recent.extend([self._clock()] * times)
            self._forget_old(recent)

    def total(self, event: str) -> int:
        """Return how often it happened since the start."""
        with self._lock:
            return self._counts[event]

    def rate(self, event: str) -> float:
        """Return how often per second it happened lately."""
        with self._lock:
            recent = self._times.get(event, deque())
            self._forget_old(recent)
            return len(recent) / min(_WINDOW_S, max(self._clock() - self._started, 1e-3))

    def recent(self, event: str) -> int:
        """Return how often it happened in the last ten seconds."""
        with self._lock:
            recent = self._times.get(event, deque())
            self._forget_old(recent)
            return len(recent)

    def events(self) -> list[str]:
        """Return what has been counted."""
        with self._lock:
            return list(self._counts)

    def since(self, event: str) -> float:
        """Return seconds since it happened last; infinity if it has not since the start or the last :meth:`restart`."""
        with self._lock:
            return self._clock() - self._last.get(event, -float("inf"))

    def add_age(self, seconds: float) -> None:
        """Add the age of a result when it was published, from the stamp of its image."""
        with self._lock:
            self._ages.append(seconds)

    def age(self, percentile: float) -> float | None:
        """Return a percentile of the ages in seconds, or ``None`` before the first result."""
        with self._lock:
            return float(np.percentile(self._ages, percentile)) if self._ages else None

    def set(self, name: str, value: object) -> None:
        """Set the current value of something worth showing."""
        with self._lock:
            self._values[name] = str(value)

    def values(self) -> dict[str, str]:
        """Return all that was set."""
        with self._lock:
            return dict(self._values)

    def error(self, message: str) -> None:
        """Remember an error."""
        with self._lock:
            self.last_error = message
            self._last_error_at = self._clock()

    def error_age(self) -> float:
        """Return seconds since the last error; infinity without one."""
        with self._lock:
            return self._clock() - self._last_error_at

    def error_holds(self, least_s: float) -> bool:
        """Return whether the last error is to be shown: for some time, and until an image is processed, ten seconds at
        most.

        Cameras may be slower than diagnostics: what none of their images gets past would be shown as good in between.
        """
        with self._lock:
            age = self._clock() - self._last_error_at
            processed = self._last.get("processed", -float("inf")) > self._last_error_at
        return age <= (least_s if processed else max(least_s, _WINDOW_S))

    def restart(self) -> None:
        """Forget rates and ages, as after a pause; counters and the last error stay."""
        with self._lock:
            self._times.clear()
            self._last.clear()
            self._ages.clear()
            self._started = self._clock()

    def _forget_old(self, recent: deque[float]) -> None:
        oldest = self._clock() - _WINDOW_S
        while recent and recent[0] < oldest:
            recent.popleft()
