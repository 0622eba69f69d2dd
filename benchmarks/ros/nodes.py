"""The nodes under test: the temporal matcher with a null model, timed, and a raw pass-through of rclpy as the floor.

``python -m benchmarks.ros.nodes matcher|floor <file> [seconds]``; the file gets a line an image:
milliseconds that passed, and milliseconds of them that the thread computed.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import torch

from benchmarks.ros.null_model import DIMENSIONS, KEYPOINTS, load


def _line(passed: float, computed: float) -> str:
    return f"{1000 * passed:.4f} {1000 * computed:.4f}\n"


def matcher(record: Path, seconds: float) -> None:
    """Run the temporal matcher; milliseconds from a message in the callback to its results published."""
    from semantic_matcher.node_main import run_node
    from semantic_matcher.temporal_node import TemporalMatcher

    torch.set_num_threads(1)

    class Timed(TemporalMatcher):
        def __init__(self) -> None:
            super().__init__(load_model=functools.partial(load, seconds))
            self._file = record.open("w", buffering=1)

        def offer(self, source: str, item: Any) -> None:
            super().offer(source, (item, time.perf_counter()))

        def process(self, source: str, item: Any) -> None:
            message, received = item
            computing = time.thread_time()
            super().process(source, message)
            self._file.write(_line(time.perf_counter() - received, time.thread_time() - computing))

    run_node("temporal_matcher", "Measures.", Timed, [sys.argv[0]])


def floor(record: Path) -> None:
    """Take an image and publish descriptors of the same size that are there already; do nothing else."""
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from semantic_matcher_msgs.msg import Descriptors
    from sensor_msgs.msg import Image

    from semantic_matcher.qos import IMAGE_DEPTH, input_qos, output_qos
    from semantic_matcher_core.allocator import reuse_large_blocks

    # As the nodes do: what is compared is the work, not the allocator.
    reuse_large_blocks()
    rclpy.init()
    node = rclpy.create_node("floor")
    publisher = node.create_publisher(Descriptors, "~/descriptors", output_qos())
    answer = Descriptors(dim=DIMENSIONS, data=array("f", bytes(4 * KEYPOINTS * DIMENSIONS)))
    with record.open("w", buffering=1) as file:

        def take(message: Image) -> None:
            began, computing = time.perf_counter(), time.thread_time()
            answer.header = message.header
            publisher.publish(answer)
            file.write(_line(time.perf_counter() - began, time.thread_time() - computing))

        node.create_subscription(Image, "image", take, input_qos(IMAGE_DEPTH, []))
        with contextlib.suppress(ExternalShutdownException):
            rclpy.spin(node)


if __name__ == "__main__":
    if sys.argv[1] == "matcher":
        matcher(Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
    else:
        floor(Path(sys.argv[2]))
