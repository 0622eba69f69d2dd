"""Computing without leaving torch's threads behind.

OpenMP keeps a team of threads for every thread that has computed with torch, as long as that one lives. Where the teams
together have more threads than there are cores, libgomp's no longer wait in a loop but sleep between any two parallel
steps: frames that take 55 ms took 77.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_passing_thread(compute: Callable[[], T]) -> T:
    """Return what a function returns, called in a thread that ends with it; this one waits, and has its exceptions.

    Its name is this thread's, for which it stands.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(compute())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            answer.set_exception(error)

    thread = threading.Thread(target=run, name=threading.current_thread().name, daemon=True)
    thread.start()
    thread.join()
    return answer.result()
