"""The demo's camera: a process that publishes the synthetic sequences, or what the user named, as a driver would."""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

# Everything that making frames needs is imported here, before the threads that make them start.
import rclpy
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from semantic_matcher.demo import sequences
from semantic_matcher.demo.errors import DemoError
from semantic_matcher.demo.processes import report
from semantic_matcher.demo.sources import open_source
from semantic_matcher.demo.topics import TOPICS
from semantic_matcher.messages import rgb_image_message, stamp_ns
from semantic_matcher_core.errors import SemanticMatcherError
from semantic_matcher_core.io.atomic import atomic_output

if TYPE_CHECKING:
    from rclpy.node import Node

_SETTLE_S = 0.5
_LATE_S = 0.25

Shots = Iterator[tuple[float, list[np.ndarray]]]
"""Seconds since the first frame, and the image of each camera."""


def synthetic_shots(name: str, frames: int, rate: float) -> Shots:
    """Yield frames of a synthetic sequence, rendered one by one."""
    sequence = getattr(sequences, name)()
    for index in range(frames):
        yield index / rate, sequence.images(index)


def source_shots(path: Path, topic: str | None, frames: int | None, rate: float | None) -> Shots:
    """Return frames of what the user named."""
    # Opened here, in the caller's thread, which imports what reads it; only the frames are made by another.
    source = open_source(path, topic, rate)
    return ((seconds, [image]) for seconds, image in itertools.islice(source.frames(), frames))


class Ahead:
    """Frames made ahead of time by a thread, so that making them does not disturb their pace.

    Args:
        shots: the frames.
        depth: how many may wait.
    """

    def __init__(self, shots: Shots, depth: int) -> None:
        self._queue: queue.Queue[tuple[float, list[np.ndarray]] | Exception | None] = queue.Queue(depth)
        threading.Thread(target=self._fill, args=(shots,), daemon=True).start()

    def _fill(self, shots: Shots) -> None:
        try:
            for shot in shots:
                self._queue.put(shot)
            self._queue.put(None)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that takes the frames
            self._queue.put(error)

    def __iter__(self) -> Shots:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item


def play(node: Node, name: str, shots: Ahead, subscribers: int) -> list[dict[str, object]]:
    """Publish frames at their times, once enough subscribers have come; which frame got which stamp."""
    publishers = [node.create_publisher(Image, topic, QoSProfile(depth=10)) for topic in TOPICS[name]]
    while any(publisher.get_subscription_count() < subscribers for publisher in publishers):
        time.sleep(0.02)
    report(playing=name)
    # The recorder has found the camera; it still has to find what the matcher publishes.
    time.sleep(_SETTLE_S)
    log: list[dict[str, object]] = []
    start = time.monotonic()
    for index, (seconds, images) in enumerate(shots):
        ahead = start + seconds - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        elif ahead < -_LATE_S:
            start -= ahead  # made too slowly for the pace: go on from here instead of catching up in a burst
        stamp = node.get_clock().now().to_msg()
        for publisher, topic, image in zip(publishers, TOPICS[name], images, strict=True):
            header = Header(stamp=stamp, frame_id=f"{topic.split('/')[0]}_optical_frame")
            publisher.publish(rgb_image_message(image, header))
        log.append({"sequence": name, "index": index, "stamp_ns": stamp_ns(header)})
        report(**{f"sent_{name}": len(log)})
    return log


def main(args: list[str] | None = None) -> int:
    """Run the process; exit code 0 when all was played."""
    parser = argparse.ArgumentParser(prog="camera", description=__doc__)
    parser.add_argument("--sequence", action="append", choices=sorted(TOPICS), default=[])
    parser.add_argument("--input", type=Path)
    parser.add_argument("--topic")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--subscribers", type=int, default=2, help="wait for this many on each topic")
    parser.add_argument("--log", type=Path, required=True, help="file for the frames' stamps (JSON)")
    options = parser.parse_args(args)

    rclpy.init(args=["--ros-args", "--disable-external-lib-logs"], signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    node = rclpy.create_node("camera")
    log: list[dict[str, object]] = []
    played: list[str] = []
    try:
        if options.input is not None:
            ahead = {
                "temporal": Ahead(source_shots(options.input, options.topic, options.frames, options.rate), depth=8)
            }
        else:
            ahead = {
                name: Ahead(synthetic_shots(name, options.frames, options.rate), depth=64) for name in options.sequence
            }
        for name, shots in ahead.items():
            log += play(node, name, shots, options.subscribers)
            played.append(name)
            report(played=played)
        with atomic_output(options.log) as temporary:
            temporary.write_text(json.dumps(log), encoding="utf-8")
        report(done=True)
        # What is on its way must not lose its sender.
        time.sleep(_SETTLE_S)
    except (DemoError, SemanticMatcherError) as error:
        print(f"error: {error}")
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
