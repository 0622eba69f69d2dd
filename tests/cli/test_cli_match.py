"""``semantic-matcher match`` on pictures whose motion is known."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from semantic_matcher_core.cli import main
from semantic_matcher_core.io.images import read_image, write_image

SHIFT = (24, -10)
SIFT = ["--variant", "plain:sift", "--device", "cpu", "--max-keypoints", "400"]


@pytest.fixture
def pair(tmp_path: Path, textured_image: np.ndarray) -> tuple[str, str]:
    """Two views of one picture; a point at (x, y) of the first lies at (x, y) + SHIFT in the second."""
    height, width, (dx, dy) = 200, 260, SHIFT
    paths = str(tmp_path / "first.png"), str(tmp_path / "second.png")
    write_image(paths[0], textured_image[100 : 100 + height, 150 : 150 + width])
    write_image(paths[1], textured_image[100 - dy : 100 - dy + height, 150 - dx : 150 - dx + width])
    return paths


def test_json_and_arrays(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["match", *pair, *SIFT, "--json", "--arrays", "--geometry", "homography"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["variant"] == "plain:sift" and result["device"] == "cpu" and result["precision"] == "fp32"
    assert [image["path"] for image in result["images"]] == list(pair)
    assert [(i["width"], i["height"]) for i in result["images"]] == [(260, 200)] * 2
    assert all(50 < image["keypoints"] <= 400 for image in result["images"])
    assert result["matches"] == len(result["keypoints0"]) == len(result["keypoints1"]) == len(result["confidence"])
    moved = np.array(result["keypoints1"]) - np.array(result["keypoints0"])
    right = np.linalg.norm(moved - SHIFT, axis=1) < 1
    assert right.mean() > 0.7 and right.sum() > 50
    geometry = result["geometry"]
    assert geometry["kind"] == "homography" and geometry["inliers"] == sum(result["inlier"])
    assert np.array(geometry["model"]) == pytest.approx(np.array([[1, 0, 24], [0, 1, -10], [0, 0, 1]]), abs=0.2)
    assert set(result["milliseconds"]) == {"read", "load", "extract0", "extract1", "match", "verify"}
    assert result["written"] == []


def test_a_picture_that_the_second_image_shows_small_is_found(
    tmp_path: Path, textured_image: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    large = cv2.resize(textured_image[:300, :400], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    scene = np.ascontiguousarray(textured_image[::-1, ::-1][:400, :540])
    # A point at (x, y) of the first lies at ((x + 0.5) / 4 - 0.5 + 60, (y + 0.5) / 4 - 0.5 + 90) in the second.
    scene[90:240, 60:260] = cv2.resize(large, (200, 150), interpolation=cv2.INTER_AREA)
    paths = str(tmp_path / "poster.png"), str(tmp_path / "scene.png")
    for path, image in zip(paths, (large, scene), strict=True):
        write_image(path, image)
    right = []
    for options in ((), ("--smaller",)):
        assert main(["match", *paths, "--device", "cpu", "--json", "--arrays", *options]) == 0
        result = json.loads(capsys.readouterr().out)
        keypoints0, keypoints1 = (np.array(result[name]) for name in ("keypoints0", "keypoints1"))
        expected = (keypoints0 + 0.5) / 4 - 0.5 + [60, 90]
        right.append(int((np.linalg.norm(keypoints1 - expected, axis=1) < 2).sum()))
    assert right[1] > max(60, 5 * right[0]), right


def test_json_without_arrays_is_short(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["match", *pair, *SIFT, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["geometry"] is None and "keypoints0" not in result


def test_picture_and_arrays_are_written(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, arrays = tmp_path / "matches.png", tmp_path / "matches.npz"
    assert main(["match", *pair, *SIFT, "-o", str(picture), "--npz", str(arrays), "--geometry", "fundamental"]) == 0
    out = capsys.readouterr().out
    assert f"wrote {picture}" in out and f"wrote {arrays}" in out and "agree with one fundamental matrix" in out
    drawn = read_image(picture)
    assert drawn.shape[1] > 2 * drawn.shape[0]
    with np.load(arrays) as read:
        count = len(read["indices"])
        assert str(count) in out and read["keypoints0"].shape == read["keypoints1"].shape == (count, 2)
        assert read["confidence"].shape == read["inlier"].shape == (count,) and read["model"].shape == (3, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first.png", "matches.npz", "matches.png", "second.png"]


def test_semantics_and_a_point(pair: tuple[str, str], tmp_path: Path) -> None:
    model = ["--variant", "compact", "--device", "cpu", "--max-keypoints", "200"]
    assert main(["match", *pair, *model, "--view", "semantics", "-o", str(tmp_path / "map.png")]) == 0
    assert main(["match", *pair, *model, "--point", "130,100", "-o", str(tmp_path / "point.png")]) == 0
    drawn, panels = read_image(tmp_path / "map.png"), read_image(tmp_path / "point.png")
    assert drawn.shape[1] > 2 * drawn.shape[0] and drawn.std() > 20
    assert panels.shape[1] > 4.5 * panels.shape[0]  # the image, and three of the other


@pytest.mark.parametrize(
    ("view", "geometry"), [("arrows", "none"), ("warp", "homography"), ("epipolar", "fundamental")]
)
def test_views(pair: tuple[str, str], tmp_path: Path, view: str, geometry: str) -> None:
    picture = tmp_path / "picture.png"
    arguments = ["match", *pair, *SIFT, "-o", str(picture), "--geometry", geometry, "--view", view, "--theme", "light"]
    assert main(arguments) == 0
    drawn = read_image(picture)
    assert (drawn.shape[1] > 2 * drawn.shape[0]) == (view != "arrows")
    assert drawn[0, 0].tolist() == [255, 255, 255]


def test_a_view_that_cannot_be_is_refused_before_the_work(
    pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for extra, message in (
        (["--view", "warp"], "--view warp shows a homography; add --geometry homography"),
        (["--view", "dots"], "unknown --view 'dots'; use one of lines, arrows, warp, epipolar, semantics"),
        (["--theme", "grey"], "unknown --theme 'grey'"),
        (["--point", "3"], "--point '3' is no X,Y in pixels"),
        (["--point", "3,3"], "--view and --point say what the picture shows; add -o matches.png"),
        (["--view", "arrows"], "--view and --point say what the picture shows; add -o matches.png"),
        (["--view", "semantics", "-o", "never.png"], "a plain matcher has no semantic map"),
        (["--point", "300,3", "-o", "never.png"], "point 300,3 is outside the first image, 260 x 200 pixels"),
    ):
        assert main(["match", *pair, *SIFT, *extra]) == 2
        assert message in capsys.readouterr().err


def test_ratio_and_similarity_thin_out_the_matches(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    counts = []
    for extra in ([], ["--ratio", "0.7"], ["--min-similarity", "0.98"]):
        assert main(["match", *pair, *SIFT, "--json", *extra]) == 0
        counts.append(json.loads(capsys.readouterr().out)["matches"])
    assert counts[1] < counts[0] and counts[2] < counts[0]


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["-o", "matches.txt"], 2, "must end in .bmp or"),
        (["-o", "missing/matches.png"], 1, "folder missing does not exist; create it first"),
        (["--npz", "matches.png"], 2, "must end in .npz"),
        (["--arrays"], 2, "--arrays adds to --json"),
        (["--geometry", "homography", "--geometry-threshold", "0"], 2, "--geometry-threshold"),
        (["--orientation", "up"], 2, "unknown orientation 'up'"),
        (["--precision", "fp16"], 1, "needs a GPU"),
        (["--precision", "int4"], 2, "unknown precision 'int4'"),
        (["--ratio", "3"], 2, "ratio"),
    ],
)
def test_refusals(
    pair: tuple[str, str], extra: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["match", *pair, *SIFT, *extra]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and len(captured.err.splitlines()) == 1


def test_images_without_a_keypoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "black.png", np.zeros((60, 80, 3), np.uint8))
    black = str(tmp_path / "black.png")
    picture = tmp_path / "out.png"
    assert main(["match", black, black, *SIFT, "-o", str(picture), "--geometry", "homography", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["matches"] == 0 and result["mean_confidence"] is None
    assert result["geometry"] == {"kind": "homography", "inliers": 0, "inlier_share": 0.0, "model": None}
    assert picture.exists()
    assert main(["match", black, black, *SIFT]) == 0
    assert f"; nothing is found in {black} (80 x 60): flat, blurred, too small, or masked" in capsys.readouterr().out


def test_weights_that_are_not_here_name_the_command(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SEMANTIC_MATCHER_WEIGHTS", raising=False)
    assert main(["match", *pair, "--variant", "xfeat"]) == 1
    error = capsys.readouterr().err
    assert "semantic-matcher weights fetch xfeat" in error and "plain:xfeat" in error


def test_xfeat_with_weights_from_a_folder(
    shared: Path, pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--descriptor", "xfeat", "--dino", "none", "--weights", str(shared / "weights"), "-k", "256"]
    assert main(["match", *pair, *arguments, "--json", "--arrays", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["variant"] == "plain:xfeat"
    moved = np.array(result["keypoints1"]) - np.array(result["keypoints0"])
    assert (np.linalg.norm(moved - SHIFT, axis=1) < 3).mean() > 0.6
