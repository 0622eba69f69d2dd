"""One thread that works on the newest item of each source; what it cannot keep up with is dropped and counted."""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy.ma  # noqa: F401 - np.median and np.unique import it at their first call, which would be in the thread

# Longer than a node needs to decode an image, and far shorter than what waits for the caller of `offer` may notice.
_HEAD_START_S = 0.003


class NewestFrameWorker:
    """Runs ``work(source, item)`` in a thread, always on the newest item of a source.

    An item that has not been begun is replaced by the next of its source, so the age of what is worked on is bounded by
    one run of ``work`` for each source, however fast items come. Sources take turns.

    ``offer`` does not wait for the work, apart from a head start of up to 3 ms for a worker that was idle. An executor
    that calls it would else take the interpreter for its own bookkeeping just when the worker wakes up.

    Args:
        work: what to do with an item; an exception goes to ``failed`` and the thread goes on.
        failed: told of the source and the exception.
        name: the thread's name.
    """

    def __init__(
        self, work: Callable[[str, Any], None], failed: Callable[[str, Exception], None], name: str = "worker"
    ) -> None:
        self._work = work
        self._failed = failed
        self._name = name
        self._waiting: OrderedDict[str, Any] = OrderedDict()
        self._condition = threading.Condition()
        self._stopping = False
        self._idle = False
        self._thread: threading.Thread | None = None
        self._begun_at: float | None = None
        self.dropped: Counter[str] = Counter()
        """Items of each source that were replaced before their turn."""

    @property
    def seconds_in_work(self) -> float:
        """Since when the present item has been worked on; 0 where there is none."""
        begun = self._begun_at
        return 0.0 if begun is None else time.monotonic() - begun

    def start(self) -> None:
        """Begin to work; what was offered before is forgotten."""
        self._waiting.clear()
        self._stopping = False
        # A daemon: a process that is told to stop does not wait for a network that is still computing.
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def offer(self, source: str, item: Any) -> None:
        """Leave an item to be worked on next; it replaces one of the same source that has not been begun."""
        with self._condition:
            if self._stopping or self._thread is None:
                return
            if source in self._waiting:
                self.dropped[source] += 1
            self._waiting[source] = item
            self._condition.notify_all()
            if self._idle:
                self._idle = False
                self._condition.wait_for(lambda: self._idle or self._stopping, _HEAD_START_S)

    def stop(self, timeout: float | None = None) -> bool:
        """Finish the item in work and end; whether the thread ended within ``timeout`` seconds."""
        with self._condition:
            self._stopping = True
            self._waiting.clear()
            self._condition.notify_all()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        self._thread = None
        return True

    def _run(self) -> None:
        while True:
            with self._condition:
                self._idle = not self._waiting
                if self._idle:
                    self._condition.notify_all()
                self._condition.wait_for(lambda: self._waiting or self._stopping)
                if self._stopping:
                    return
                source, item = self._waiting.popitem(last=False)
            self._begun_at = time.monotonic()
            try:
                try:
                    self._work(source, item)
                except Exception as error:  # noqa: BLE001 - the thread must outlive any frame; `failed` reports it
                    self._failed(source, error)
            except Exception:  # noqa: BLE001 - where memory is short, a report fails as well
                traceback.print_exc()
            self._begun_at = None
            del item
