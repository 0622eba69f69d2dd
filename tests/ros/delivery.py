"""A camera and a listener in processes of their own: ``python -m tests.ros.delivery camera|listener COUNT RATE``."""

from __future__ import annotations

import sys
import time

import numpy as np
import rclpy
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import UInt32

from tests.ros.support import image_message, leave

HEIGHT, WIDTH = 480, 640
# How many images were sent; the listener answers with how many arrived.
SENT, ARRIVED = "delivery/sent", "delivery/arrived"
LONG_S = 60.0


def camera(count: int, rate: float) -> None:
    """Publish ``count`` colour images at ``rate`` Hz, tell how many, and print how many arrived."""
    node = rclpy.create_node("camera")
    images = node.create_publisher(Image, "delivery/image", _best_effort(1))
    sent = node.create_publisher(UInt32, SENT, 10)
    answers: list[int] = []
    node.create_subscription(UInt32, ARRIVED, lambda m: answers.append(m.data), 10)
    _spin_until(node, lambda: images.get_subscription_count() and sent.get_subscription_count())
    # A publisher may know of a subscriber sooner than the other way round.
    _spin_until(node, lambda: False, 0.5)
    message = image_message(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), 1)
    begin = time.monotonic()
    for i in range(count):
        time.sleep(max(0.0, begin + i / rate - time.monotonic()))
        images.publish(message)
    while not answers:
        sent.publish(UInt32(data=count))
        _spin_until(node, lambda: bool(answers), 0.5)
    print(answers[0])


def listener() -> None:
    """Count the images that arrive until the camera says that it has sent all; answer it."""
    node = rclpy.create_node("listener")
    arrived: list[int] = []
    done: list[int] = []
    # Deeper than a node's own subscription: what is counted is what the transport delivers.
    node.create_subscription(Image, "delivery/image", lambda m: arrived.append(len(m.data)), _best_effort(10))
    node.create_subscription(UInt32, SENT, lambda m: done.append(m.data), 10)
    answer = node.create_publisher(UInt32, ARRIVED, 10)
    _spin_until(node, lambda: bool(done))
    _spin_until(node, lambda: len(arrived) >= done[0], 1.0)
    assert all(size == HEIGHT * WIDTH * 3 for size in arrived)
    for _ in range(10):
        answer.publish(UInt32(data=len(arrived)))
        _spin_until(node, lambda: False, 0.2)


def _best_effort(depth: int) -> QoSProfile:
    return QoSProfile(depth=depth, reliability=QoSReliabilityPolicy.BEST_EFFORT)


def _spin_until(node: rclpy.node.Node, condition: object, seconds: float = LONG_S) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # type: ignore[operator]
        rclpy.spin_once(node, timeout_sec=0.05)


if __name__ == "__main__":
    rclpy.init()
    if sys.argv[1] == "camera":
        camera(int(sys.argv[2]), float(sys.argv[3]))
    else:
        listener()
    leave()
