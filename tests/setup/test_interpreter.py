"""Choosing the Python to build on, with stand-ins that answer as real interpreters do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import interpreter
from tools.interpreter import choose, probe
from tools.messages import SetupError


class Machine:
    """A folder of stand-ins for ``PATH``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"PATH": f"{folder}:/usr/bin:/bin"}

    def add(self, name: str, version: tuple[int, int, int], **answer: Any) -> str:
        path = self.folder / name
        content = {
            "executable": str(path), "base": str(path), "version": version, "headers": True, "ensurepip": True,
            "ros_distro": None, "numpy": None, "opencv": None, **answer,
        }  # fmt: skip
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(content)}\nEND\n")
        path.chmod(0o755)
        return str(path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    names = interpreter._candidate_names()
    monkeypatch.setattr(interpreter, "_candidate_names", lambda: [n for n in names if not n.startswith("/")])
    stand_ins = Machine(tmp_path)
    # Names that the real system may have are taken by something that does not work, as a version manager's shims are.
    for name in ("python3", "python3.10", "python3.11", "python3.12", "python3.13", "python"):
        shim = tmp_path / name
        shim.write_text("#!/bin/sh\necho 'no such version' >&2\nexit 127\n")
        shim.chmod(0o755)
    return stand_ins


def test_probe_asks_a_real_interpreter() -> None:
    found = probe(sys.executable)
    assert found is not None
    assert found.version == sys.version_info[:3]
    # This test runs in a virtual environment: what answers is the Python that environment was made from.
    assert Path(found.executable).resolve() == Path(sys.executable).resolve()
    assert sys.prefix == sys.base_prefix or not Path(found.executable).is_relative_to(sys.prefix)


def test_python3_is_taken_when_it_is_new_enough(machine: Machine) -> None:
    wanted = machine.add("python3", (3, 12, 4))
    machine.add("python3.13", (3, 13, 0))
    assert choose(env=machine.env).executable == wanted


@pytest.mark.parametrize("version", [(3, 8, 10), (3, 9, 2), (3, 14, 0)])
def test_another_is_looked_for_when_python3_will_not_do(machine: Machine, version: tuple[int, int, int]) -> None:
    machine.add("python3", version)
    machine.add("python3.11", (3, 11, 9))
    wanted = machine.add("python3.12", (3, 12, 4))
    assert choose(env=machine.env).executable == wanted


def test_shims_that_do_not_work_are_passed_over(machine: Machine) -> None:
    wanted = machine.add("python3.11", (3, 11, 9))
    assert choose(env=machine.env).executable == wanted


def test_nothing_suitable_says_what_was_found_and_what_is_needed(machine: Machine) -> None:
    machine.add("python3", (3, 9, 2))
    with pytest.raises(SetupError, match=r"Python 3\.10 to 3\.13 is needed, found Python 3\.9\.2 .*Debian package"):
        choose(env=machine.env)


def test_the_users_choice_is_the_only_one_tried(machine: Machine) -> None:
    machine.add("python3", (3, 12, 0))
    old = machine.add("python3.9", (3, 9, 0))
    with pytest.raises(SetupError, match=r"Python 3\.9\.0 .*will not do: Python 3\.10 to 3\.13"):
        choose(old, env=machine.env)
    with pytest.raises(SetupError, match="PYTHON=/no/such/python is not a working Python 3"):
        choose("/no/such/python", env=machine.env)


@pytest.mark.parametrize(("lacking", "package"), [("headers", "python3-dev"), ("ensurepip", "python3-venv")])
def test_parts_that_debian_splits_off_are_named(machine: Machine, lacking: str, package: str) -> None:
    machine.add("python3", (3, 11, 2), **{lacking: False})
    with pytest.raises(SetupError, match=f"install the Debian package {package}"):
        choose(env=machine.env)


def test_a_sourced_distribution_decides(machine: Machine) -> None:
    machine.add("python3", (3, 13, 0))
    wanted = machine.add("python3.12", (3, 12, 3), ros_distro="jazzy", numpy="1.26.4", opencv="4.6.0")
    chosen = choose(env={**machine.env, "ROS_DISTRO": "jazzy"})
    assert (chosen.executable, chosen.ros_distro, chosen.numpy) == (wanted, "jazzy", "1.26.4")


def test_a_sourced_distribution_without_rclpy_is_no_distribution(machine: Machine) -> None:
    wanted = machine.add("python3", (3, 12, 3))
    chosen = choose(env={**machine.env, "ROS_DISTRO": "jazzy"})
    assert (chosen.executable, chosen.ros_distro) == (wanted, None)


def test_a_distribution_that_is_too_old_is_refused(machine: Machine) -> None:
    humble = machine.add("python3", (3, 10, 12), ros_distro="humble")
    machine.add("python3.12", (3, 12, 3))
    environment = {**machine.env, "ROS_DISTRO": "humble"}
    with pytest.raises(SetupError, match=r"ROS humble is sourced and its Python is 3\.10\.12, but Jazzy or later"):
        choose(env=environment)
    with pytest.raises(SetupError, match=r"that of ROS humble, .*a shell without ROS sourced"):
        choose(humble, env=environment)


def test_an_activated_environment_answers_for_its_base(machine: Machine) -> None:
    base = machine.add("python3.12", (3, 12, 3))
    (machine.folder / "venv").mkdir()
    machine.add("python3", (3, 12, 3), executable=str(machine.folder / "venv" / "python3"), base=base)
    assert choose(env=machine.env).executable == base


def test_identity_is_the_same_under_every_name(machine: Machine) -> None:
    real = machine.add("python3.12", (3, 12, 3))
    link = machine.folder / "link"
    link.symlink_to(real)
    assert choose(str(link), env=machine.env).identity() == choose(real, env=machine.env).identity()
