"""Processes and messages that the benchmarks of the nodes share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

_START_S = 120.0


def machine_load() -> str:
    """Return what else the machine is doing, for the report."""
    one, five, _ = os.getloadavg()
    return f"{os.cpu_count()} cores, load {one:.1f} (1 min), {five:.1f} (5 min)"


def resident_mb(pid: int) -> float:
    """Return resident set size of a process in MB (10^6 bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def image_message(pixels: np.ndarray, stamp_ns: int) -> Any:
    """Return an rgb8 sensor_msgs/Image."""
    from sensor_msgs.msg import Image

    message = Image(height=pixels.shape[0], width=pixels.shape[1], step=3 * pixels.shape[1], encoding="rgb8")
    message.data = array("B", np.ascontiguousarray(pixels).tobytes())
    set_stamp(message, stamp_ns)
    return message


def set_stamp(message: Any, stamp_ns: int) -> None:
    """Set the header's time stamp."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)


def stamp_of(message: Any) -> int:
    """Return the header's time stamp in nanoseconds."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def settle(
    process: subprocess.Popen[bytes], condition: Callable[[], Any], what: str, timeout: float = _START_S
) -> None:
    """Wait for a condition while a process runs.

    Raises:
        RuntimeError: the process ended, or the time ran out.
    """
    deadline = time.monotonic() + _START_S
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"the node ended with {process.returncode} while waiting for {what}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"no {what} within {_START_S:.0f} s")
        time.sleep(0.02)


@contextmanager
def node_process(module: str, arguments: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node, ``python -m <module> <arguments>``, with the large-message profile; ended at the end."""
    from semantic_matcher.fastdds_profile import large_message_environment

    os.environ.update(large_message_environment())
    with subprocess.Popen([sys.executable, "-m", module, *arguments]) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


class Peer:
    """The camera and the subscriber: a ROS node of this process whose executor runs in a thread."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from semantic_matcher.fastdds_profile import large_message_environment

        os.environ.update(large_message_environment())
        rclpy.init()
        self.node = rclpy.create_node("benchmark")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import rclpy

        self._stopping.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown()

    def _spin(self) -> None:
        while not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=0.1)
