"""Thousands of small images through a real matcher, and what memory grows by: ``python -m benchmarks.ros.soak``.

``plain:sift`` at 160 x 120, keypoints, descriptors and matches subscribed. Each image is sent when the one before is
answered (or after ``--patience`` seconds), so that all of them are processed.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable

import numpy as np

from benchmarks.ros.graph import Peer, image_message, machine_load, node_process, resident_mb, settle


def views(count: int = 16) -> list[np.ndarray]:
    """Yield windows of one picture of blobs, each a little further."""
    random = np.random.default_rng(0)
    picture = np.kron(random.integers(0, 256, (60, 60, 3), np.uint8), np.ones((5, 5, 1), np.uint8))
    return [np.ascontiguousarray(picture[2 * i : 2 * i + 120, 3 * i : 3 * i + 160]) for i in range(count)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ros.soak", description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--warmup", type=int, default=1_000, help="images before memory is first looked at")
    parser.add_argument("--variant", default="plain:sift")
    parser.add_argument("--patience", type=float, default=1.0, help="seconds to wait for an answer")
    parser.add_argument("--limit", type=float, default=0.0, help="stop after this many seconds; 0 for never")
    arguments = parser.parse_args(argv)
    from semantic_matcher_msgs.msg import Descriptors, Keypoints, Matches
    from sensor_msgs.msg import Image

    answered = threading.Event()
    counts = {"keypoints": 0, "descriptors": 0, "matches": 0}
    options = ["--ros-args", "-p", f"variant:={arguments.variant}", "-p", "max_keypoints:=300"]
    options += ["-p", "torch_threads:=1"]
    samples: list[tuple[int, float]] = []
    with Peer() as peer, node_process("semantic_matcher.temporal_matcher", options) as process:

        def noting(name: str) -> Callable[[object], None]:
            def note(message: object) -> None:
                counts[name] += 1
                if name == "keypoints":
                    answered.set()

            return note

        for name, kind in (("keypoints", Keypoints), ("descriptors", Descriptors), ("matches", Matches)):
            peer.node.create_subscription(kind, f"/temporal_matcher/{name}", noting(name), 5)
        camera = peer.node.create_publisher(Image, "image", 5)
        settle(process, lambda: camera.get_subscription_count() == 1, "subscription")
        pictures, begin = views(), time.monotonic()
        for i in range(arguments.images):
            answered.clear()
            camera.publish(image_message(pictures[i % len(pictures)], time.time_ns()))
            answered.wait(arguments.patience)
            if i >= arguments.warmup and i % 500 == 0:
                samples.append((i, resident_mb(process.pid)))
            if 0 < arguments.limit < time.monotonic() - begin:
                break
        took = time.monotonic() - begin
        samples.append((i + 1, resident_mb(process.pid)))
    print(f"{machine_load()}; {i + 1} images of 160 x 120 in {took:.0f} s; answers: {counts}")
    first, last = samples[0], samples[-1]
    slope = (
        np.polyfit([x for x, _ in samples], [y for _, y in samples], 1)[0] * 10_000
        if len(samples) > 2
        else float("nan")
    )
    print(
        f"memory: {first[1]:.1f} MB after {first[0]} images, {last[1]:.1f} MB after {last[0]}: "
        f"{last[1] - first[1]:+.1f} MB; largest {max(m for _, m in samples):.1f} MB; "
        f"fitted growth {slope:+.2f} MB in 10 000 images"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
