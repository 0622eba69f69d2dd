"""Ctrl-C and its like end the demo, wherever they meet it."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

_requested = threading.Event()


def listen() -> None:
    """Have SIGINT, SIGTERM and, unless the demo was started to ignore it, SIGHUP raise KeyboardInterrupt."""
    _requested.clear()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _request)
    sys.unraisablehook = _report_unraisable


def check() -> None:
    """Raise KeyboardInterrupt if one was asked for: raised inside a finalizer or a fork's hooks, it gets lost."""
    if _requested.is_set():
        raise KeyboardInterrupt


def _report_unraisable(found: Any) -> None:
    # What a finalizer or a fork's hook loses of an interruption, check() raises again: no reason for a traceback.
    if not (_requested.is_set() and issubclass(found.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(found)


def _request(*_: object) -> None:
    _requested.set()
    raise KeyboardInterrupt
