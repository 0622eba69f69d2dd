"""What is there to be looked at, on a real graph: the compressed picture, annotations, files for RViz and Foxglove."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, floats, image_message, in_process, of_stamp, running, wait_until

pytestmark = pytest.mark.ros

PACKAGE = Path(__file__).resolve().parents[2] / "ros_ws" / "src" / "semantic_matcher"
NAME = "/temporal_matcher"
STAMPS = itertools.count(1_700_000_000_000_000_000, 40_000_000)
NODES = ("temporal_matcher", "stereo_matcher", "reference_matcher", "template_tracker")
PLOTTED = r'\{name=="(.+?)"\}\.values\[:\]\{key=="(.+?)"\}\.value$'
ANNOTATIONS = "foxglove_msgs/msg/ImageAnnotations"


@pytest.fixture(scope="module")
def views(textured: Callable[..., np.ndarray]) -> list[np.ndarray]:
    """Two pictures of one scene, moved by (8, 5)."""
    picture = textured(200, 260, seed=11)
    return [picture[15:175, 20:240], picture[10:170, 12:232]]


def send_until(camera: Any, views: list[np.ndarray], answered: Callable[[], Any], what: str) -> Any:
    """Publish the views in turn until there is an answer."""
    for turn in range(60):
        camera.publish(image_message(views[turn % 2], next(STAMPS)))
        try:
            return wait_until(answered, what, timeout=1.0)
        except AssertionError:
            continue
    raise AssertionError(f"no {what} after 60 images")


def published(client: Client, executable: str) -> dict[str, list[str]]:
    """Topic -> types of what a node publishes, as far as it has been discovered."""
    if executable not in client.node.get_node_names():
        return {}
    return dict(client.node.get_publisher_names_and_types_by_node(executable, "/"))


def subscribed(client: Client, executable: str) -> set[str]:
    """Topics that a node subscribes, as far as it has been discovered."""
    if executable not in client.node.get_node_names():
        return set()
    return {name for name, _ in client.node.get_subscriber_names_and_types_by_node(executable, "/")}


def test_the_compressed_picture_follows_its_parameters(client: Client, log: Path, views: list[np.ndarray]) -> None:
    from semantic_matcher_msgs.msg import Matches
    from sensor_msgs.msg import CompressedImage, Image

    with running("temporal_matcher", log, {**PLAIN_SIFT, "debug_height": 160}) as node:
        pictures = client.listen(CompressedImage, f"{NAME}/debug_image/compressed")
        camera = client.publisher(Image, "/image")
        first = send_until(camera, views, lambda: pictures and pictures[-1], "a compressed picture")
        assert "jpeg" in first.format and first.header.frame_id == "camera_optical_frame"
        decoded = cv2.imdecode(np.frombuffer(first.data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape[0] > 160 and decoded.shape[1] > 160 and decoded.std() > 20

        assert client.set_parameter(NAME, "debug_jpeg_quality", 5).successful
        smaller = send_until(
            camera, views, lambda: len(pictures[-1].data) < len(first.data) / 2 and pictures[-1], "a smaller picture"
        )
        assert cv2.imdecode(np.frombuffer(smaller.data, np.uint8), cv2.IMREAD_COLOR).shape == decoded.shape
        refused = client.set_parameter(NAME, "debug_jpeg_quality", 0)
        assert not refused.successful and "debug_jpeg_quality" in refused.reason and "100" in refused.reason

        # Switched off while it runs: matches go on, pictures do not.
        assert client.set_parameter(NAME, "publish_debug_image", False).successful
        matches = client.listen(Matches, f"{NAME}/matches")
        send_until(camera, views, lambda: len(matches) >= 2, "matches")
        pictures.clear()
        count = len(matches)
        send_until(camera, views, lambda: len(matches) > count, "more matches")
        assert pictures == []
        assert client.set_parameter(NAME, "publish_debug_image", True).successful
        send_until(camera, views, lambda: bool(pictures), "a picture again")
        assert "Traceback" not in node.output


def test_missing_annotations_are_stated_once(client: Client, log: Path) -> None:
    import importlib.util

    if importlib.util.find_spec("foxglove_msgs"):
        pytest.skip("foxglove_msgs is installed here")
    with running("temporal_matcher", log, PLAIN_SIFT) as node:
        for transition in ("deactivate", "cleanup", "configure", "activate"):
            assert client.change_state(NAME, transition)
        assert node.output.count("foxglove_msgs is not installed") == 1
        wait_until(lambda: f"{NAME}/debug_image/compressed" in published(client, "temporal_matcher"), "its publishers")
        assert f"{NAME}/annotations" not in published(client, "temporal_matcher")


# foxglove_msgs, as far as it is used.

_INTERFACES = {
    "Point2": "float64 x\nfloat64 y\n",
    "Color": "float64 r\nfloat64 g\nfloat64 b\nfloat64 a\n",
    "PointsAnnotation": (
        "builtin_interfaces/Time timestamp\nuint8 POINTS=1\nuint8 LINE_LOOP=2\nuint8 LINE_STRIP=3\nuint8 LINE_LIST=4\n"
        "uint8 type\nPoint2[] points\nColor outline_color\nColor[] outline_colors\nColor fill_color\n"
        "float64 thickness\n"
    ),
    "ImageAnnotations": "PointsAnnotation[] points\n",
}
# What rclpy and Fast DDS ask for; the default generators would make as much again for C++.
_CMAKE = """cmake_minimum_required(VERSION 3.8)
project(foxglove_msgs)
find_package(ament_cmake REQUIRED)
find_package(rosidl_cmake REQUIRED)
find_package(rosidl_generator_type_description REQUIRED)
find_package(rosidl_generator_c REQUIRED)
find_package(rosidl_typesupport_fastrtps_c REQUIRED)
find_package(rosidl_typesupport_c REQUIRED)
find_package(rosidl_generator_py REQUIRED)
find_package(builtin_interfaces REQUIRED)
rosidl_generate_interfaces(foxglove_msgs {files} DEPENDENCIES builtin_interfaces)
ament_package()
"""
_MANIFEST = """<package format="3">
  <name>foxglove_msgs</name><version>0.0.0</version><description>Stands in for the real one in tests.</description>
  <maintainer email="semantic-matcher@example.org">The semantic_matcher developers</maintainer>
  <license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend><buildtool_depend>rosidl_default_generators</buildtool_depend>
  <depend>builtin_interfaces</depend><exec_depend>rosidl_default_runtime</exec_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
