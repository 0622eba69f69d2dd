"""The node of CONTRIBUTING's recipe runs on a ROS graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipes import follow, run_in_copy

pytestmark = pytest.mark.ros

RUN = """
import os, time
import numpy as np, rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import UInt32
from semantic_matcher.counting_node import CountingNode

rclpy.init()
node = CountingNode(parameter_overrides=[Parameter("variant", value="plain:sift"), Parameter("device", value="cpu")])
node.trigger_configure()
node.trigger_activate()
other = rclpy.create_node("other")
counts = []
other.create_subscription(UInt32, "/keypoint_counter/count", lambda message: counts.append(message.data), 10)
camera = other.create_publisher(Image, "/image", 10)
picture = (np.random.default_rng(0).random((12, 16)) * 255).astype(np.uint8).repeat(10, 0).repeat(10, 1)
executor = SingleThreadedExecutor()
executor.add_node(node)
executor.add_node(other)
end = time.monotonic() + 180
while not counts and time.monotonic() < end:
    message = Image(height=120, width=160, encoding="mono8", step=160, data=picture.tobytes())
    message.header.stamp = other.get_clock().now().to_msg()
    camera.publish(message)
    executor.spin_once(timeout_sec=0.2)
node.trigger_deactivate()
node.trigger_cleanup()
assert counts and counts[0] > 20, counts
print("counted", counts[0], flush=True)
os._exit(0)  # Fast DDS may wait for ever: see tests.ros.support.participant
"""


def test_the_recipe_of_a_node_arrives(ros: None, tmp_path: Path) -> None:
    path = follow("a node", tmp_path)["PYTHONPATH"]
    done = run_in_copy(RUN, tmp_path, path)
    assert done.returncode == 0, done.stderr
    assert "counted" in done.stdout
