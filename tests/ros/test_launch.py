"""The launch files, with the real ``launch`` and ``launch_ros``."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ros.support import TIMEOUT_S, Client, default_signals, wait_until

pytestmark = pytest.mark.ros

FILES = Path(__file__).resolve().parents[2] / "ros_ws" / "src" / "semantic_matcher" / "launch"
COMMON = {
    "variant", "descriptor", "dino", "weights", "device", "precision", "max_keypoints", "matcher", "image_transport",
    "image_reliability", "lazy", "mask", "autostart", "namespace", "name", "respawn", "params_file", "log_level",
    "use_sim_time", "rviz",
}  # fmt: skip
CALIBRATED = {"rectified", "geometry", "odometry", "odom_frame", "base_frame", "mount", "publish_tf"}
POSE = {"rectified", "reference_width", "publish_tf", "camera_info_topic"}
TEMPORAL = {"image_topic", "camera_info_topic", "depth_topic", "mask_topic", "cameras", *CALIBRATED}
OWN = {
    "temporal": TEMPORAL,
    "stereo": {
        *(f"{side}_{topic}_topic" for side in ("left", "right") for topic in ("image", "camera_info", "mask")),
        "sync", "slop", *CALIBRATED,
    },
    "reference": {"image_topic", "mask_topic", "cameras", "reference_images", "geometry", *POSE},
    "template_tracker": {"image_topic", "mask_topic", "template_image", *POSE},
}  # fmt: skip

OWN |= {"euroc": OWN["stereo"], **dict.fromkeys(("realsense", "zed", "oak", "usb"), TEMPORAL)}

_LAUNCHER = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
given = [tuple(a.split(":=", 1)) for a in sys.argv[2:]]
service = LaunchService()
service.include_launch_description(LaunchDescription(
    [IncludeLaunchDescription(PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=given)]
))
sys.exit(service.run())
"""


@pytest.fixture(scope="module", autouse=True)
def launch(ros: None) -> None:
    for module in ("launch", "launch_ros"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (it comes with a ROS distribution, not as a wheel)")


@pytest.fixture(scope="module")
def installed(launch: None) -> None:
    """Skips where the package is not in the ament index, which is where launch looks for executables."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        get_package_prefix("semantic_matcher")
    except PackageNotFoundError:
        pytest.skip("the package semantic_matcher is not installed: `make build`, or colcon build")


@contextmanager
def launched(name: str, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ros2 launch semantic_matcher <name>.launch.py …`; its output is in ``log``."""
    command = [sys.executable, "-c", _LAUNCHER, str(FILES / f"{name}.launch.py"), *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "ROS_LOG_DIR": str(log.parent)}
    with (
        open(log, "wb") as sink,
        subprocess.Popen(command, stdout=sink, stderr=sink, env=environment, preexec_fn=default_signals) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()


@pytest.mark.parametrize("name", OWN)
def test_every_argument_is_explained(name: str) -> None:
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    source = PythonLaunchDescriptionSource(str(FILES / f"{name}.launch.py"))
    arguments = source.get_launch_description(LaunchContext()).get_launch_arguments()
    assert {argument.name for argument in arguments} == COMMON | OWN[name]
    for argument in arguments:
        assert len(argument.description) > 10, argument.name
        assert argument.default_value is not None, argument.name


@pytest.mark.parametrize("name", OWN)
def test_show_args_explains_every_argument(name: str, tmp_path: Path) -> None:
    """The text of `ros2 launch … --show-args`, with its own command where that is installed."""
    if shutil.which("ros2") is None:
        pytest.skip("ros2 is not installed (it comes with a ROS distribution, not as a wheel)")
    command = ["ros2", "launch", str(FILES / f"{name}.launch.py"), "--show-args"]
    environment = {**os.environ, "ROS_LOG_DIR": str(tmp_path)}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert shown.returncode == 0, shown.stderr
    for argument in COMMON | OWN[name]:
        _, found, rest = shown.stdout.partition(f"'{argument}':")
        assert found and len(rest.strip().splitlines()[0].strip()) > 10, argument


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("max_keypoints:=0", "max_keypoints = 0 is refused: expected 1 to 65536"),
        ("max_keypoints:=many", "max_keypoints:=many is refused: expected an integer"),
        ("precision:=fp8", "precision = 'fp8' is refused"),
        ("autostart:=perhaps", "autostart:=perhaps is refused"),
        ("rviz:=perhaps", "rviz:=perhaps is refused"),
        ("image_reliability:=perhaps", "image_reliability = 'perhaps' is refused"),
        ("geometry:=affine", "geometry = 'affine' is refused"),
        ("rectified:=perhaps", "rectified:=perhaps is refused"),
        ("cameras:=[front,front]", "something is in it twice"),
        ("cameras:=[a/b]", "'a/b' is no name of a camera"),
        ("log_level:=loud", '"loud" is not valid'),
        ("params_file:={tmp}/broken.yaml", "is no YAML"),
        ("params_file:=/nowhere.yaml", "cannot read the parameters file /nowhere.yaml"),
    ],
)
def test_bad_values_are_refused_by_name(tmp_path: Path, argument: str, named: str) -> None:
    log = tmp_path / "launch.log"
    (tmp_path / "broken.yaml").write_text("a: [b\n c: {")
    with launched("temporal", log, argument.replace("{tmp}", str(tmp_path))) as process:
        assert process.wait(TIMEOUT_S) == 1
    assert named in log.read_text()
    assert "process started" not in log.read_text()


