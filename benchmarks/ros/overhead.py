"""What a node does beside the networks: ``python -m benchmarks.ros.overhead``.

A null model answers at once with 2048 keypoints of 256 dimensions. Timed in the node, from the image in the
subscription's callback to keypoints, descriptors (2 MB) and matches published: hand-over to the worker, decoding,
building and publishing. Beside it a raw pass-through of rclpy, which publishes a finished message of descriptors for
each image. Both take turns, so that a busy machine is unfair to neither. Measured too: what the thread itself computed,
which other processes do not add to, and from camera to subscriber.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.ros.graph import Peer, image_message, machine_load, node_process, set_stamp, settle, stamp_of
from benchmarks.ros.null_model import DIMENSIONS, KEYPOINTS

NODES = {"matcher": "/temporal_matcher", "floor": "/floor"}


MEASURES = ("in the node", "computed", "camera to subscriber")


def run(kind: str, images: int, rate: float) -> dict[str, list[float]]:
    """Return milliseconds of each image that was answered, for each of the measures."""
    from semantic_matcher_msgs.msg import Descriptors, Keypoints, Matches
    from sensor_msgs.msg import Image

    ways: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Peer() as peer:
        record = Path(folder) / "times"
        with node_process("benchmarks.ros.nodes", [kind, str(record)]) as process:

            def note(message: Descriptors) -> None:
                ways.append((time.time_ns() - stamp_of(message)) * 1e-6)

            name = NODES[kind]
            peer.node.create_subscription(Descriptors, f"{name}/descriptors", note, 5)
            if kind == "matcher":
                peer.node.create_subscription(Keypoints, f"{name}/keypoints", lambda _: None, 5)
                peer.node.create_subscription(Matches, f"{name}/matches", lambda _: None, 5)
            camera = peer.node.create_publisher(Image, "image", 5)
            settle(process, lambda: camera.get_subscription_count() == 1, "subscription")
            time.sleep(1.0)
            pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
            message = image_message(pixels, 0)
            for i in range(images):
                if i == images // 10:
                    warm = len(record.read_text().splitlines()), len(ways)
                set_stamp(message, time.time_ns())
                camera.publish(message)
                time.sleep(1 / rate)
            time.sleep(1.0)
            lines = [line.split() for line in record.read_text().splitlines()][warm[0] :]
    columns = [float(line[0]) for line in lines], [float(line[1]) for line in lines], ways[warm[1] :]
    return dict(zip(MEASURES, columns, strict=True))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ros.overhead", description=__doc__)
    parser.add_argument("--images", type=int, default=200, help="images of each run")
    parser.add_argument("--rate", type=float, default=20.0, help="images per second")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each node, in turn")
    arguments = parser.parse_args(argv)
    print(f"640 x 480 rgb8 in, {KEYPOINTS} x {DIMENSIONS} descriptors out; {machine_load()}")
    times: dict[str, dict[str, list[float]]] = {kind: {measure: [] for measure in MEASURES} for kind in NODES}
    for _ in range(arguments.rounds):
        for kind in NODES:
            for measure, values in run(kind, arguments.images, arguments.rate).items():
                times[kind][measure] += values
    print(f"| ms median (p95) | images | {' | '.join(MEASURES)} |")
    print("|---|---:|" + "---:|" * len(MEASURES))
    for kind in NODES:
        cells = [f"{statistics.median(v):.2f} ({np.percentile(v, 95):.2f})" for v in times[kind].values()]
        print(f"| {kind} | {len(times[kind][MEASURES[0]])} | {' | '.join(cells)} |")
    medians = {kind: [statistics.median(v) for v in times[kind].values()] for kind in NODES}
    ratios = [f"{ours / floor:.2f}" for ours, floor in zip(medians["matcher"], medians["floor"], strict=True)]
    print(f"| ratio | | {' | '.join(ratios)} |")
    print(machine_load())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
