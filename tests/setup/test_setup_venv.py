"""When the set-up works and when it rests, and what it asks pip for."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import pytest

from tools import setup_venv
from tools.interpreter import Interpreter
from tools.messages import SetupError
from tools.stamps import read_stamp

HERE = Interpreter(sys.executable, (3, 12, 3), headers=True, ensurepip=True)
DISTRIBUTION = dataclasses.replace(HERE, ros_distro="jazzy", numpy="1.26.4", opencv="4.6.0")


class Recorder:
    """Stands in for the commands; makes what the set-up looks for and keeps what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.fail_at = ""
        monkeypatch.setattr(setup_venv, "run", self.run)
        monkeypatch.setattr(setup_venv, "header_folders", lambda python: ("/py", "/np"))

    def run(self, command: list[str], what: str, capture: bool = False) -> str:
        self.commands.append(command)
        if self.fail_at and self.fail_at in what:
            raise SetupError(f"{what} failed")
        if "venv" in command:
            folder = Path(command[-1])
            (folder / "bin").mkdir(parents=True)
            (folder / "pyvenv.cfg").touch()
            for name in ("python", "pip"):
                (folder / "bin" / name).touch()
        return '["numpy>=1.26", "opencv-python>=4.6"]' if capture else ""

    def taken(self) -> list[list[str]]:
        commands, self.commands = self.commands, []
        return commands


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    folder = tmp_path / "venv"
    folder.mkdir()
    (folder / setup_venv.LOCK).touch()
    return folder


def test_unchanged_inputs_cost_nothing(recorder: Recorder, venv: Path) -> None:
    assert setup_venv.set_up(venv, HERE, "torch==2.13.0")
    assert recorder.taken()
    assert not setup_venv.set_up(venv, HERE, "torch==2.13.0")
    assert not recorder.taken()
    assert read_stamp(venv / setup_venv.STAMP)["ros"] == "wheels"


def test_another_torch_is_installed_into_the_same_environment(recorder: Recorder, venv: Path) -> None:
    setup_venv.set_up(venv, HERE, "torch==2.13.0")
    recorder.taken()
    assert setup_venv.set_up(venv, HERE, "torch==2.13.0+cu130")
    commands = recorder.taken()
    assert not [c for c in commands if "venv" in c]
    assert any("torch==2.13.0+cu130" in c for c in commands)


def test_another_torch_does_not_ask_for_another_workspace_but_another_python_does(
    recorder: Recorder, venv: Path
) -> None:
    keys = []
    for interpreter, torch in ((HERE, "torch"), (HERE, "torch==2.13.0"), (DISTRIBUTION, "torch")):
        setup_venv.set_up(venv, interpreter, torch)
        keys.append(read_stamp(venv / setup_venv.STAMP)["workspace_key"])
    assert keys[0] == keys[1] != keys[2]


