"""``semantic-matcher register`` on sheets whose deformation is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.cli import main
from semantic_matcher_core.io.images import read_image, write_image
from semantic_matcher_core.io.video import VideoWriter, video_info
from tests.core.bent_surfaces import known_bend, render

SIZE = (240, 320)
SIFT = ["--variant", "plain:sift", "--device", "cpu", "--max-keypoints", "800"]


@pytest.fixture
def sheet(textured_image: np.ndarray) -> np.ndarray:
    return textured_image[100 : 100 + SIZE[0], 100 : 100 + SIZE[1]].copy()


@pytest.fixture
def folder(tmp_path: Path, sheet: np.ndarray) -> Path:
    bent = render(sheet, known_bend(SIZE, 10.0))
    write_image(tmp_path / "flat.png", sheet)
    write_image(tmp_path / "bent.png", bent)
    write_image(tmp_path / "plain.png", np.full((*SIZE, 3), 120, np.uint8))
    mask = np.zeros(SIZE, np.uint8)
    mask[:, :160] = 255
    write_image(tmp_path / "mask.png", mask)
    with VideoWriter(tmp_path / "video.avi", 10) as writer:
        for image in (sheet, bent, bent):
            writer.write(image)
    (tmp_path / "empty.avi").write_bytes(b"")
    return tmp_path


def test_a_pair_becomes_a_picture(folder: Path, sheet: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    out, warped = folder / "out.png", folder / "warped.png"
    arguments = ["register", str(folder / "flat.png"), str(folder / "bent.png"), "-o", str(out), *SIFT]
    assert main([*arguments, "--warped", str(warped), "--height", "240"]) == 0
    said = capsys.readouterr().out
    assert f"wrote {out}: " in said and "plain:sift on cpu" in said
    picture = read_image(out)
    assert picture.shape[0] > 2 * 240 and picture.shape[1] > 2 * 320
    on_template = read_image(warped)
    inner = (slice(60, 180), slice(80, 240))
    flat_error = np.abs(read_image(folder / "bent.png")[inner].astype(float) - sheet[inner]).mean()
    assert np.abs(on_template[inner].astype(float) - sheet[inner]).mean() < 0.4 * flat_error


def test_json_has_the_figures_and_a_mask_narrows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["register", str(folder / "flat.png"), str(folder / "bent.png"), "-o", str(folder / "out.png"), *SIFT]
    results = []
    for extra in ([], ["--mask", str(folder / "mask.png")]):
        assert main([*arguments, "--json", *extra]) == 0
        results.append(json.loads(capsys.readouterr().out))
    everything, masked = results
    assert 100 < everything["inliers"] <= everything["matches"]
    assert everything["error"] < 0.5 * everything["error_before"] and everything["correlation"] > 0.9
    assert masked["coverage"] < 0.5 < everything["coverage"]


@pytest.mark.parametrize("template", [[], ["flat.png"]])
def test_a_video_becomes_a_video_and_figures(
    folder: Path, template: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [str(folder / name) for name in (*template, "video.avi")]
    assert main(["register", *inputs, "-o", str(folder / "out.mp4"), *SIFT, "--smooth", "--height", "96"]) == 0
    frames = 3 if template else 2
    said = capsys.readouterr().out
    assert f"{frames} of {frames} frames registered" in said and "times lower" in said
    assert video_info(folder / "out.mp4").frame_count == 3
    rows = (folder / "out.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[0].startswith("frame,stamp_s,registered,matches,inliers")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["flat.png", "-o", "out.png"], 2, "flat.png is no video"),
        (["flat.png", "bent.png", "-o", "out.mp4"], 2, "a picture is made"),
        (["video.avi", "-o", "out.png"], 2, "a video is made"),
        (["flat.png", "video.avi", "-o", "out.mp4", "--warped", "w.png"], 2, "--warped is for a single image"),
        (["flat.png", "bent.png", "-o", "out.png", "--smooth"], 2, "are for videos"),
        (["flat.png", "bent.png", "-o", "out.png", "--threshold", "0"], 2, "threshold must be above 0"),
        (["flat.png", "bent.png", "-o", "no/out.png"], 1, "does not exist; create it first"),
        (["flat.png", "missing.png", "-o", "out.png"], 1, "no such image file: missing.png"),
        (["plain.png", "bent.png", "-o", "out.png"], 1, "keypoints in the template"),
        (["flat.png", "plain.png", "-o", "out.png"], 1, "may not show the template"),
        (["empty.avi", "-o", "out.mp4"], 1, "empty.avi is empty (0 bytes)"),
        (["plain.png", "video.avi", "-o", "out.mp4"], 1, "keypoints in the template"),
        (["flat.png", "video.avi", "-o", "out.mp4", "--every", "0"], 2, "--every"),
    ],
)
def test_refusals(
    folder: Path,
    arguments: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    assert main(["register", *arguments, *SIFT]) == code
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before


def test_dalf_is_what_matches_unless_told(folder: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["register", str(folder / "flat.png"), str(folder / "bent.png"), "-o", str(folder / "out.jpg")]
    assert main([*arguments, "--weights", str(shared / "weights"), "--device", "cpu", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["inliers"] > 200 and result["correlation"] > 0.9
