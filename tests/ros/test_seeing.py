"""What is there to be looked at, on a real graph: the compressed picture, annotations, files for RViz and Foxglove."""

from __future__ import annotations

import itertools
import json
import re
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


@pytest.mark.slow
def test_annotations_agree_with_the_messages(
    client: Client, log: Path, views: list[np.ndarray], interfaces_here: dict[str, str]
) -> None:
    from foxglove_msgs.msg import ImageAnnotations
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from sensor_msgs.msg import Image

    keypoints = client.listen(Keypoints, f"{NAME}/keypoints")
    matches = client.listen(Matches, f"{NAME}/matches")
    annotations = client.listen(ImageAnnotations, f"{NAME}/annotations")
    with running("temporal_matcher", log, PLAIN_SIFT, environment=interfaces_here) as node:
        camera = client.publisher(Image, "/image")
        send_until(camera, views, lambda: bool(annotations), "annotations")
        points, lines = annotations[0].points
        assert points.timestamp == lines.timestamp
        stamp = points.timestamp.sec * 10**9 + points.timestamp.nanosec
        k, m = (wait_until(lambda o=o: of_stamp(o, stamp), "the messages") for o in (keypoints, matches))
        assert "foxglove_msgs is not installed" not in node.output
    assert (points.type, lines.type) == (1, 4)
    dots, ends = (np.array([(p.x, p.y) for p in part.points]) for part in (points, lines))
    np.testing.assert_allclose(dots, floats(k.xy).reshape(-1, 2) + 0.5)
    segments = ends.reshape(-1, 2, 2)
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
