"""Worker processes that never outlive the process that started them, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

_ABANDONED = 1


@contextlib.contextmanager
def process_pool(
    workers: int, begin: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """Start a pool of fresh interpreters, for a ``with`` block.

    An exception that leaves the block ends the workers at once, whatever they compute, and so does the end of this
    process, by SIGKILL too. A block that is left in order waits for what was submitted.

    Args:
        workers: how many.
        begin: called in each with ``arguments`` before its first task; it and they must pickle.
    """
    # Spawned, not forked: threads of torch and CUDA do not survive a fork.
    context = get_context("spawn")
    # The pipe is closed by what ends this process; nothing is written into it.
    reader, writer = context.Pipe(duplex=False)
    with (
        contextlib.closing(writer),
        contextlib.closing(reader),
        _Pool(workers, mp_context=context, initializer=_begin, initargs=(reader, begin, arguments)) as pool,
    ):
        try:
            yield pool
        except BaseException:
            writer.close()
            pool.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Pool(ProcessPoolExecutor):
    # A task may start a worker, which inherits what is blocked here: Ctrl-C finds it importing, long before `_begin`.
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        before, workers = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]), self._started()
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            if self._started() > workers:
                # The thread that watches the workers was woken before this one was there: until it wakes again, which
                # may be when another has done hours of work, or never, it would not see that this one was killed.
                with self._shutdown_lock:
                    self._executor_manager_thread_wakeup.wakeup()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def kill(self) -> None:
        """End the workers; one that is stopped does not see its lifeline end, nor SIGTERM."""
        for worker in list((self._processes or {}).values()):
            worker.kill()

    def _started(self) -> int:
        return len(self._processes or {})


def _begin(lifeline: Connection, begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    # The parent decides what Ctrl-C means; what it was started to ignore is not ignored here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(lifeline,), name="lifeline", daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with_parent(lifeline: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv_bytes()
    # Without finalisation, which would wait for what is being computed.
    os._exit(_ABANDONED)
