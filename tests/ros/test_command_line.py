"""What the executables answer before there is a node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("semantic_matcher.command_line")

from semantic_matcher.command_line import UsageError, check, check_parameters_file, of_other_nodes, own_arguments
from semantic_matcher.environment import environment_doubts, environment_refusal
from semantic_matcher_core.options import TABLES
from tests.ros.support import TIMEOUT_S, WarmProcess

PURPOSES = {
    "temporal_matcher": "earlier one",
    "stereo_matcher": "left with right",
    "reference_matcher": "stored ones",
    "template_tracker": "template that bends",
}


def run(executable: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"semantic_matcher.{executable}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.mark.parametrize("executable", TABLES)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_printed_and_no_node_started(executable: str, option: str) -> None:
    answer = run(executable, option)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith(f"usage: {executable} ") and PURPOSES[executable] in answer.stdout
    for spec in TABLES[executable]:
        assert f"\n  {spec.name}: " in answer.stdout
    assert max(map(len, answer.stdout.splitlines())) <= 120


def test_help_beside_ros_arguments_is_the_nodes_own() -> None:
    assert own_arguments(["--ros-args", "-p", "a:=1", "--", "--help"]) == ["--help"]
    assert own_arguments(["--ros-args", "-p", "a:=-h"]) == []
    assert run("temporal_matcher", "--ros-args", "--log-level", "warn", "--", "-h").stdout.startswith("usage:")


@pytest.mark.ros
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-p", "variant:=plain:sift"], "'-p' means nothing here"),
        (["--ros-args", "-p"], "trailing -p"),
        (["--ros-args", "--bogus"], "--bogus"),
        (["--ros-args", "--log-level", "loud"], "'--log-level loud'"),
        (["--ros-args", "-r", "a b:=c"], "'-r a b:=c'"),
        (["--ros-args", "--params-file", "/nowhere.yaml"], "/nowhere.yaml: No such file"),
        (["--ros-args", "-p", "variant:=[1, a]"], "variant:=[1, a]"),
        (
            ["--ros-args", "-p", "qos_overrides./image.subscription.reliability:=bogus"],
            "reliability = 'bogus' is refused: expected one of system_default, reliable, best_effort",
        ),
        (["--ros-args", "-p", "qos_overrides./image.subscription.depth:=-1"], "depth = -1 is refused"),
        (["--ros-args", "-p", "use_sim_time:=1"], "'use_sim_time' to '1' of type 'INTEGER', expecting type 'BOOL'"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(ros: None, log: Path, arguments: list[str], named: str) -> None:
    node = WarmProcess("temporal_matcher", arguments, os.environ, log)
    assert node.wait(TIMEOUT_S) == 1
    (line,) = log.read_text().splitlines()
    assert line.startswith("error: ") and named in line


@pytest.mark.ros
@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"ROS_STATIC_PEERS": "no such host"}, "Unable to resolve peer no such host"),
        ({"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce"}, "ROS_SECURITY_KEYSTORE must name"),
        ({"ROS_LOG_DIR": "/proc/nowhere"}, "'/proc/nowhere': 2; set ROS_LOG_DIR to a folder that can be written"),
        ({"RMW_IMPLEMENTATION": "rmw_bogus_cpp"}, "'rmw_bogus_cpp', which is not installed (only rmw_"),
    ],
)
def test_an_environment_that_ros_refuses_is_one_sentence(
    ros: None, log: Path, variables: dict[str, str], named: str
) -> None:
    node = WarmProcess("temporal_matcher", ["--ros-args"], {**os.environ, **variables}, log)
    assert node.wait(TIMEOUT_S) == 1
    lines = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and named in lines[0] and "Traceback" not in log.read_text()


def test_what_of_the_environment_cannot_be_meant() -> None:
    for domain in ("", "0", "101", "232"):
        assert environment_refusal({"ROS_DOMAIN_ID": domain}) == ""
    for domain in ("233", "300", "-1", "abc", "1.5", "²"):
        assert environment_refusal({"ROS_DOMAIN_ID": domain}).startswith(f"ROS_DOMAIN_ID is {domain!r}; expected")
    chosen = {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp", "ROS_DISTRO": "jazzy"}
    assert environment_refusal(chosen, ["rmw_cyclonedds_cpp"]) == environment_refusal(chosen, []) == ""
    assert "install ros-jazzy-rmw-cyclonedds-cpp, or unset" in environment_refusal(chosen, ["rmw_fastrtps_cpp"])
    good = {"ROS_LOCALHOST_ONLY": "1", "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "RMW_IMPLEMENTATION": "rmw_x"}
    assert environment_doubts(good) == environment_doubts({}) == []
    bad = {"ROS_LOCALHOST_ONLY": "yes", "ROS_AUTOMATIC_DISCOVERY_RANGE": "local"}
    bad |= {"FASTRTPS_DEFAULT_PROFILES_FILE": "/nowhere.xml"}
    said = environment_doubts(bad)
    assert len(said) == 3 and all(f"{value!r}" in " ".join(said) or value in " ".join(said) for value in bad.values())


def test_a_pipe_is_no_parameters_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match=r"pipe\.yaml is a pipe or a device"):
        check_parameters_file(str(tmp_path / "pipe.yaml"))


def test_a_package_that_is_not_sourced_is_one_sentence(tmp_path: Path) -> None:
    from semantic_matcher import fastdds_profile

    # As it is installed: without its sources beside it.
    code = (
        "import sys; from pathlib import Path; from semantic_matcher import fastdds_profile, node_main; "
        f"fastdds_profile.__file__ = {str(tmp_path / 'a' / 'b.py')!r}; "
        "node_main.run_node('temporal_matcher', '', None, ['x'])"
    )
    variables = {k: v for k, v in os.environ.items() if k not in (*fastdds_profile.PROFILE_VARIABLES,)}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(
        command, capture_output=True, text=True, env={**variables, "AMENT_PREFIX_PATH": ""}, timeout=800
    )
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith("source the workspace that the package is installed in")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: [b\n c: {", "is no YAML"),
        ("max_keypoints: 5\n", "not laid out as ROS has it"),
        ("", "not laid out as ROS has it"),
        ("- 1\n", "not laid out as ROS has it"),
        ("/**:\n  max_keypoints: 5\n", "not laid out as ROS has it"),
        ("/**:\n  ros__parameters: 5\n", "not laid out as ROS has it"),
    ],
)
def test_a_parameters_file_that_is_none_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"{path} .*{named}"):
        check_parameters_file(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "/**:\n  ros__parameters:\n    max_keypoints: 5\n",
        "rig:\n  temporal_matcher:\n    ros__parameters: {ratio: 0.9}\n  other:\n    ros__parameters: {x: 1}\n",
        # As launch writes it.
        "/**:\n  ros__parameters:\n    cameras: !!python/tuple\n    - front\n    - rear\n",
    ],
)
def test_a_parameters_file_is_taken(tmp_path: Path, text: str) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text(text)
    check_parameters_file(str(path))


def test_a_parameters_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="no text in UTF-8"):
        check_parameters_file(str(path))


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        (["-r", "__ns:=front"], "it begins with a slash: -r __ns:=/front"),
        (["--remap", "temporal_matcher:__ns:=front"], "temporal_matcher:__ns:=/front"),
        (["-r", "__node:=my-node"], "letters, digits and _"),
        (["-r", "image:="], "-r image:= has no value"),
        (["-r", "image:=/a b"], "-r image:=/a b gives no name of a topic"),
        (["-r", "image:=/my-camera/image"], "gives no name of a topic"),
        (["-r", "image=/camera/image"], "assigns nothing; expected -r NAME:=VALUE"),
        (["-p", "mask:="], "for an empty text give"),
        (["-p", "max_keypoints=50"], "expected -p NAME:=VALUE"),
    ],
)
def test_rules_that_rcl_has_no_sentence_for(rule: list[str], named: str) -> None:
    with pytest.raises(UsageError) as error:
        check("temporal_matcher", ["--ros-args", *rule])
    assert named in str(error.value)


def test_an_argument_that_is_no_text_is_named() -> None:
    """A file name in Latin-1, as Python decodes it."""
    rule = b"reference_images:=[p\xe4th.png]".decode("utf-8", "surrogateescape")
    with pytest.raises(UsageError, match=r"p.udce4th.png\] is no text in UTF-8"):
        check("reference_matcher", ["--ros-args", "-p", rule])


def test_rules_that_are_good() -> None:
    good = ["-r", "__ns:=/front", "-r", "__node:=a_2", "-r", "image:=cam/image", "-p", "mask:=''", "-p", "x:=a:=b"]
    good += ["-r", "~/matches:=~/m", "-r", "/(*)/image:=/\\1/raw", "-r", "image:={node}/image"]
    check("temporal_matcher", ["--ros-args", *good])


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("/**:\n  ros__parameters: {ratio: 0.9}\n", ["/temporal_matcher", "/a/b/c"]),
        ("temporal_matcher:\n  ros__parameters: {ratio: 0.9}\n", ["/temporal_matcher"]),
        ("/rig/*:\n  ros__parameters: {ratio: 0.9}\n", ["/rig/a"]),
        ("/rig/**:\n  ros__parameters: {ratio: 0.9}\n", ["/rig/a", "/rig/a/b"]),
        ("rig:\n  a:\n    ros__parameters: {ratio: 0.9}\n  b:\n    ros__parameters: {x: 1}\n", ["/rig/a", "/rig/b"]),
    ],
)
def test_a_file_that_is_for_other_nodes_is_told(tmp_path: Path, text: str, nodes: list[str]) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text(text)
    arguments = ["--ros-args", "--params-file", str(path)]
    for node in nodes:
        assert of_other_nodes(arguments, node) == []
    if "/**" not in text[:4]:
        (said,) = of_other_nodes(arguments, "/front/temporal_matcher")
        assert f"{path} has nothing for /front/temporal_matcher" in said and "its values have no effect" in said
