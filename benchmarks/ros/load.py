"""Ten times more images than the model can take: ``python -m benchmarks.ros.load``.

A null model that takes ``--seconds`` for an image. What is promised: results no older than two runs of the model and
100 ms, and memory that does not grow.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.ros.graph import (
    Peer,
    image_message,
    machine_load,
    node_process,
    resident_mb,
    set_stamp,
    settle,
    stamp_of,
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ros.load", description=__doc__)
    parser.add_argument("--duration", type=float, default=60.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=0.25, help="what the model takes for an image")
    parser.add_argument("--factor", type=float, default=10.0, help="images for each one that the model can take")
    arguments = parser.parse_args(argv)
    from semantic_matcher_msgs.msg import Keypoints
    from sensor_msgs.msg import Image

    ages: list[float] = []
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Peer() as peer:
        record = Path(folder) / "times"
        with node_process("benchmarks.ros.nodes", ["matcher", str(record), str(arguments.seconds)]) as process:

            def note(message: Keypoints) -> None:
                ages.append((time.time_ns() - stamp_of(message)) * 1e-6)

            peer.node.create_subscription(Keypoints, "/temporal_matcher/keypoints", note, 5)
            camera = peer.node.create_publisher(Image, "image", 5)
            settle(process, lambda: camera.get_subscription_count() == 1, "subscription")
            message = image_message(np.zeros((480, 640, 3), np.uint8), 0)
            rate, begin = arguments.factor / arguments.seconds, time.monotonic()
            images = round(rate * arguments.duration)
            for i in range(images):
                time.sleep(max(0.0, begin + i / rate - time.monotonic()))
                set_stamp(message, time.time_ns())
                camera.publish(message)
                if i % round(rate) == 0:
                    memory.append(resident_mb(process.pid))
            took = time.monotonic() - begin
    limit = 2000 * arguments.seconds + 100
    print(f"{machine_load()}; {images} images of 640 x 480 in {took:.0f} s, the model takes {arguments.seconds:g} s")
    print(
        f"{len(ages)} results; age p50 {np.percentile(ages, 50):.0f} ms, p95 {np.percentile(ages, 95):.0f} ms, "
        f"max {max(ages):.0f} ms (promised {limit:.0f} ms; {np.mean(np.array(ages) <= limit):.1%} within)"
    )
    warm = memory[len(memory) // 6]
    print(f"memory: {warm:.1f} MB after a sixth of the time, {memory[-1]:.1f} MB at the end ({memory[-1] - warm:+.1f})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
