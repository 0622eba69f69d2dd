"""The package as `colcon test` finds it: executables, configuration, and a node that matches real messages."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("semantic_matcher_msgs.msg")

import rclpy

from semantic_matcher.parameter_files import yaml_defaults
from semantic_matcher_core.options import TABLES

CONFIG = Path(__file__).resolve().parents[1] / "config"
SHIFT = (12, 8)
TIMEOUT_S = 180.0


@pytest.mark.parametrize("executable", TABLES)
def test_executables_have_help(executable: str) -> None:
    command = [sys.executable, "-m", f"semantic_matcher.{executable}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {executable}")


@pytest.mark.parametrize("executable", TABLES)
def test_the_parameter_files_are_those_of_the_nodes(executable: str) -> None:
    assert (CONFIG / f"{executable}.yaml").read_text(encoding="utf-8") == yaml_defaults(executable)


def test_a_node_matches_what_a_camera_publishes(tmp_path: Path) -> None:
    from rclpy.executors import SingleThreadedExecutor
    from semantic_matcher_msgs.msg import Matches
    from sensor_msgs.msg import Image

    # Blocks of random colour: corners everywhere, none like another.
    blocks = np.random.default_rng(7).integers(0, 256, (30, 40, 3), np.uint8)
    wall = np.repeat(np.repeat(blocks, 12, axis=0), 12, axis=1)
    views = [wall[:240, :320], wall[SHIFT[1] : 240 + SHIFT[1], SHIFT[0] : 320 + SHIFT[0]]]
    domain = 1 + os.getpid() % 100
    command = [sys.executable, "-m", "semantic_matcher.temporal_matcher", "--ros-args"]
    for value in ("variant:=plain:sift", "max_keypoints:=500", "torch_threads:=1", "warmup_width:=0"):
        command += ["-p", value]
    log = tmp_path / "node.log"
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_LOG_DIR": str(tmp_path)}
    with open(log, "wb") as sink, subprocess.Popen(command, stdout=sink, stderr=sink, env=environment) as process:
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        node = rclpy.create_node("camera_and_listener", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        try:
            camera = node.create_publisher(Image, "image", 10)
            received: list[Any] = []
            node.create_subscription(Matches, "/temporal_matcher/matches", received.append, 10)
            deadline, stamp = time.monotonic() + TIMEOUT_S, 0
            while not received and time.monotonic() < deadline:
                assert process.poll() is None, log.read_text()
                if camera.get_subscription_count():
                    stamp += 1
                    camera.publish(_message(views[stamp % 2], stamp))
                for _ in range(10):
                    executor.spin_once(timeout_sec=0.05)
            assert received, log.read_text()
        finally:
            executor.shutdown()
            atexit.register(_leave, node, context)
            process.send_signal(signal.SIGTERM)
            process.wait(TIMEOUT_S)
    found = received[0]
    moved = np.asarray(found.xy1).reshape(-1, 2) - np.asarray(found.xy0).reshape(-1, 2)
    # From one view to the other, whichever came first.
    sign = 1 if found.header.stamp.sec % 2 == 0 else -1
    assert len(moved) > 50 and (np.abs(moved - np.array(SHIFT) * sign).max(axis=1) < 1.0).mean() > 0.8


def _leave(node: Any, context: Any) -> None:
    # Fast DDS may wait for ever when a participant ends, in native code that keeps Python's handlers from running.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(10)
    node.destroy_node()
    context.try_shutdown()


def _message(pixels: np.ndarray, stamp: int) -> Any:
    from sensor_msgs.msg import Image

    height, width = pixels.shape[:2]
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = array("B", np.ascontiguousarray(pixels).tobytes())
    message.header.stamp.sec = stamp
    message.header.frame_id = "camera_optical_frame"
    return message
