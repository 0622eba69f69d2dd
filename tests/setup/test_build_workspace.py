"""What is built again after which change, with a stand-in for colcon."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import build_workspace
from tools.messages import SetupError
from tools.setup_venv import STAMP
from tools.stamps import write_stamp

COLCON = """#!/bin/sh
# Stands in for colcon: installs an empty package for each source, and fails where it is told to.
echo "$PWD $*" >> calls
[ -e fail ] && exit 2
for source in src/*/; do
    name=$(basename "$source")
    mkdir -p "build/$name" "install/$name/share/ament_index/resource_index/packages"
    : > "install/$name/share/ament_index/resource_index/packages/$name"
done
: > install/setup.sh
"""


class Workspace:
    def __init__(self, folder: Path) -> None:
        self.venv = folder / "venv"
        (self.venv / "bin").mkdir(parents=True)
        colcon = self.venv / "bin" / "colcon"
        colcon.write_text(COLCON)
        colcon.chmod(0o755)
        write_stamp(self.venv / STAMP, {"workspace_key": "first", "ros": "wheels"})
        self.path = folder / "ros_ws"
        self.write("messages/package.xml")
        self.write("messages/msg/Keypoints.msg", "uint32 width")
        self.write("nodes/package.xml")
        self.write("nodes/nodes/__init__.py")

    def write(self, name: str, text: str = "") -> None:
        file = self.path / "src" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def build(self) -> bool:
        return build_workspace.build(self.path, self.venv, "wheels")

    def mark(self) -> None:
        """Leave a file in each built package, to see which of them start from nothing."""
        for package in (self.path / "install").glob("*/"):
            (package / "old").touch()

    def kept(self) -> set[str]:
        return {file.parent.name for file in (self.path / "install").glob("*/old")}

    def calls(self) -> int:
        return len((self.path / "calls").read_text().splitlines())


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_an_unchanged_workspace_is_left_alone(workspace: Workspace) -> None:
    assert workspace.build()
    assert not workspace.build()
    workspace.write("nodes/nodes/__pycache__/nodes.pyc", "bytes")
    workspace.write("nodes/.pytest_cache/v", "x")
    assert not workspace.build()
    assert workspace.calls() == 1


def test_colcon_is_given_the_interpreter_and_the_workspace(workspace: Workspace) -> None:
    workspace.build()
    call = (workspace.path / "calls").read_text()
    assert call.startswith(f"{workspace.path} ")
    assert f"-DPython3_EXECUTABLE={workspace.venv}/bin/python" in call


def test_changed_nodes_leave_the_messages_built(workspace: Workspace) -> None:
    workspace.build()
    workspace.mark()
    workspace.write("nodes/nodes/stereo.py", "# new")
    assert workspace.build()
    assert workspace.kept() == {"messages"}


def test_changed_messages_build_everything_again(workspace: Workspace) -> None:
    workspace.build()
    workspace.mark()
    workspace.write("messages/msg/Keypoints.msg", "uint32 height")
    assert workspace.build()
    assert workspace.kept() == set()


def test_another_environment_builds_everything_again(workspace: Workspace) -> None:
    workspace.build()
    workspace.mark()
    write_stamp(workspace.venv / STAMP, {"workspace_key": "second", "ros": "wheels"})
    assert workspace.build()
    assert workspace.kept() == set()


def test_a_package_that_is_gone_is_not_left_installed(workspace: Workspace) -> None:
    workspace.write("gone/package.xml")
    workspace.build()
    (workspace.path / "src" / "gone" / "package.xml").unlink()
    (workspace.path / "src" / "gone").rmdir()
    assert workspace.build()
    assert {p.name for p in (workspace.path / "install").glob("*/")} == {"messages", "nodes"}


def test_a_removed_installation_is_built_again(workspace: Workspace) -> None:
    workspace.build()
    (workspace.path / "install" / "setup.sh").unlink()
    assert workspace.build()


def test_a_failed_build_says_where_the_logs_are_and_is_tried_again(workspace: Workspace) -> None:
    (workspace.path / "fail").touch()
    with pytest.raises(SetupError, match=r"exit code 2; its logs are in .*ros_ws/log"):
        workspace.build()
    (workspace.path / "fail").unlink()
    assert workspace.build()


def test_without_colcon_the_next_step_is_named(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace.venv / "bin" / "colcon").unlink()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match="run `make setup`"):
        workspace.build()
