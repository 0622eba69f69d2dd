"""Running a node as a process: signals, executor, autostart, exit code."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from semantic_matcher.command_line import UsageError, check, help_text, of_other_nodes, wants_help
from semantic_matcher.environment import environment_doubts, environment_refusal, installed_middleware, reason_of
from semantic_matcher.fastdds_profile import node_environment
from semantic_matcher.orphaned_memory import remove_orphaned_segments
from semantic_matcher_core.allocator import reuse_large_blocks

if TYPE_CHECKING:
    from semantic_matcher.matcher_node import MatcherNode

STOPPED = 0
"""Exit code after SIGINT, SIGTERM or SIGHUP, and after the help."""
FAILED = 1
"""Exit code when an argument is refused, or when configuring or activating fails at autostart."""

# A process has two seconds to end in. Of these, an image in work gets the first, and the whole node a little more.
_WORK_GRACE_S = 0.8
_GRACE_S = 1.2
_SPIN_S = 0.1
_LAST_REPORTS = 10
_LAST_REPORTS_EVERY_S = 0.25


def run_node(
    executable: str, purpose: str, create: Callable[[], MatcherNode], args: list[str] | None = None
) -> NoReturn:
    """Run a node until a signal ends it, and end the process with :data:`STOPPED` or :data:`FAILED`.

    The main thread only waits for signals; imports, loading and callbacks happen in a second thread, so that a signal
    is answered at any moment. What native code is computing then cannot be interrupted: after 1.2 s it is left behind.

    Args:
        executable: its name, which that of its parameter table is.
        purpose: what it does, one sentence, for ``--help``.
        create: imports and makes the node once rclpy is initialised.
        args: command line with the program's name first; ``None`` for the process's own.
    """
    # A SimpleQueue, because a signal handler may put into it at any moment without a deadlock.
    endings: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup is asked for with SIGHUP ignored: that terminal may go.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: endings.put(STOPPED))
    arguments = (sys.argv if args is None else args)[1:]
    if wants_help(arguments):
        print(help_text(executable, purpose))
        sys.exit(STOPPED)
    try:
        check(executable, arguments)
        _check_folder()
        if reason := environment_refusal(os.environ, installed_middleware()):
            raise UsageError(reason)
        os.environ.update(node_environment())
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except OSError as error:
        print(f"error: {error}; source the workspace that the package is installed in", file=sys.stderr)
        sys.exit(FAILED)
    reuse_large_blocks()
    runner = _Runner(create, args, endings)
    runner.start()
    code = endings.get()
    runner.stopping.set()
    runner.join(_GRACE_S if runner.began else 0.0)
    if runner.abandoned or (runner.began and runner.is_alive() and not runner.leaving):
        print("still computing when told to stop; ending without waiting for it", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Without finalisation, which would pull the interpreter from under native code that still computes, and which takes
    # seconds for torch alone on a busy machine. The node has been taken down already where that was possible.
    os._exit(code)


def _check_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        # torch would end the process with words about a library of its own.
        raise UsageError("the folder that this was started in has been removed; cd to another one") from error


class _Runner(threading.Thread):
    """All of a node's life but the waiting for signals; tells ``endings`` the exit code when it ends by itself."""

    def __init__(
        self, create: Callable[[], MatcherNode], args: list[str] | None, endings: queue.SimpleQueue[int]
    ) -> None:
        super().__init__(name="executor", daemon=True)
        self._create = create
        self._args = args
        self._endings = endings
        self.stopping = threading.Event()
        self.began = False
        """Whether there is a node, which can be taken down."""
        self.abandoned = False
        """Whether an image was still in work in the end."""
        self.leaving = False
        """Whether it is leaving DDS, which Fast DDS 2.14 may take for ever for; that is no computation."""

    def run(self) -> None:
        try:
            self._run()
        except BaseException:
            # Printed here: the process may be gone before the threading module gets round to it.
            traceback.print_exc()
            raise
        finally:
            # After a signal this is not read any more.
            self._endings.put(FAILED)

    def _run(self) -> None:
        import rclpy
        from rclpy.exceptions import ParameterException
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.impl.implementation_singleton import rclpy_implementation
        from rclpy.logging import LoggingSeverity, set_logger_level
        from rclpy.signals import SignalHandlerOptions

        freed = remove_orphaned_segments()
        try:
            # rcl logs in its own words what is said better here.
            set_logger_level("rcl", LoggingSeverity.FATAL)
            rclpy.init(args=self._args, signal_handler_options=SignalHandlerOptions.NO)
            set_logger_level("rcl", LoggingSeverity.UNSET)
        except RuntimeError as error:
            # What rclpy's errors of arguments derive from.
            print(f"error: {reason_of(error, os.environ)}", file=sys.stderr)
            return
        try:
            node = self._create()
        except (ValueError, ParameterException) as error:
            print(f"error: {error}", file=sys.stderr)
            rclpy.try_shutdown()
            return
        except rclpy_implementation.RCLError as error:
            print(f"error: {reason_of(error, os.environ)}", file=sys.stderr)
            rclpy.try_shutdown()
            return
        self.began = True
        arguments = sys.argv if self._args is None else self._args
        others = of_other_nodes(arguments[1:], node.get_fully_qualified_name())
        for text in [*others, *environment_doubts(os.environ)]:
            node.get_logger().warning(text)
        if freed:
            node.get_logger().info(
                f"freed {freed / 1e6:.0f} MB of shared memory, which processes that were killed had left"
            )
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.parameters.values.autostart:
            executor.create_task(lambda: self._autostart(node))
        while not self.stopping.is_set() and executor.context.ok():
            try:
                executor.spin_once(timeout_sec=_SPIN_S)
            except Exception as error:  # noqa: BLE001 - of one request or message, which is not to end the node
                node.report_error(f"a callback failed: {error!r}", traceback.format_exc())
        self.abandoned = not node.stop_working(_WORK_GRACE_S)
        # Also under an image still in work: what the process leaves of DDS would stay in the machine's shared memory.
        self.leaving = True
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()

    def _autostart(self, node: MatcherNode) -> None:
        try:
            started = node.autostart()
        except Exception:
            self.stopping.set()
            raise
        if not started:
            # The reason is in the log. Subscribers of the diagnostics are to get it as well, and DDS needs a second or
            # two to find them.
            for _ in range(_LAST_REPORTS):
                node.report_now()
                self.stopping.wait(_LAST_REPORTS_EVERY_S)
            self.stopping.set()
