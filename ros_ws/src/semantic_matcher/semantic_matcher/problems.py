"""What a node warns of: in the log once, when it begins, and in the diagnostics for as long as it lasts."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rclpy.impl.rcutils_logger import RcutilsLogger

# What comes back sooner than this after it was over is not logged again.
_QUIET_S = 10.0


class Throttle:
    """Lets through what is new, and what has not been for some seconds: errors that each image may bring.

    Args:
        seconds: how long the same text is not let through again.
        different: texts at the most in that time, for those that are another each time.
        clock: seconds that only go up.
    """

    def __init__(self, seconds: float, different: int = 5, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._passed: deque[tuple[float, str]] = deque()
        self._different = different
        self._lock = threading.Lock()

    def passes(self, text: str) -> bool:
        """Return whether it is let through now, and note it if it is."""
        with self._lock:
            now = self._clock()
            while self._passed and now - self._passed[0][0] >= self._seconds:
                self._passed.popleft()
            if len(self._passed) >= self._different or any(text == passed for _, passed in self._passed):
                return False
            self._passed.append((now, text))
            return True


class Problems:
    """The problems that a node has now; safe to use from several threads.

    Args:
        logger: where they are logged.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._texts: dict[str, str] = {}
        self._kinds: dict[str, str] = {}
        self._ended: dict[tuple[str, str], float] = {}

    def set(self, subject: str, text: str, kind: str = "", *, error: bool = False) -> None:
        """Note what is wrong with a subject now.

        Args:
            subject: what there is one problem of at a time.
            text: one sentence with figures and remedy; empty when nothing is wrong (any more).
            kind: what the text is without its figures, which may change without being logged anew; empty for the text.
            error: what was asked for cannot be had at all; it is logged as an error.
        """
        kind = kind or text
        with self._lock:
            before, old = self._kinds.get(subject, ""), self._texts.get(subject, "")
            # One cause may keep several things from being made; it is said once.
            known = any(text == other for name, other in self._texts.items() if name != subject)
            if text:
                self._texts[subject], self._kinds[subject] = text, kind
                quiet = known or time.monotonic() - self._ended.get((subject, kind), -_QUIET_S) < _QUIET_S
            else:
                self._texts.pop(subject, None)
                self._kinds.pop(subject, None)
                self._ended[subject, before] = time.monotonic()
        if text and kind != before and not quiet:
            # One call for each severity: rclpy remembers it by the place of the call.
            if error:
                self._logger.error(text)
            else:
                self._logger.warning(text)
        elif before and not text and not any(old == other for other in self.now()):
            self._logger.info(f"over: {old}")

    def has(self, subject: str) -> bool:
        """Return whether there is one of a subject."""
        with self._lock:
            return subject in self._texts

    def now(self) -> list[str]:
        """Return the texts of all problems, oldest first, each once."""
        with self._lock:
            return list(dict.fromkeys(self._texts.values()))

    def clear(self) -> None:
        """Forget all problems, as when the node stops working."""
        with self._lock:
            self._texts.clear()
            self._kinds.clear()
            self._ended.clear()
