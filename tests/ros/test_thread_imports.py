"""What threads need is imported before they start: two that import at once meet each other's half-made modules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import TIMEOUT_S, Client, NodeProcess, floats, image_message, of_stamp, wait_until
from tests.ros.thread_imports import MARK, PRELUDE, imports_of

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros")]

# Both sequences at once, each in its thread, as the camera process makes them.
SEQUENCES = """
from semantic_matcher.demo.camera import Ahead, synthetic_shots
ahead = [Ahead(synthetic_shots(name, 2, 10.0), depth=8) for name in ("temporal", "stereo")]
print(sum(len(images) for shots in ahead for _, images in shots))
"""
SOURCE = """
from pathlib import Path
from semantic_matcher.demo.camera import Ahead, source_shots
print(len(list(Ahead(source_shots(Path(sys.argv[1]), None, None, None), depth=8))))
"""
WRITER = """
from pathlib import Path
import numpy as np
from semantic_matcher.demo.recorder import Writer
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.messages import header_message, image_message, typestore
def serialized(message, name):
    return bytes(typestore().serialize_cdr(message, name))
image = serialized(image_message(np.zeros((8, 10, 3), np.uint8), header_message(1)), "sensor_msgs/msg/Image")
text = serialized(typestore().types["std_msgs/msg/String"]("x"), "std_msgs/msg/String")
writer = Writer(Path(sys.argv[1]))
writer.put(("/image", "sensor_msgs/msg/Image", image, 1))
writer.put(("/text", "std_msgs/msg/String", text, 2))
writer.finish()
with BagReader(Path(sys.argv[1])) as bag:
    print(sum(topic.count for topic in bag.topics))
"""


def cold(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that runs ``code`` and tells what its threads import."""
    command = [sys.executable, "-c", PRELUDE + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)


def test_the_hook_sees_what_a_thread_imports() -> None:
    code = "import time\nt = threading.Thread(target=lambda: __import__('colorsys'), name='t')\nt.start(); t.join()"
    answer = cold(code)
    assert imports_of(answer.stderr) == ["t: colorsys"]
    assert imports_of(answer.stderr, except_in=("t",)) == [] and MARK in answer.stderr


def test_the_demos_camera_starts_cold() -> None:
    answer = cold(SEQUENCES)
    assert (answer.returncode, answer.stdout) == (0, "6\n"), answer.stderr
    assert imports_of(answer.stderr) == []


@pytest.mark.parametrize("kind", ["folder", "video", "bag"])
def test_the_demos_camera_plays_files(tmp_path: Path, textured: Callable[..., np.ndarray], kind: str) -> None:
    from semantic_matcher_core.io.mcap import McapWriter
    from semantic_matcher_core.io.messages import header_message
    from semantic_matcher_core.io.messages import image_message as bag_image

    images = [textured(48, 64, seed=seed) for seed in range(3)]
    path = tmp_path / {"folder": "images", "video": "v.avi", "bag": "b.mcap"}[kind]
    if kind == "folder":
        path.mkdir()
        for number, image in enumerate(images):
            cv2.imwrite(str(path / f"{number}.png"), image)
    elif kind == "video":
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
        for image in images:
            writer.write(image)
        writer.release()
    else:
        with McapWriter(path) as mcap:
            for number, image in enumerate(images):
                mcap.write("/image", bag_image(image, header_message(number * 10**8)), number * 10**8)
    answer = cold(SOURCE, str(path))
    assert (answer.returncode, answer.stdout) == (0, "3\n"), answer.stderr
    assert imports_of(answer.stderr) == []


def test_the_recorders_writer(tmp_path: Path) -> None:
    answer = cold(WRITER, str(tmp_path / "out.mcap"))
    assert (answer.returncode, answer.stdout) == (0, "2\n"), answer.stderr
    assert imports_of(answer.stderr) == []


class ToldNode(NodeProcess):
    """A node that prints what its threads import."""

    def command(self, module: str) -> list[str]:
        return [sys.executable, "-c", f"{PRELUDE}\nfrom semantic_matcher.{module} import main; main()"]


@pytest.mark.parametrize("module", ["temporal_matcher", "reference_matcher", "template_tracker"])
def test_a_nodes_worker(
    client: Client, log: Path, textured: Callable[..., np.ndarray], tmp_path: Path, module: str
) -> None:
    """With all that is imported late in the core: the geometric check, switched on while it runs, and pictures."""
    from semantic_matcher_msgs.msg import Descriptors, Keypoints
    from sensor_msgs.msg import CompressedImage, Image

    pixels = textured(160, 200, seed=60)
    picture = tmp_path / "stored.png"
    cv2.imwrite(str(picture), pixels)
    parameters: dict[str, Any] = {**PLAIN_SIFT, "warmup_width": 0}
    parameters |= {
        "reference_matcher": {"reference_images": [str(picture)]},
        "template_tracker": {"template_image": str(picture)},
    }.get(module, {})
    keypoints = client.listen(Keypoints, f"/{module}/keypoints")
    pictures = client.listen(CompressedImage, f"/{module}/debug_image/compressed")
    client.listen(Image, f"/{module}/debug_image")
    client.listen(Descriptors, f"/{module}/descriptors")
    node = ToldNode(module, log, parameters, cold=True)
    try:
        node.wait_for("active, waiting for")
        camera = client.publisher(Image, "/image")
        settings: list[tuple[str, Any]] = [("max_keypoints", 400)]
        if module != "template_tracker":
            settings = [("geometry", "homography"), ("geometry_backend", "poselib"), ("geometry", "fundamental")]
        stamp = 0
        for name, value in settings:
            assert client.set_parameter(f"/{module}", name, value).successful
            for _ in range(20):
                stamp += 10**9
                camera.publish(image_message(pixels, stamp))
                try:
                    wait_until(lambda s=stamp: of_stamp(keypoints, s), "keypoints", timeout=3.0)
                    break
                except AssertionError:
                    continue
            assert len(floats(keypoints[-1].scores)) > 50
        wait_until(lambda: pictures, "a picture")
        assert node.stop() == 0
        assert imports_of(node.output, except_in=("executor",)) == []
        assert "executor: rclpy" in "\n".join(imports_of(node.output)), "does the hook work?"
    finally:
        node.process.kill()
