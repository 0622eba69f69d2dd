"""The launch files for common cameras, with stand-ins for ``launch``, which no wheel has."""

from __future__ import annotations

import logging
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from semantic_matcher_core.options import TABLES

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = REPOSITORY / "ros_ws" / "src" / "semantic_matcher" / "launch"
NAMES = ("realsense", "zed", "oak", "euroc", "usb")
INPUTS = {
    "temporal_matcher": {"image", "camera_info", "depth", "mask"},
    "stereo_matcher": {f"{side}/{name}" for side in ("left", "right") for name in ("image", "camera_info", "mask")},
}


class Action(SimpleNamespace):
    """Whatever a launch file makes, with what it was made of."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(given=given, **named)


class Configuration(Action):
    def perform(self, context: SimpleNamespace) -> str:
        return context.launch_configurations[self.given[0]]


class Description(Action):
    pass


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    modules: dict[str, dict[str, Any]] = {
        "launch": {"LaunchContext": Action, "LaunchDescription": Description, "LaunchDescriptionEntity": Action},
        "launch.actions": {
            "DeclareLaunchArgument": type("DeclareLaunchArgument", (Action,), {}),
            "OpaqueFunction": type("OpaqueFunction", (Action,), {}),
            "SetEnvironmentVariable": Action,
        },
        "launch.logging": {"get_logger": logging.getLogger},
        "launch.substitutions": {"LaunchConfiguration": Configuration},
        "launch_ros": {},
        "launch_ros.actions": {"LifecycleNode": type("LifecycleNode", (Action,), {}), "Node": Action},
        "ament_index_python": {},
        "ament_index_python.packages": {
            "PackageNotFoundError": LookupError,
            "get_package_prefix": lambda name: f"/opt/{name}",
            # Of files that launching looks for: those of the source tree are installed as they are.
            "get_package_share_directory": lambda name: str(FILES.parent),
        },
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    # Those that know the real launch, or none, are for others.
    for name in ("semantic_matcher.launching", "semantic_matcher.camera_launch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ("semantic_matcher.launching", "semantic_matcher.camera_launch"):
        sys.modules.pop(name, None)


def launched(file: str, /, **given: str) -> Any:
    """The node that a launch file starts, with some arguments."""
    description = runpy.run_path(str(FILES / f"{file}.launch.py"))["generate_launch_description"]()
    entities = description.given[0]
    declared = {e.given[0]: e.default_value for e in entities if type(e).__name__ == "DeclareLaunchArgument"}
    start = next(e for e in entities if type(e).__name__ == "OpaqueFunction")
    return start.function(SimpleNamespace(launch_configurations={**declared, **given}))[0]


@pytest.mark.parametrize("name", NAMES)
def test_topics_are_inputs_of_the_node_and_stand_in_the_documentation(name: str) -> None:
    from semantic_matcher.camera_launch import CAMERAS

    assert set(CAMERAS) == set(NAMES)
    camera, node = CAMERAS[name], launched(name)
    assert node.executable == camera.executable
    remapped = dict(node.remappings)
    assert set(remapped) <= INPUTS[camera.executable]
    assert sorted(remapped.values()) == sorted(camera.topics.values())
    assert all(topic.startswith("/") for topic in remapped.values())
    text = (REPOSITORY / "docs" / "motion.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("|") and f"`{name}.launch.py`" in line)
    for topic in camera.topics.values():
        assert f"`{topic}`" in row, topic
    assert camera.driver in (FILES / f"{name}.launch.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_nodes_own(name: str) -> None:
    node = launched(name)
    specs = {spec.name: spec for spec in TABLES[node.executable]}
    values = {key: value for group in node.parameters for key, value in group.items()}
    for key, value in values.items():
        assert specs[key].refusal(value) == ""
    # Odometry of one camera needs depth.
    assert bool(values.get("odometry")) == any(source == "depth" for source, _ in node.remappings)


def test_arguments_change_what_a_camera_is_launched_with() -> None:
    own = {"name": "eyes", "namespace": "robot", "respawn": "true"}
    node = launched("realsense", **own, odometry="false", depth_topic="depth")
    assert (node.name, node.namespace, node.respawn) == ("eyes", "robot", True)
    assert {"odometry": False} in node.parameters and "depth" not in dict(node.remappings)
    plain = launched("temporal")
    assert (plain.name, plain.respawn, plain.remappings, plain.parameters) == ("temporal_matcher", False, [], [])
    with pytest.raises(ValueError, match="respawn:=perhaps is refused"):
        launched("temporal", respawn="perhaps")


@pytest.mark.parametrize(
    ("file", "argument", "hint"),
    [
        ("temporal", "imagetopic", "did you mean 'image_topic'?"),
        ("stereo", "left_image", "did you mean 'left_image_topic'?"),
        ("reference", "reference_image", "did you mean 'reference_images'?"),
        ("temporal", "ratio", "it is a parameter of temporal_matcher, but no launch argument: set it in params_file"),
        # Of a file that includes this one, or that includes another beside it.
        *((file, other, "") for file in ("temporal", "reference") for other in ("robot", "left_camera_info_topic")),
    ],
)
def test_arguments_without_effect_are_told(
    file: str, argument: str, hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    launched(file, **{argument: "1"})
    assert caplog.messages == ([f"the launch argument {argument} has no effect; {hint}"] if hint else [])


@pytest.mark.parametrize("name", ["temporal", "stereo", "reference", "template_tracker", *NAMES])
def test_every_launch_file_is_made_and_explains_itself(name: str) -> None:
    launched(name)
    text = (FILES / f"{name}.launch.py").read_text(encoding="utf-8")
    assert f"ros2 launch semantic_matcher {name}.launch.py" in text