"""


@pytest.fixture(scope="module")
def with_foxglove(ros: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which ``foxglove_msgs`` is built and sourced; skips where it cannot be built."""
    missing = [tool for tool in ("colcon", "cmake", "g++") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"foxglove_msgs cannot be built here without {' and '.join(missing)}")
    workspace = tmp_path_factory.mktemp("foxglove_ws")
    source = workspace / "src" / "foxglove_msgs"
    (source / "msg").mkdir(parents=True)
    for name, text in _INTERFACES.items():
        (source / "msg" / f"{name}.msg").write_text(text)
    (source / "CMakeLists.txt").write_text(_CMAKE.format(files=" ".join(f"msg/{n}.msg" for n in _INTERFACES)))
    (source / "package.xml").write_text(_MANIFEST)
    options = [f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF", "-Wno-dev"]
    done = subprocess.run(
        ["colcon", "build", "--cmake-args", *options], cwd=workspace, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    prefix = workspace / "install" / "foxglove_msgs"
    python = next(
        p for pattern in ("lib/python3*/*-packages", "local/lib/python3*/*-packages") for p in prefix.glob(pattern)
    )
    front = {"AMENT_PREFIX_PATH": prefix, "PYTHONPATH": python, "LD_LIBRARY_PATH": prefix / "lib"}
    return {name: f"{path}{os.pathsep}{os.environ.get(name, '')}" for name, path in front.items()}


@pytest.mark.slow
def test_annotations_agree_with_the_messages(
    client: Client, log: Path, views: list[np.ndarray], with_foxglove: dict[str, str]
) -> None:
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from sensor_msgs.msg import Image

    keypoints = client.listen(Keypoints, f"{NAME}/keypoints")
    matches = client.listen(Matches, f"{NAME}/matches")
    with running("temporal_matcher", log, PLAIN_SIFT, environment=with_foxglove) as node:
        camera = client.publisher(Image, "/image")
        sink = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("annotation_sink.py")), f"{NAME}/annotations", "50"],
            env={**os.environ, **with_foxglove},
            stdout=subprocess.PIPE,
            text=True,
        )
        send_until(camera, views, lambda: sink.poll() is not None, "annotations")
        assert sink.returncode == 0
        points, lines = json.loads(sink.communicate()[0])
        assert points["stamp"] == lines["stamp"]
        k, m = (wait_until(lambda o=o: of_stamp(o, points["stamp"]), "the messages") for o in (keypoints, matches))
        assert "foxglove_msgs is not installed" not in node.output
    assert (points["type"], lines["type"]) == (1, 4)
    np.testing.assert_allclose(points["xy"], floats(k.xy).reshape(-1, 2) + 0.5)
    segments = np.asarray(lines["xy"]).reshape(-1, 2, 2)
    assert len(segments) > 30
    np.testing.assert_allclose(segments[:, 0], floats(m.xy0).reshape(-1, 2) + 0.5)
    np.testing.assert_allclose(segments[:, 1], floats(m.xy1).reshape(-1, 2) + 0.5)


