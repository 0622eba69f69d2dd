"""Ctrl-C and its like end the demo, wherever they meet it."""

from __future__ import annotations

import signal
import threading

_requested = threading.Event()


def listen() -> None:
    """Have SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread."""
    _requested.clear()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _request)


def check() -> None:
    """Raise KeyboardInterrupt if one was asked for: raised inside a finalizer or a fork's hooks, it gets lost."""
    if _requested.is_set():
        raise KeyboardInterrupt


def _request(*_: object) -> None:
    _requested.set()
    raise KeyboardInterrupt
