"""The Makefile, the continuous integration script and the wheel, as a person meets them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # A `make test` above this process must not lend it its own options and variables.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env={**inherited, **variables}, capture_output=True, text=True)


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@needs_make
def test_help_is_the_default_and_names_every_target() -> None:
    shown = make().stdout
    phony = re.search(r"^\.PHONY: (.+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert re.findall(r"^  ([a-z-]+)", shown, re.MULTILINE) == phony.group(1).split()


@needs_make
def test_a_machine_without_python_is_told_the_package(tmp_path: Path) -> None:
    for name in ("bash", "make"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = make("setup", PATH=str(tmp_path))
    assert done.returncode != 0
    assert "Python 3.11 or later is needed; install the Debian package python3" in done.stderr


@needs_make
def test_the_wrong_python_stops_the_setup_in_one_line(tmp_path: Path) -> None:
    done = make("setup", f"VENV={tmp_path / 'venv'}", "PYTHON=/no/such/python")
    assert done.returncode != 0
    assert "PYTHON=/no/such/python is not a working Python 3" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
@pytest.mark.parametrize(("given", "passed"), [([], []), (["INPUT=my video.mp4"], ["--input", "my video.mp4"])])
def test_demo_passes_its_input_on(given: list[str], passed: list[str]) -> None:
    command = shlex.split(make("-n", "demo", *given).stdout.splitlines()[-1])
    assert command[command.index("--") + 1 :] == ["python", "-m", "semantic_matcher.demo", *passed, "--output", "demo"]


def test_launch_is_a_link_into_the_package() -> None:
    link = REPOSITORY / "launch"
    assert link.is_symlink()
    assert os.readlink(link) == "ros_ws/src/semantic_matcher/launch"


def test_ci_is_strict_and_runs_the_readmes_command() -> None:
    script = REPOSITORY / ".ci" / "run"
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith("make test")
    assert "$ make test" in (REPOSITORY / "README.md").read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_versions_agree() -> None:
    from semantic_matcher_core import __version__

    for package in ("semantic_matcher", "semantic_matcher_msgs"):
        text = (REPOSITORY / "ros_ws" / "src" / package / "package.xml").read_text()
        assert f"<version>{__version__}</version>" in text
    assert f'version="{__version__}"' in (REPOSITORY / "ros_ws" / "src" / "semantic_matcher" / "setup.py").read_text()


def test_the_wheel_holds_the_core_with_its_data_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77.0.3")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("semantic_matcher_core", "training", "benchmarks", "tests", "tools"):
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*command, "-w", str(tmp_path), str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("semantic_matcher-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith("METADATA"))
        assert "License-Expression: Apache-2.0" in archive.read(metadata).decode()
    for folder in ("semantic_matcher_core", "training"):
        copied = [p for p in (source / folder).rglob("*") if p.is_file() and "egg-info" not in p.parent.name]
        assert [str(p.relative_to(source)) for p in copied if str(p.relative_to(source)) not in names] == []
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "tools/"))]
