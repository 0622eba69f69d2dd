"""The demo's processes: started together, watched, and all ended whatever happens. No ROS.

A process reports to the demo with lines ``@ {…}`` (JSON) on its standard output; every other line is log.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from semantic_matcher.demo import interruption
from semantic_matcher.demo.errors import DemoError

_TAIL = 8
_GRACE_S = 6.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def report(**values: Any) -> None:
    """Tell the demo something, from one of its processes."""
    # The line and its end at once: other threads and native code write to the same pipe.
    sys.stdout.write(f"@ {json.dumps(values)}\n")
    sys.stdout.flush()


class Process:
    """A process with its log.

    Args:
        name: what messages call it.
        command: program and arguments.
        environment: its whole environment.
        log: file for all it prints.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self.reports: dict[str, Any] = {}
        """The newest value of each name it has reported."""
        self._tail: deque[str] = deque(maxlen=_TAIL)
        try:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends its processes in order.
            self._popen = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_begin,
            )
        except OSError as error:
            raise DemoError(f"cannot start {name}: {error}") from error
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    @property
    def exit_code(self) -> int | None:
        """``None`` while it runs."""
        return self._popen.poll()

    def last_lines(self) -> str:
        """Return the last lines of its log, indented."""
        return "".join(f"\n    {line}" for line in self._tail) or "\n    (it printed nothing)"

    def signal(self, number: int) -> None:
        """Send a signal to it and what it started."""
        if self._popen.poll() is None:
            os.killpg(self._popen.pid, number)

    def wait(self, timeout: float) -> bool:
        """Return whether it ended within ``timeout`` seconds, with all it printed read."""
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._reader.join(1.0)
        return True

    def _read(self) -> None:
        # To the end, whatever comes: a process whose pipe nobody empties would stop in the midst of its next line.
        assert self._popen.stdout is not None
        with open(self.log, "wb", buffering=0) as file:
            for raw in self._popen.stdout:
                line = raw.decode(errors="replace").rstrip()
                if line.startswith("@ "):
                    with suppress(ValueError, TypeError):  # another's words within it: a line of the log
                        self.reports.update(json.loads(line[2:]))
                        continue
                if line.strip():
                    self._tail.append(line)
                with suppress(OSError):  # a full disk, of which the recorder tells
                    file.write(f"{line}\n".encode())


class Processes:
    """All processes of the demo; leaving the ``with`` block ends them.

    Args:
        environment: of each process.
        logs: folder for their logs, which is there.
    """

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self._environment = environment
        self._logs = logs
        self._running: list[Process] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(*self._running)

    def start(self, name: str, command: Sequence[str]) -> Process:
        """Start a process.

        Raises:
            DemoError: it cannot be started.
        """
        process = Process(name, command, self._environment, self._logs / f"{name}.log")
        self._running.append(process)
        return process

    def wait_for(self, condition: Callable[[], bool], what: str, timeout: float, suspect: Process) -> None:
        """Wait until a condition holds.

        Args:
            condition: asked every 50 ms.
            what: the condition in words, after "waited in vain for".
            timeout: seconds.
            suspect: whose log is shown when the time is over.

        Raises:
            DemoError: the time is over, or a process ended with an error; the message has its last log lines.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(
                    f"waited {timeout:.0f} s in vain for {what}; the last lines of {suspect.name} "
                    f"({suspect.log}):{suspect.last_lines()}"
                )
            time.sleep(0.05)

    def check(self) -> None:
        """See to it that no process has failed.

        Raises:
            DemoError: one ended with an error, or without being told to; the message has its last log lines.
            KeyboardInterrupt: the demo is to end.
        """
        interruption.check()
        for process in self._running:
            code = process.exit_code
            if code is None or (code == 0 and process.reports.get("done")):
                continue
            process.wait(1.0)
            ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise DemoError(f"{process.name} {ended}; its last lines ({process.log}):{process.last_lines()}")

    def stop(self, *processes: Process) -> None:
        """End processes: SIGINT, and SIGKILL for what has not ended within seconds."""
        for process in processes:
            process.signal(signal.SIGINT)
        deadline = time.monotonic() + _GRACE_S
        for process in processes:
            if not process.wait(max(0.0, deadline - time.monotonic())):
                process.signal(signal.SIGKILL)
                process.wait(_GRACE_S)
        self._running = [process for process in self._running if process not in processes]


def _begin() -> None:
    """Set up the new process: the signals' own actions, and an end when the demo is killed, so that none is left over."""
    # What nohup, cron or a shell's & have the demo ignore would be ignored here as well.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
