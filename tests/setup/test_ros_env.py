from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tools.messages import SetupError
from tools.ros_env import environment, installed_packages, ros_of, shell_lines
from tools.setup_venv import STAMP
from tools.stamps import read_stamp, write_stamp


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    folder = tmp_path / "venv"
    (folder / "lib" / "python3.12" / "site-packages" / "ros_fastrtps.libs").mkdir(parents=True)
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "ros_ws"
    for name, python in (("nodes", "local/lib/python3.12/dist-packages"), ("msgs", "lib/python3.12/site-packages")):
        package = folder / "install" / name
        index = package / "share" / "ament_index" / "resource_index" / "packages"
        index.mkdir(parents=True)
        (index / name).touch()
        (package / python).mkdir(parents=True)
    (folder / "install" / "nodes" / "lib" / "nodes").mkdir(parents=True)
    (folder / "install" / "not_a_package").mkdir()
    return folder


def parts(env: dict[str, str], name: str) -> list[str]:
    return env[name].split(os.pathsep) if env.get(name) else []


def test_only_installed_packages_count(workspace: Path) -> None:
    assert [package.name for package in installed_packages(workspace)] == ["msgs", "nodes"]
    assert installed_packages(workspace / "nowhere") == []


def test_wheels_with_a_built_workspace(venv: Path, workspace: Path) -> None:
    install = workspace / "install"
    env = environment(venv, workspace, {"PATH": "/usr/bin", "PYTHONPATH": "/mine"}, "wheels")
    assert parts(env, "PATH") == [f"{venv}/bin", f"{install}/nodes/lib/nodes", "/usr/bin"]
    assert parts(env, "AMENT_PREFIX_PATH") == [f"{install}/msgs", f"{install}/nodes", str(venv)]
    assert parts(env, "PYTHONPATH") == [
        f"{install}/msgs/lib/python3.12/site-packages",
        f"{install}/nodes/local/lib/python3.12/dist-packages",
        "/mine",
    ]
    assert parts(env, "LD_LIBRARY_PATH") == [
        f"{install}/msgs/lib",
        f"{install}/nodes/lib",
        f"{venv}/lib",
        f"{venv}/lib/python3.12/site-packages/ros_fastrtps.libs",
    ]
    assert env["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] == "1"
    assert (env["ROS_DISTRO"], env["RMW_IMPLEMENTATION"]) == ("jazzy", "rmw_fastrtps_cpp")


def test_wheels_do_not_mix_with_a_distribution_that_lacks_rclpy(venv: Path) -> None:
    sourced = {
        "ROS_DISTRO": "rolling",
        "AMENT_PREFIX_PATH": "/opt/ros/rolling",
        "CMAKE_PREFIX_PATH": "/opt/ros/rolling",
    }
    env = environment(venv, None, sourced, "wheels")
    assert parts(env, "AMENT_PREFIX_PATH") == parts(env, "CMAKE_PREFIX_PATH") == [str(venv)]


def test_a_distribution_stays_below_the_workspace(venv: Path, workspace: Path) -> None:
    base = {
        "ROS_DISTRO": "kilted",
        "AMENT_PREFIX_PATH": "/opt/ros/kilted",
        "PYTHONPATH": "/opt/ros/kilted/lib/python3.12/site-packages",
        "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp",
    }
    env = environment(venv, workspace, base, "kilted")
    install = workspace / "install"
    assert parts(env, "AMENT_PREFIX_PATH") == [f"{install}/msgs", f"{install}/nodes", "/opt/ros/kilted"]
    assert parts(env, "PYTHONPATH")[-1] == "/opt/ros/kilted/lib/python3.12/site-packages"
    assert (env["ROS_DISTRO"], env["RMW_IMPLEMENTATION"]) == ("kilted", "rmw_cyclonedds_cpp")
    assert "_ROS_WHEELS_BOOTSTRAP_COMPLETE" not in env


@pytest.mark.parametrize("ros", ["wheels", "kilted"])
def test_applying_it_twice_changes_nothing(venv: Path, workspace: Path, ros: str) -> None:
    once = environment(venv, workspace, {"PATH": "/usr/bin"}, ros)
    assert environment(venv, workspace, once, ros) == once


def test_an_unfinished_setup_is_no_environment(venv: Path) -> None:
    with pytest.raises(SetupError, match="is not set up; run `make setup`"):
        ros_of(venv)
    write_stamp(venv / STAMP, {"identity": {}})
    with pytest.raises(SetupError, match="is not set up"):
        ros_of(venv)


def test_the_distribution_must_be_sourced(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stamp(venv / STAMP, {"ros": "jazzy"})
    monkeypatch.delenv("ROS_DISTRO", raising=False)
    with pytest.raises(SetupError, match=r"set up for ROS jazzy; source /opt/ros/jazzy/setup\.bash"):
        ros_of(venv)
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert ros_of(venv) == "jazzy"


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh"])
def test_shell_lines_reproduce_the_environment(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    base = {"PATH": os.environ["PATH"], "RMW_IMPLEMENTATION": "other", "HOME": "/h"}
    env = {**base, "PYTHONPATH": "/a b/$(echo no)/'quoted'", "ROS_DISTRO": "jazzy"}
    del env["RMW_IMPLEMENTATION"]
    lines = "\n".join(shell_lines(env, base))
    script = f'{lines}\nprintf "%s|%s|%s|%s" "$PYTHONPATH" "$ROS_DISTRO" "${{RMW_IMPLEMENTATION-unset}}" "$HOME"'
    done = subprocess.run([shell, "-c", script], env=base, capture_output=True, text=True, check=True, timeout=800)
    assert done.stdout == f"{env['PYTHONPATH']}|jazzy|unset|/h"


def test_a_command_that_is_not_there(venv: Path) -> None:
    write_stamp(venv / STAMP, {"ros": "wheels"})
    command = [sys.executable, "-m", "tools.ros_env", "--venv", str(venv), "--", "no-such-command"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=800)
    assert done.returncode == 1
    assert "command 'no-such-command' is not there" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ros
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_env_sh_gives_a_shell_that_runs_nodes(shell: str, tmp_path: Path) -> None:
    venv = Path(sys.prefix)
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    if not (venv / STAMP).is_file() or not installed_packages(REPOSITORY / "ros_ws"):
        pytest.skip("not in an environment that `make build` made")
    # A fresh shell; a distribution is sourced first, as its users do.
    wheels = read_stamp(venv / STAMP).get("ros") == "wheels"
    base = {"HOME": os.environ["HOME"], "PATH": "/usr/bin:/bin"} if wheels else dict(os.environ)
    clean = {**base, "VENV": str(venv)}
    script = (
        f'source "{REPOSITORY}/tools/env.sh" && command -v temporal_matcher && '
        'python -c "import rclpy, semantic_matcher_msgs.msg, semantic_matcher; print(rclpy.__name__)"'
    )
    done = subprocess.run([shell, "-c", script], env=clean, cwd=tmp_path, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    node, imported = done.stdout.split()
    assert node.endswith("lib/semantic_matcher/temporal_matcher")
    assert imported == "rclpy"


def test_env_sh_without_an_environment_says_so(tmp_path: Path) -> None:
    script = f'source "{REPOSITORY}/tools/env.sh"; echo "path=$PATH"'
    env = {"PATH": "/usr/bin:/bin", "VENV": str(tmp_path / "none")}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True, timeout=800)
    assert "run `make build` first" in done.stderr
    assert done.stdout == "path=/usr/bin:/bin\n"
