"""The wheel, and an environment that has it and what it depends on, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY

# What its extras bring, and what the environment of these tests has besides.
_NOT_LENT = re.compile(
    "scipy|onnx|lightning|pytorch_lightning|tensorboard|matplotlib|transformers|pandas|"
    "semantic_matcher|__editable__|ros_|rclpy"
)


@pytest.fixture(scope="session")
def wheel_and_source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, and the folder it was built from."""
    pytest.importorskip("setuptools", minversion="77.0.3")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("semantic_matcher_core", "training", "benchmarks", "tests", "tools"):
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*command, "-w", str(folder), str(source)], capture_output=True, text=True, timeout=800)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("semantic_matcher-*.whl")
    return wheel, source


@pytest.fixture(scope="session")
def wheel_python(
    wheel_and_source: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """The Python of an environment with the wheel and the packages it depends on, and the variables to run it with."""
    folder = tmp_path_factory.mktemp("wheel_environment")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=800)
    python = folder / "venv" / "bin" / "python"
    # What it depends on is lent.
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    lent = folder / "lent"
    lent.mkdir()
    for entry in Path(torch.__file__).parents[1].iterdir():
        if not _NOT_LENT.match(entry.name.lower()):
            (lent / entry.name).symlink_to(entry)
    (packages / "lent.pth").write_text(f"{lent}\n")
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel_and_source[0]]
    subprocess.run(install, check=True, cwd=folder, timeout=800)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SEMANTIC_MATCHER"))}
    environment |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    return python, environment