def test_a_changed_requirement_is_installed(
    recorder: Recorder, venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = tmp_path / "extra.txt"
    extra.write_text("one")
    before = setup_venv.inputs()
    monkeypatch.setattr(setup_venv, "inputs", lambda: [*before, extra])
    setup_venv.set_up(venv, HERE, "torch")
    assert not setup_venv.set_up(venv, HERE, "torch")
    extra.write_text("two")
    assert setup_venv.set_up(venv, HERE, "torch")


def test_inputs_are_files_that_exist() -> None:
    files = setup_venv.inputs()
    assert all(file.is_file() for file in files)
    assert {"pyproject.toml", "lock.txt", "ros-wheels.txt", "build.txt", "colcon.txt", "teachers.txt"} <= {
        f.name for f in files
    }


def test_a_failure_is_not_taken_for_done(recorder: Recorder, venv: Path) -> None:
    recorder.fail_at = "pip install"
    with pytest.raises(SetupError):
        setup_venv.set_up(venv, HERE, "torch")
    assert "ros" not in read_stamp(venv / setup_venv.STAMP)
    recorder.fail_at = ""
    recorder.taken()
    assert setup_venv.set_up(venv, HERE, "torch")
    assert not [c for c in recorder.taken() if "venv" in c], "what was made before the failure is used"


def test_a_failed_update_is_not_taken_for_the_old_state(recorder: Recorder, venv: Path) -> None:
    setup_venv.set_up(venv, HERE, "torch")
    recorder.fail_at = "pip install"
    with pytest.raises(SetupError):
        setup_venv.set_up(venv, HERE, "torch==2.12.0")
    recorder.fail_at = ""
    assert setup_venv.set_up(venv, HERE, "torch")


@pytest.mark.parametrize("other", [dataclasses.replace(HERE, version=(3, 12, 4)), DISTRIBUTION])
def test_another_python_or_ros_starts_over(recorder: Recorder, venv: Path, other: Interpreter) -> None:
    setup_venv.set_up(venv, HERE, "torch")
    (venv / "leftover").mkdir()
    recorder.taken()
    assert setup_venv.set_up(venv, other, "torch")
    assert [c for c in recorder.taken() if "venv" in c]
    assert not (venv / "leftover").exists()
    assert (venv / setup_venv.LOCK).exists()


def test_a_folder_with_other_things_in_it_is_left_alone(recorder: Recorder, venv: Path) -> None:
    (venv / "thesis.tex").touch()
    with pytest.raises(SetupError, match="not empty and no virtual environment"):
        setup_venv.set_up(venv, HERE, "torch")
    assert (venv / "thesis.tex").exists()


def test_wheels_are_locked_and_torch_comes_first(recorder: Recorder, venv: Path) -> None:
    setup_venv.set_up(venv, HERE, "torch==2.13.0")
    made, torch, rest, teachers, check = recorder.taken()
    assert "--system-site-packages" not in made
    assert "torch==2.13.0" in torch
    assert str(setup_venv.REQUIREMENTS / "ros-wheels.txt") in rest
    assert f"{setup_venv.REPOSITORY}[training,dev]" in rest
    for command in (torch, rest):
        assert command[command.index("-c") + 1] == str(setup_venv.lock_for(HERE.version))
    assert teachers[-3:] == ["--no-deps", "-r", str(setup_venv.REQUIREMENTS / "teachers.txt")]
    assert "rclpy" in check[-1]


def test_a_processor_without_ros_wheels_is_told_at_once(
    recorder: Recorder, venv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_venv.platform, "machine", lambda: "aarch64")
    with pytest.raises(SetupError, match=r"this is aarch64: source a ROS distribution .* pip install \."):
        setup_venv.set_up(venv, HERE, "torch")
    assert not recorder.taken()
    assert setup_venv.set_up(venv, DISTRIBUTION, "torch")


def test_a_python_that_packages_have_left_behind_has_its_own_lock() -> None:
    assert setup_venv.lock_for((3, 10, 12)).name == "lock-3.10.txt"
    assert {setup_venv.lock_for((3, minor, 0)).name for minor in (11, 12, 13)} == {"lock.txt"}


@pytest.mark.parametrize("interpreter", [HERE, DISTRIBUTION])
def test_an_index_without_the_published_weights_stops_nothing(
    recorder: Recorder, venv: Path, interpreter: Interpreter, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.fail_at = "published weights"
    assert setup_venv.set_up(venv, interpreter, "torch")
    output = capsys.readouterr()
    assert "tests that need them are skipped" in output.out + output.err


def test_torch_from_another_index_is_not_held_to_the_lock(recorder: Recorder, venv: Path) -> None:
    setup_venv.set_up(venv, HERE, "torch==2.13.0 --no-index --find-links=/wheels")
    torch = recorder.taken()[1]
    assert torch[-3:] == ["torch==2.13.0", "--no-index", "--find-links=/wheels"]
    assert "-c" not in torch


def test_beside_a_distribution_its_own_modules_are_kept(recorder: Recorder, venv: Path) -> None:
    setup_venv.set_up(venv, DISTRIBUTION, "torch==2.13.0")
    commands = recorder.taken()
    assert "--system-site-packages" in commands[0]
    flat = [argument for command in commands for argument in command]
    assert not [a for a in flat if "ros-wheels" in a or "lock.txt" in a]
    assert "numpy>=1.26" in flat
    assert "opencv-python>=4.6" not in flat, "the distribution has one"
    constraints = (venv / "constraints.txt").read_text().splitlines()
    assert "numpy<2" in constraints
    assert read_stamp(venv / setup_venv.STAMP)["ros"] == "jazzy"


def test_opencv_is_installed_where_the_distribution_has_none(recorder: Recorder, venv: Path) -> None:
    setup_venv.set_up(venv, dataclasses.replace(DISTRIBUTION, opencv=None), "torch")
    assert any("opencv-python>=4.6" in command for command in recorder.taken())


@pytest.mark.parametrize(("numpy", "line"), [("1.26.4", "numpy<2"), ("1.21.5", "numpy<2"), ("2.3.1", "numpy<3")])
def test_numpy_keeps_its_major_version(numpy: str, line: str) -> None:
    assert line in setup_venv.distribution_constraints(dataclasses.replace(DISTRIBUTION, numpy=numpy))


def test_missing_tools_stop_the_setup_with_their_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["setup_venv", "--venv", str(tmp_path / "venv")])
    with pytest.raises(SystemExit) as stopped:
        setup_venv.run_main(setup_venv.main)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert "install the Debian package cmake" in error
    assert "install the Debian package g++" in error
    assert not (tmp_path / "venv").exists()


def test_pip_does_not_see_a_sourced_workspace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho "path=$PYTHONPATH user=$PIP_USER $*"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", "/some/workspace")
    setup_venv.pip(tmp_path, "numpy")
    assert "path= user=0 -m pip install" in capfd.readouterr().out
    assert os.environ["PYTHONPATH"] == "/some/workspace"


def test_a_failing_command_is_named() -> None:
    with pytest.raises(SetupError, match="the impossible failed with exit code 3"):
        setup_venv.run(["sh", "-c", "exit 3"], "the impossible")
