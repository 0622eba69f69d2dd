"""An ordinary camera driver in a process of its own: ``python -m tests.ros.driver TOPIC RELIABILITY COUNT RATE``."""

from __future__ import annotations

import sys
import time

import cv2
import numpy as np
import rclpy
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image

from tests.ros.support import image_message, set_stamp

HEIGHT, WIDTH = 480, 640
# What a driver's publisher has when nobody thinks about it.
DEPTH = 10


def drive(topic: str, reliability: str, count: int, rate: float) -> None:
    """Publish ``count`` colour images at ``rate`` Hz once somebody subscribes, stamped with the time of the machine."""
    node = rclpy.create_node("driver")
    profile = QoSProfile(depth=DEPTH, reliability=QoSReliabilityPolicy[reliability.upper()])
    publisher = node.create_publisher(Image, topic, profile)
    while publisher.get_subscription_count() == 0:
        rclpy.spin_once(node, timeout_sec=0.05)
    time.sleep(1.0)
    spots = np.random.default_rng(0).integers(0, 256, (HEIGHT // 32, WIDTH // 32, 3), dtype=np.uint8)
    message = image_message(cv2.resize(spots, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), 1)
    begin = time.monotonic()
    for i in range(count):
        time.sleep(max(0.0, begin + i / rate - time.monotonic()))
        set_stamp(message, time.time_ns())
        publisher.publish(message)
    # What is lost on the way is sent again by a publisher that lives.
    time.sleep(2.0)


if __name__ == "__main__":
    rclpy.init()
    drive(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    rclpy.try_shutdown()
