"""The demo's recorder: a process that writes what it hears to an MCAP file, pictures as JPEG."""

from __future__ import annotations

import argparse
import importlib
import queue
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

# Everything that writing needs is imported here, before the thread that writes starts.
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from semantic_matcher.demo.processes import report
from semantic_matcher_core.errors import SemanticMatcherError
from semantic_matcher_core.io.bags import load_libraries
from semantic_matcher_core.io.image_messages import image_to_rgb
from semantic_matcher_core.io.mcap import McapWriter
from semantic_matcher_core.io.messages import compressed_image_message, typestore

_IMAGE = "sensor_msgs/msg/Image"
_REPORT_EVERY_S = 0.1
_JPEG_QUALITY = 95

Item = tuple[str, str, bytes, int]
"""Topic, message type, message in CDR, and when it came (nanoseconds since the epoch)."""


class Writer(threading.Thread):
    """Writes what the callbacks hand over, so that they return at once.

    Args:
        path: the MCAP file; it appears when :meth:`finish` is called.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(name="writer", daemon=True)
        self._path = path
        # A bound, because a disk may be slower than a camera: what is beyond is lost, as the counts show.
        self._queue: queue.Queue[Item | None] = queue.Queue(maxsize=500)
        self.error: Exception | None = None
        # Here, before the thread that would import it.
        load_libraries()
        self.start()

    def put(self, item: Item) -> bool:
        """Hand a message over; false where too many wait."""
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            return False
        return True

    def finish(self) -> None:
        """Write what waits and close the file.

        Raises:
            OutputError: the file could not be written.
        """
        while self.is_alive():
            # Not for good: it may end of an error before it takes what it is handed.
            with suppress(queue.Full):
                self._queue.put(None, timeout=_REPORT_EVERY_S)
                break
        self.join()
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        try:
            with McapWriter(self._path) as mcap:
                while (item := self._queue.get()) is not None:
                    topic, msgtype, data, received_ns = item
                    if msgtype == _IMAGE:
                        mcap.write(f"{topic}/compressed", _compressed(data), received_ns)
                    else:
                        mcap.write_serialized(topic, msgtype, data, received_ns)
        except Exception as error:  # noqa: BLE001 - raised again by finish()
            self.error = error


def _compressed(data: bytes) -> Any:
    message: Any = typestore().deserialize_cdr(data, _IMAGE)
    return compressed_image_message(image_to_rgb(message), message.header, quality=_JPEG_QUALITY)


def message_class(msgtype: str) -> type:
    """Return the class of ``package/msg/Name``."""
    package, kind, name = msgtype.split("/")
    return getattr(importlib.import_module(f"{package}.{kind}"), name)


def main(args: list[str] | None = None) -> int:
    """Record until a signal ends it; exit code 0 when the file is complete."""
    parser = argparse.ArgumentParser(prog="recorder", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the MCAP file")
    parser.add_argument("--record", nargs=2, action="append", metavar=("TOPIC", "TYPE"), required=True)
    options = parser.parse_args(args)

    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ending.set())
    rclpy.init(args=["--ros-args", "--disable-external-lib-logs"], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("recorder")
    writer = Writer(options.output)
    counts: Counter[str] = Counter()
    lost: Counter[str] = Counter()

    def receive(topic: str, msgtype: str, data: bytes) -> None:
        kept = writer.put((topic, msgtype, data, time.time_ns()))
        (counts if kept else lost)[topic] += 1

    for topic, msgtype in options.record:
        callback = partial(receive, topic, msgtype)
        node.create_subscription(message_class(msgtype), topic, callback, QoSProfile(depth=20), raw=True)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    reported = 0.0
    try:
        while not ending.is_set() and writer.is_alive():
            executor.spin_once(timeout_sec=_REPORT_EVERY_S)
            if time.monotonic() - reported > _REPORT_EVERY_S:
                reported = time.monotonic()
                report(counts=dict(counts), lost=dict(lost))
        report(counts=dict(counts), lost=dict(lost))
        writer.finish()
    except SemanticMatcherError as error:
        print(f"error: {error}")
        return 1
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    report(done=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
