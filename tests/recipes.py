"""CONTRIBUTING's recipes, followed word by word in a copy of the sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

_SOURCES = ("semantic_matcher_core", "ros_ws/src/semantic_matcher/semantic_matcher")


def follow(title: str, folder: Path) -> dict[str, str]:
    """Do what a recipe says.

    Args:
        title: what stands after "Recipe:".
        folder: gets a copy of the sources, and in it what the recipe adds.

    Returns:
        The environment's ``PYTHONPATH`` for what is there.
    """
    for source in _SOURCES:
        shutil.copytree(REPOSITORY / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    match = re.search(rf"^## Recipe: {re.escape(title)}$(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert match is not None, title
    steps = re.findall(r"((?:(?!```).)*)```python\n(.*?)```", match[1], re.DOTALL)
    assert len(steps) >= 2, "a file, and a line for a table"
    for words, code in steps:
        if written := re.search(r"Write `([^`]+)`", words):
            path = folder / written[1]
            assert not path.exists()
            path.write_text(code)
            continue
        added = re.search(r"Add .*?`([A-Z_]+)`\s+(?:of|in)\s+`([^`]+)`", words, re.DOTALL)
        assert added is not None, words
        path = folder / added[2]
        source = path.read_text()
        table = re.search(rf"^{added[1]}\b[^\n]*= \{{\n", source, re.MULTILINE) or re.search(
            rf"^{added[1]}\b[^\n]*= \{{", source, re.MULTILINE
        )
        assert table is not None, added[1]
        path.write_text(f"{source[: table.end()]}\n{code}{source[table.end() :]}")
    return {"PYTHONPATH": ":".join(str(folder / Path(source).parent) for source in _SOURCES)}


def run_in_copy(program: str, folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a copy of the sources, whose ``PYTHONPATH`` comes before all else."""
    environment = {**os.environ, "PYTHONPATH": f"{path}:{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=800
    )
