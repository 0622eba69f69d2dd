"""An ordinary camera driver in a process of its own: ``python -m tests.ros.driver TOPIC RELIABILITY COUNT RATE``.

It goes on by lines on its stdin, and tells in lines of JSON: single images until the first line; then silence until the
second; then ``COUNT`` images at ``RATE`` Hz; then single images until the third, by which what was lost is noticed.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import cv2
import numpy as np
import rclpy
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image

from tests.ros.support import image_message, leave, set_stamp

HEIGHT, WIDTH = 480, 640
# What a driver's publisher has when nobody thinks about it.
DEPTH = 10
_SINGLE_S = 0.25


class _Lines:
    """What has come on stdin; its end counts as any number of lines."""

    def __init__(self) -> None:
        self._arrived = threading.Semaphore(0)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for _ in sys.stdin:
            self._arrived.release()
        self._arrived.release(10)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether another line has come, in time."""
        return self._arrived.acquire(timeout=seconds)


def drive(topic: str, reliability: str, count: int, rate: float) -> None:
    """Publish as the module says, stamped with the time of the machine."""
    node = rclpy.create_node("driver")
    profile = QoSProfile(depth=DEPTH, reliability=QoSReliabilityPolicy[reliability.upper()])
    publisher = node.create_publisher(Image, topic, profile)
    spots = np.random.default_rng(0).integers(0, 256, (HEIGHT // 32, WIDTH // 32, 3), dtype=np.uint8)
    message = image_message(cv2.resize(spots, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), 1)
    lines = _Lines()

    def publish() -> int:
        stamp = time.time_ns()
        set_stamp(message, stamp)
        publisher.publish(message)
        return stamp

    def singles() -> int:
        number = 0
        while not lines.wait(_SINGLE_S):
            if publisher.get_subscription_count():
                publish()
                number += 1
        return number

    singles()
    print(json.dumps("silent"), flush=True)
    lines.wait()
    begin, stamps, late = time.monotonic(), [], 0.0
    for i in range(count):
        due = begin + i / rate
        time.sleep(max(0.0, due - time.monotonic()))
        stamps.append(publish())
        late = max(late, time.monotonic() - due)
    print(json.dumps({"stamps": stamps, "late": late}), flush=True)
    print(json.dumps(singles()), flush=True)


if __name__ == "__main__":
    rclpy.init()
    drive(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    leave()
