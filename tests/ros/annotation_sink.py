"""Prints the first ImageAnnotations of a topic as JSON: ``python annotation_sink.py TOPIC SECONDS``.

A process of its own, because foxglove_msgs is built while the tests run, after their process chose its libraries.
"""

from __future__ import annotations

import json
import sys
import time

import rclpy
from foxglove_msgs.msg import ImageAnnotations


def main(topic: str, seconds: float) -> int:
    rclpy.init()
    node = rclpy.create_node("annotation_sink")
    received: list[ImageAnnotations] = []
    node.create_subscription(ImageAnnotations, topic, received.append, 10)
    deadline = time.monotonic() + seconds
    while not received and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.1)
    for message in received[:1]:
        parts = [
            {
                "type": p.type,
                "stamp": p.timestamp.sec * 10**9 + p.timestamp.nanosec,
                "xy": [(q.x, q.y) for q in p.points],
            }
            for p in message.points
        ]
        print(json.dumps(parts), flush=True)
    node.destroy_node()
    rclpy.shutdown()
    return 0 if received else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
