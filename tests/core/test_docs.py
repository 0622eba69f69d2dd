"""The documentation builds strictly and fetches nothing, and its examples run."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

CORE = REPOSITORY / "semantic_matcher_core"
WITH_EXAMPLES = [
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in sorted(CORE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of_docstrings_run(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0 and found.failed == 0


def test_the_first_page_s_example_runs(tmp_path: Path) -> None:
    (code,) = re.findall(
        r"```python\n(.*?)```", (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8"), re.DOTALL
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", f"{code}\nprint(len(matches))"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=800
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    pages = {page.stem for page in (REPOSITORY / "docs").glob("*.md")} - {"index"}
    for page in pages:
        assert (tmp_path / "site" / page / "index.html").is_file()
    reference = (tmp_path / "site" / "reference" / "index.html").read_text(encoding="utf-8")
    assert "with_settings" in reference and "DenseExtractor" in reference
    assert not re.findall(r":(?:class|meth|func):", reference)
    for html in (tmp_path / "site").rglob("*.html"):
        text = html.read_text(encoding="utf-8")
        # A list that does not stand apart from the text before it, or whose text is indented by less than four.
        assert not re.findall(r"<p>[^<]*(?:<(?!/p>)[^<]*)*\n(?:[-*]|\d+\.) [^<]*", text), html
        fetched = re.findall(r"<(?:script|img|iframe)[^>]+src=\"https?://[^\"]+|<link[^>]+href=\"https?://[^\"]+", text)
        assert not [tag for tag in fetched if 'rel="canonical"' not in tag], html
