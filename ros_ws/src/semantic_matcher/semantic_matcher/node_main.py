"""Running a node as a process: signals, executor, autostart, exit code."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rclpy.executors import SingleThreadedExecutor

    from semantic_matcher.matcher_node import MatcherNode

STOPPED = 0
"""Exit code after SIGINT or SIGTERM."""
FAILED = 1
"""Exit code when a parameter is refused, or when configuring or activating fails at autostart."""

# Of the two seconds that a process has to end in, what a network that is still computing gets.
_GRACE_S = 1.2
_SPIN_S = 0.1


def run_node(create: Callable[[], MatcherNode], args: list[str] | None = None) -> int:
    """Run a node until a signal ends it.

    The main thread only waits for signals; callbacks run in a second thread, so that a signal is answered while a model
    is being loaded or an image is being processed. What has not ended 1.2 s later is left behind with the process.

    Args:
        create: makes the node once rclpy is initialised.
        args: command line with the program's name first; ``None`` for the process's own.

    Returns:
        The exit code: :data:`STOPPED` or :data:`FAILED`.
    """
    # A SimpleQueue, because a signal handler may put into it at any moment without a deadlock.
    endings: queue.SimpleQueue[str] = queue.SimpleQueue()
    # Before anything that takes time: a signal during start-up ends the process just as well.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: endings.put(""))

    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        try:
            node = create()
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return FAILED
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.parameters.values.autostart:
            executor.create_task(lambda: _autostart(node, endings))
        stopping = threading.Event()
        thread = threading.Thread(target=_spin, args=(executor, stopping, endings), name="executor", daemon=True)
        thread.start()
        failure = endings.get()
        stopping.set()
        if not _wind_up(node, executor, thread):
            # Native code cannot be interrupted: what it computes is left behind.
            print("still computing when told to stop; ending without waiting for it", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(FAILED if failure else STOPPED)
        return FAILED if failure else STOPPED
    finally:
        rclpy.try_shutdown()


def _autostart(node: MatcherNode, endings: queue.SimpleQueue[str]) -> None:
    if not node.autostart():
        # The reason is in the log; whoever watches the diagnostics gets it as well before the process ends.
        node.report_now(wait_s=0.5)
        endings.put(node.statistics.last_error or "cannot start")


def _spin(executor: SingleThreadedExecutor, stopping: threading.Event, endings: queue.SimpleQueue[str]) -> None:
    failure = "the executor ended"
    try:
        while not stopping.is_set() and executor.context.ok():
            executor.spin_once(timeout_sec=_SPIN_S)
        failure = ""
    finally:
        endings.put(failure)


def _wind_up(node: MatcherNode, executor: SingleThreadedExecutor, thread: threading.Thread) -> bool:
    """End worker, executor and node; whether all ended in time."""
    deadline = time.monotonic() + _GRACE_S

    def left() -> float:
        return max(0.0, deadline - time.monotonic())

    if not node.stop_working(left()):
        return False
    thread.join(left())
    if thread.is_alive() or not executor.shutdown(timeout_sec=left()):
        return False
    node.destroy_node()
    return True
