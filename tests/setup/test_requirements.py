"""The lock, the ranges in pyproject.toml and the lists of requirements agree."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY
from tools.app_venv import PACKAGES
from tools.lock import lockable

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

REQUIREMENTS = REPOSITORY / "requirements"
# Extras that the set-up does not install: large, and they want other versions of what is here (see tools/app_venv.py).
BESIDE = ("app", "view")


def read(path: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def declared() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name not in BESIDE]
    return [Requirement(line) for group in (project["dependencies"], *extras) for line in group]


@pytest.fixture(scope="module", params=["lock", "lock-3.10"])
def locked(request: pytest.FixtureRequest) -> dict[str, str]:
    pins = {}
    for requirement in read(REQUIREMENTS / f"{request.param}.txt"):
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        pins[canonicalize_name(requirement.name)] = specifier.version
    return pins


def test_every_requirement_is_locked_within_its_range(locked: dict[str, str]) -> None:
    lists = [
        requirement
        for name in ("ros-wheels", "colcon", "teachers")
        for requirement in read(REQUIREMENTS / f"{name}.txt")
    ]
    wanted = [*declared(), *lists]
    wanted = [r for r in wanted if r.name != "torch"]
    outside = [str(r) for r in wanted if not r.specifier.contains(locked.get(canonicalize_name(r.name), "0"))]
    assert outside == []


def test_what_app_and_viewer_are_tested_with_is_in_their_ranges() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    declared = {r.name: r for r in map(Requirement, [*extras["app"], *extras["view"]])}
    for pinned in map(Requirement, PACKAGES):
        (pin,) = pinned.specifier
        assert declared.pop(pinned.name).specifier.contains(pin.version)
    assert not declared


def test_torch_is_left_to_the_makefile(locked: dict[str, str]) -> None:
    assert not {"torch", "pip", "setuptools", "semantic-matcher", "torchvision"} & locked.keys()
    (default,) = [line for line in (REPOSITORY / "Makefile").read_text().splitlines() if line.startswith("TORCH ?=")]
    assert default == "TORCH ?= torch==2.13.0"


def test_lists_name_versions_and_no_index() -> None:
    for path in REQUIREMENTS.glob("*.txt"):
        text = path.read_text()
        assert "://" not in text and "--" not in text, path


def test_lockable_leaves_out_what_the_index_does_not_have() -> None:
    freeze = "\n".join(
        ["ros-sensor-msgs==5.3.6", "sensor_msgs==5.3.6", "numpy==2.4.6", "torch==2.13.0+cpu", "setuptools==79.0.1",
         "semantic-matcher==0.1.0", "Jinja2==3.1.6", "-e git+x"]
    )  # fmt: skip
    assert lockable(freeze) == ["Jinja2==3.1.6", "numpy==2.4.6", "ros-sensor-msgs==5.3.6"]