def test_a_pair_that_nobody_trained_ends_with_what_exists(tmp_path: Path, installed: None) -> None:
    log = tmp_path / "launch.log"
    with launched("temporal", log, "descriptor:=aliked", "dino:=dinov2_vitb14") as process:
        process.wait(TIMEOUT_S)
    printed = log.read_text()
    assert "that descriptor has: aliked (dinov2_vits14)" in printed
    assert "process has died" in printed and "exit code 1" in printed
    assert "Traceback" not in printed


def test_a_matcher_that_does_not_fit_ends_with_what_is_possible(tmp_path: Path, installed: None) -> None:
    log = tmp_path / "launch.log"
    with launched("temporal", log, "matcher:=lightglue", "descriptor:=alike-n", "dino:=none") as process:
        process.wait(TIMEOUT_S)
    printed = log.read_text()
    assert "not trained for extractor 'alike-n'; it was for superpoint" in printed
    assert "exit code 1" in printed and "Traceback" not in printed


def test_arguments_go_to_the_node_and_the_rest_to_the_file(
    client: Client, tmp_path: Path, installed: None, textured: Callable[..., Any]
) -> None:
    from rcl_interfaces.srv import GetParameters
    from sensor_msgs.msg import Image

    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("/**:\n  ros__parameters: {max_keypoints: 77, ratio: 0.9, device: cpu, slop: 0.01}\n")
    log = tmp_path / "launch.log"
    arguments = [
        "descriptor:=sift", "dino:=none", "device:=auto", "namespace:=rig", f"params_file:={parameters}",
        "left_image_topic:=cam0/image", "right_image_topic:=/cam1/image", "lazy:=false",
    ]  # fmt: skip
    with launched("stereo", log, *arguments) as process:

        def active() -> bool:
            assert process.poll() is None, log.read_text()
            return "active, waiting for /rig/cam0/image and /cam1/image" in log.read_text()

        wait_until(active, "the node")
        client.publisher(Image, "/rig/cam0/image")
        client.publisher(Image, "/cam1/image")
        names = ["descriptor", "dino", "device", "max_keypoints", "ratio", "slop", "precision"]
        values = client.call(GetParameters, "/rig/stereo_matcher/get_parameters", names=names).values
        strings = [value.string_value for value in values]
        # Given as an argument, from the file, and the node's own default, in this order of precedence.
        assert strings[:3] == ["sift", "none", "auto"]
        assert (values[3].integer_value, values[4].double_value, values[5].double_value) == (77, 0.9, 0.01)
        assert strings[6] == "fp32"
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0, log.read_text()
    assert "process has finished cleanly" in log.read_text()


def test_several_cameras_have_their_topics_below_their_names(client: Client, tmp_path: Path, installed: None) -> None:
    from sensor_msgs.msg import Image

    log = tmp_path / "launch.log"
    arguments = [
        "variant:=plain:sift",
        "cameras:=[front, rear]",
        "image_topic:=image_raw",
        "namespace:=rig",
        "lazy:=false",
    ]
    with launched("temporal", log, *arguments) as process:

        def active() -> bool:
            assert process.poll() is None, log.read_text()
            return "active, waiting for /rig/front/image_raw and /rig/rear/image_raw" in log.read_text()

        wait_until(active, "the node")
        client.publisher(Image, "/rig/front/image_raw")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0, log.read_text()


def test_rviz_is_looked_for_before_anything_starts(tmp_path: Path) -> None:
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        get_package_prefix("rviz2")
        pytest.skip("rviz2 is installed here")
    except PackageNotFoundError:
        pass
    log = tmp_path / "launch.log"
    with launched("temporal", log, "rviz:=true", "variant:=plain:sift") as process:
        assert process.wait(TIMEOUT_S) == 1
    assert "rviz:=true, but the package rviz2 is not installed" in log.read_text()
    assert "process started" not in log.read_text()


_CHAIN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import EmitEvent, OpaqueFunction, RegisterEventHandler
from launch.events import Shutdown
from launch.launch_description_sources import get_launch_description_from_python_launch_file
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition

def found(description):
    for entity in description.entities:
        if isinstance(entity, OpaqueFunction):
            def then(context, function=entity):
                (node,) = function.execute(context)
                assert isinstance(node, LifecycleNode)
                seen = OnStateTransition(
                    target_lifecycle_node=node, goal_state="active",
                    entities=[EmitEvent(event=Shutdown(reason="it is active"))],
                )
                return [RegisterEventHandler(seen), node]
            yield OpaqueFunction(function=then)
        else:
            yield entity

description = get_launch_description_from_python_launch_file(sys.argv[1])
service = LaunchService(argv=sys.argv[2:])
service.context.launch_configurations.update(a.split(":=", 1) for a in sys.argv[2:])
service.include_launch_description(LaunchDescription(list(found(description))))
sys.exit(service.run())
"""


def test_a_launch_file_can_wait_for_the_nodes_states(tmp_path: Path, installed: None) -> None:
    command = [sys.executable, "-c", _CHAIN, str(FILES / "temporal.launch.py"), "variant:=plain:sift"]
    environment = {**os.environ, "ROS_LOG_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    printed = done.stdout + done.stderr
    assert "it is active" in printed or "process has finished cleanly" in printed, printed
    assert done.returncode == 0, printed
    assert "Traceback" not in printed


def test_an_absolute_topic_for_several_cameras_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "launch.log"
    with launched("temporal", log, "cameras:=[front,rear]", "image_topic:=/camera/image_raw") as process:
        assert process.wait(TIMEOUT_S) == 1
    assert "image_topic:=/camera/image_raw is refused" in log.read_text()
