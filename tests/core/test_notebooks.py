"""The notebooks run from top to bottom in a fresh clone; their cells, without Jupyter."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def run(name: str) -> tuple[dict[str, Any], list[Any]]:
    """The variables that a notebook leaves, and what its cells show."""
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    variables: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        tree = ast.parse("".join(cell["source"]), f"{name}, cell {number}")
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{name}, cell {number}", "exec"), variables)  # noqa: S102 - our own
        if isinstance(last, ast.Expr):
            value = compile(ast.Expression(last.value), f"{name}, cell {number}", "eval")
            shown.append(eval(value, variables))  # noqa: S307 - our own
    return variables, shown


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_they_are_committed_without_outputs(name: str) -> None:
    for cell in json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


def test_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    variables, shown = run("matching")
    assert float(variables["error"].mean()) < 3 and len(variables["good"]) > 100
    assert "keypoints" in repr(shown[0]) and all(picture.shape[1] > 400 for picture in shown[-4:])


def test_bending_surface(monkeypatch: pytest.MonkeyPatch, shared: Path) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", str(shared / "weights"))
    variables, shown = run("bending_surface")
    assert variables["agreement"].error < 0.7 * variables["agreement"].error_before
    assert shown[-1].shape[-1] == 3


@pytest.mark.skipif(importlib.util.find_spec("pycolmap") is None, reason="no pycolmap")
def test_reconstruction(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    variables, _ = run("reconstruction")
    assert len(variables["found"]) >= 7 and float(variables["error"].max()) < 0.1


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("lightning", "rosbags")),
    reason="no lightning or no rosbags",
)
def test_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    variables, shown = run("training")
    assert len(variables["photos"]) == 8
    # The recording's own reasoner matched, and geometry agrees with most of it.
    assert variables["matcher"].variant.endswith("best") and variables["matcher"].reasoner is not None
    checked = variables["checked"]
    assert len(checked) > 100 and float(checked.inlier.float().mean()) > 0.7
    assert shown[-1].shape[1] > 400
