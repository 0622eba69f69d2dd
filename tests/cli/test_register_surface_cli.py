"""``semantic-matcher register-surface`` on rendered sheets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from semantic_matcher_core.cli import main
from semantic_matcher_core.io.images import write_image
from tests.core.rendered_sheets import Sheet, camera

SIZE = (240, 320)
SIFT = ["--variant", "plain:sift", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path: Path, textured: Callable[..., np.ndarray]) -> Path:
    texture = textured(480, 640, seed=2)
    for name, sheet in (("a", Sheet(texture)), ("b", Sheet(texture, 0.3, None, (0, 0, 0.5)))):
        image, depth = sheet.render(SIZE)
        write_image(tmp_path / f"{name}.png", image)
        cv2.imwrite(str(tmp_path / f"{name}_depth.png"), np.round(depth * 1000).astype(np.uint16))
    np.save(tmp_path / "small.npy", np.ones((10, 10), np.float32))
    return tmp_path


def arguments(folder: Path, *changes: str) -> list[str]:
    K = camera(SIZE)
    intrinsics = f"{K[0, 0]},{K[1, 1]},{K[0, 2]},{K[1, 2]}"
    names = [str(folder / name) for name in ("a.png", "a_depth.png", "b.png", "b_depth.png")]
    return ["register-surface", *names, "--intrinsics", intrinsics, "-o", str(folder / "out.ply"), *SIFT, *changes]


def test_a_mesh_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(folder, "--rest", str(folder / "rest.ply"))) == 0
    said = capsys.readouterr().out
    assert f"wrote {folder / 'out.ply'}: " in said and "mm deformed" in said
    assert main(arguments(folder, "--json", "--step", "16")) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["residual_m"] < 0.3 * figures["rigid_residual_m"]
    for name in ("out.ply", "rest.ply"):
        assert (folder / name).read_bytes().startswith(b"ply\n")
    assert f"element vertex {figures['vertices']}\n".encode() in (folder / "out.ply").read_bytes()


def test_refusals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(command: list[str]) -> str:
        assert main(command) in (1, 2)
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert not (folder / "out.ply").exists()
        return error

    assert "four numbers FX,FY,CX,CY" in refused(arguments(folder, "--intrinsics", "1,2"))
    assert "camera matrix" in refused(arguments(folder, "--intrinsics", "0,1,2,3"))
    assert "--rest rest.obj must end in .ply" in refused(arguments(folder, "--rest", "rest.obj"))
    assert "depth-units" in refused(arguments(folder, "--depth-units", "x"))
    wrong = arguments(folder)
    wrong[4] = str(folder / "small.npy")
    assert "depth of the second image is 10 x 10, its image 240 x 320" in refused(wrong)
    wrong[4] = str(folder / "missing.png")
    assert "no such depth file" in refused(wrong)
    # A header that does not end, as damaged ones may.
    (folder / "small.npy").write_bytes(b"\x93NUMPY\x01\x00\x04\x00{'(\n")
    wrong[4] = str(folder / "small.npy")
    assert f"cannot read depth {folder / 'small.npy'}: " in refused(wrong)