# The files for RViz and Foxglove.


def rviz_topics() -> dict[str, str]:
    """Topic -> message type that its display takes."""
    types = {
        "Image": "sensor_msgs/msg/Image",
        "Marker": "visualization_msgs/msg/Marker",
        "PointCloud2": "sensor_msgs/msg/PointCloud2",
    }
    text = (PACKAGE / "rviz" / "semantic_matcher.rviz").read_text()
    displays = yaml.safe_load(text)["Visualization Manager"]["Displays"]
    return {
        d["Topic"]["Value"]: types[d["Class"].removeprefix("rviz_default_plugins/")] for d in displays if "Topic" in d
    }


def layout() -> dict[str, Any]:
    return json.loads((PACKAGE / "config" / "foxglove_layout.json").read_text())


def foxglove_topics() -> Iterator[tuple[str, str]]:
    """Topics and the types that their panels take; the cameras' own images with the type ``"input"``."""
    for name, panel in layout()["configById"].items():
        kind = name.partition("!")[0]
        if kind == "Image":
            topic = panel["imageMode"]["imageTopic"]
            yield topic, "sensor_msgs/msg/CompressedImage" if topic.endswith("/compressed") else "input"
            for annotation in panel["imageMode"].get("annotations", {}):
                yield annotation, ANNOTATIONS
        elif kind == "Plot":
            for path in panel["paths"]:
                yield re.match(r"[^.]+", path["value"]).group(), "diagnostic_msgs/msg/DiagnosticArray"
        elif kind in ("DiagnosticSummary", "DiagnosticStatusPanel"):
            yield panel["topicToRender"], "diagnostic_msgs/msg/DiagnosticArray"


def panels_of(node: Any) -> Iterator[str]:
    """Names of the panels in a layout tree."""
    if isinstance(node, str):
        yield node
    else:
        assert node["direction"] in ("row", "column") and 0 < node["splitPercentage"] < 100
        yield from panels_of(node["first"])
        yield from panels_of(node["second"])


def test_the_layout_places_every_panel_once() -> None:
    panels = layout()["configById"]
    placed = list(panels_of(layout()["layout"]))
    for name in list(placed):
        assert re.fullmatch(r"\w+!\w+", name)
        for tab in panels[name].get("tabs", []):
            placed += panels_of(tab["layout"])
    assert sorted(placed) == sorted(panels)


@pytest.mark.parametrize("executable", NODES)
def test_the_files_name_what_the_nodes_publish(client: Client, executable: str) -> None:
    own = f"/{executable}"
    named = [*rviz_topics().items(), *foxglove_topics()]
    mine = {topic: kind for topic, kind in named if topic.startswith(f"{own}/") or topic == "/diagnostics"}
    assert set(mine) >= {f"{own}/debug_image", f"{own}/debug_image/compressed", f"{own}/annotations", "/diagnostics"}
    images = {topic for topic, kind in named if kind == "input"}
    diagnostics = client.diagnostics()
    with in_process(executable, {**PLAIN_SIFT, "lazy": False}) as node:
        assert node.autostart()

        def reported() -> bool:
            node.report_now()
            return any(s.values["state"] == "active" for s in diagnostics.of(own))

        wait_until(reported, "diagnostics", every=0.1)
        status = diagnostics.of(own)[-1]
        # Where foxglove_msgs is missing.
        without = {f"{own}/annotations": [ANNOTATIONS]}
        wait_until(lambda: set(mine) <= set(without | published(client, executable)), f"{set(mine)} from {executable}")
        known = without | published(client, executable)
        wait_until(lambda: images & subscribed(client, executable), f"one of {images} to be subscribed")
    for topic, kind in mine.items():
        assert kind in known[topic], topic
    # Plots filter diagnostics by the node's name and the key of a value; counts are there once there was an image.
    sides = ("left/", "right/") if executable == "stereo_matcher" else ("",)
    keys = {*status.values, "matches", *(f"{side}keypoints" for side in sides)}
    plotted = [
        re.search(PLOTTED, p["value"]).groups()
        for panel in layout()["configById"].values()
        for p in panel.get("paths", [])
    ]
    mine_plotted = {key for node, key in plotted if f"/{node}" == own}
    assert mine_plotted and mine_plotted <= keys


def test_every_topic_in_the_files_is_somebody_s() -> None:
    for topic, kind in [*rviz_topics().items(), *foxglove_topics()]:
        assert kind == "input" or topic == "/diagnostics" or topic.split("/")[1] in NODES, topic
