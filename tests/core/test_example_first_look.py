"""The picture of the first page can be made anew."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from semantic_matcher_core.io.images import read_image

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "first_look.py"


def test_it_matches_what_it_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("first_look", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["first_look", "-o", str(tmp_path / "look.jpg")])
    module.main()
    words = capsys.readouterr().out.split()
    assert int(words[2]) > 0.6 * int(words[0].removeprefix("Matches(")) > 100  # inliers of matches
    picture = read_image(tmp_path / "look.jpg")
    assert picture.shape[0] == 2 * (450 + 34) and picture.std() > 30
