"""``semantic-matcher export``, and commands with ``--backend onnx``."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from semantic_matcher_core.cli import main
from semantic_matcher_core.extractors.superpoint import SuperPoint
from semantic_matcher_core.io.images import write_image
from tests.core.extractor_checks import randomize

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(p) is None for p in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript and onnxruntime are not all installed",
)

SUPERPOINT = ["--variant", "plain:superpoint", "--device", "cpu", "--max-keypoints", "200"]


@pytest.fixture
def pair(tmp_path: Path, textured_image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two pictures, and random weights where the command looks for published ones."""
    extractor = SuperPoint()
    randomize(extractor, 3)
    (tmp_path / "weights").mkdir()
    torch.save(extractor.net.state_dict(), tmp_path / "weights" / "superpoint_v1.pth")
    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path / "home"))
    paths = [tmp_path / "first.png", tmp_path / "second.png"]
    for i, path in enumerate(paths):
        write_image(path, np.ascontiguousarray(textured_image[100:220, 96 + 8 * i : 256 + 8 * i]))
    return [str(path) for path in paths]


def test_export_then_match(pair: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    match = ["match", *pair, *SUPERPOINT, "--json"]
    assert main([*match, "--backend", "onnx"]) != 0
    # The command that is advised makes the graphs that were missing, and not those of another variant.
    advised = capsys.readouterr().err.partition("make one: ")[2]
    program, *command = shlex.split(advised)
    assert program == "semantic-matcher" and "plain:superpoint" in command
    assert main([*command, "--device", "cpu"]) == 0
    folder = tmp_path / "home" / "onnx" / "plain-superpoint"
    assert f"{folder}/extractor.onnx: within" in capsys.readouterr().out
    assert main(match) == 0
    expected = json.loads(capsys.readouterr().out)
    assert main([*match, "--backend", "onnx"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["matches"] == pytest.approx(expected["matches"], rel=0.05)
    assert [i["keypoints"] for i in result["images"]] == [i["keypoints"] for i in expected["images"]]
    assert main(["export", *SUPERPOINT]) != 0
    assert "earlier export" in capsys.readouterr().err
    elsewhere = tmp_path / "elsewhere"
    assert main(["export", *SUPERPOINT, "--output", str(elsewhere)]) == 0
    assert main([*match, "--backend", "onnx", "--onnx-folder", str(elsewhere)]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["match", "--backend", "torchscript"], "unknown --backend 'torchscript'"),
        (["match", "--onnx-folder", "somewhere"], "--backend onnx"),
        (["match", "--backend", "onnx", "--precision", "bf16"], "bf16"),
        (["export", "--format", "tflite"], "unknown --format 'tflite'"),
        (["export", "--precision", "bf16"], "fp32"),
        (["export", "--onnx-folder", "somewhere"], "an export writes them to --output"),
        (["export", "--int8"], "int8 is for DINOv2"),
        (["export", "--output", "/dev/null/graphs"], "cannot write /dev/null/graphs: "),
    ],
)
def test_mistakes(
    pair: list[str], options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "bf16" in options and options[0] == "match":
        assert main(["export", *SUPERPOINT]) == 0
    command, *rest = options
    assert main([command, *(pair if command == "match" else []), *SUPERPOINT, *rest]) != 0
    assert message in capsys.readouterr().err


def test_a_path_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--variant", f"{tmp_path}/checkpoint", "--device", "cpu"]) != 0
    assert "name the folder" in capsys.readouterr().err
