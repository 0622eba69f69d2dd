"""The suite on pictures whose geometry the test makes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from semantic_matcher_core.io.images import write_image
from tests.conftest import make_textured_image
from training.errors import DataError
from training.evaluate import app
from training.evaluation.methods import load_matcher, match_function
from training.evaluation.opencv_methods import orb
from training.evaluation.suite import (
    held_out_photos,
    pair_cases,
    photo_cases,
    run_cases,
    sequence_cases,
    stereo_cases,
    summarise_suite,
)

ORB = "training.evaluation.opencv_methods:orb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``photos/`` of odd sizes, ``pairs/``, a panning ``pan/`` and a shifted ``stereo/`` pair."""
    root = tmp_path_factory.mktemp("suite")
    picture, other = make_textured_image(300, 500, 1), make_textured_image(300, 500, 2)
    images = {
        "photos/a.png": picture[:, :401],
        "photos/b.png": other[:, :401],
        "photos/c.png": picture[:251, 99:],
        "pairs/room1.png": other[:240, :320],
        "pairs/room2.png": other[10:250, 20:340],
        "pairs/print_ref.png": picture[:240, :320],
        "pairs/print_tgt.png": picture[5:245, 30:350],
        "stereo/left.png": picture[:240, :320],
        "stereo/right.png": picture[:240, 12:332],
        **{f"pan/{i}.png": picture[i : i + 240, 3 * i : 3 * i + 320] for i in range(5)},
    }
    for name, image in images.items():
        (root / name).parent.mkdir(exist_ok=True)
        write_image(root / name, np.ascontiguousarray(image))
    return root


def test_truth_of_photo_views_is_where_the_pixels_are(folder: Path) -> None:
    """Moved by the truth, the first view looks like the second up to brightness and colour; a pixel off, less so."""
    for case in photo_cases(held_out_photos(folder / "photos", every=1), difficulties=[0.4]):
        first, second = (cv2.cvtColor(view, cv2.COLOR_RGB2GRAY) for view in case.images())
        height, width = first.shape
        assert first.shape == second.shape

        def likeness(shift: float, views: tuple[np.ndarray, np.ndarray] = (first, second)) -> float:
            offset = np.array([[1.0, 0.0, shift], [0.0, 1.0, shift], [0.0, 0.0, 1.0]])
            homography = offset @ case.figures.__self__._homography  # noqa: B023
            moved = cv2.warpPerspective(views[0], homography, (width, height))  # noqa: B023
            seen = cv2.warpPerspective(np.ones_like(views[0]), homography, (width, height)) > 0  # noqa: B023
            return float(np.corrcoef(moved[seen], views[1][seen])[0, 1])

        assert likeness(0.0) > 0.85
        assert likeness(0.0) > max(likeness(1.0), likeness(-1.0))


def test_photo_figures_are_perfect_for_who_knows_and_follow_the_errors(folder: Path) -> None:
    (case,) = photo_cases([folder / "photos" / "b.png"], difficulties=[0.3])
    case.images()
    homography = case.figures.__self__._homography
    points0 = np.random.default_rng(0).uniform(50, 250, (200, 2))
    points1 = cv2.perspectiveTransform(points0[None], homography)[0]
    figures = case.figures(points0, points1)
    assert (figures["matches"], figures["correct"], figures["precision"]) == (200, 200, 1.0)
    points1[:50] += (4.0, 0.0)
    points1[50:100] += (2.0, 0.0)
    figures = case.figures(points0, points1)
    assert (figures["correct"], figures["precision"], figures["MMA@1"]) == (150, 0.75, 0.5)
    nothing = case.figures(np.empty((0, 2)), np.empty((0, 2)))
    assert (nothing["correct"], nothing["precision"], nothing["corner error px"]) == (0, 0.0, np.inf)


def test_views_are_the_same_each_time_and_differ_by_seed(folder: Path) -> None:
    photos = held_out_photos(folder / "photos", every=1)

    def views(seed: int) -> list[np.ndarray]:
        return [view for case in photo_cases(photos, seed=seed) for view in case.images()]

    first = views(0)
    assert len(first) == 12  # 3 photos at 2 difficulties
    assert all((a == b).all() for a, b in zip(first, views(0), strict=True))
    assert not any((a == b).all() for a, b in zip(first, views(1), strict=True))
    small = next(photo_cases(photos, long_side=200)).images()[0]
    assert small.shape == (150, 200, 3)


def test_photos_are_held_out_by_list_or_by_every_nth(folder: Path, tmp_path: Path) -> None:
    photos = folder / "photos"
    assert [p.name for p in held_out_photos(photos, every=2)] == ["a.png", "c.png"]
    listed = tmp_path / "list.txt"
    listed.write_text("b.png\n\n")
    assert [p.name for p in held_out_photos(photos, holdout_list=listed)] == ["b.png"]
    listed.write_text("b.png\nnone.png\n")
    with pytest.raises(DataError, match=r"none\.png.*1 such"):
        held_out_photos(photos, holdout_list=listed)
    listed.write_text("")
    with pytest.raises(DataError, match="lists no photos"):
        held_out_photos(photos, holdout_list=listed)
    with pytest.raises(DataError, match="cannot be read"):
        held_out_photos(photos, holdout_list=tmp_path / "nowhere")


def test_cases_of_folders(folder: Path) -> None:
    groups = [(case.group, case.name) for case in pair_cases(folder / "pairs")]
    assert groups == [
        ("pairs", "print"),
        ("pairs", "room"),
        ("unrelated", "print room"),
        ("unrelated", "room print"),
    ]
    pan = [(case.group, case.name) for case in sequence_cases(folder / "pan", [1, 3, 9])]
    assert len(pan) == 4 + 2
    assert ("pan +3", "1.png 4.png") in pan
    (stereo,) = stereo_cases(folder / "stereo")
    left, right = stereo.images()
    np.testing.assert_array_equal(left[:, 12:], right[:, :-12])
    for broken in (pair_cases, stereo_cases):
        with pytest.raises(DataError, match="named"):
            list(broken(folder / "photos"))
    with pytest.raises(DataError, match="too few for gaps of 9"):
        list(sequence_cases(folder / "pan", [9]))


def test_command_compares_methods_and_shift_is_seen(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["suite", "plain:sift", ORB, "--photos", folder / "photos", "--every", "2", "--difficulty", "0.2"]
    arguments += ["--pairs", folder / "pairs", "--sequence", folder / "pan", "--gap", "1", "--gap", "2"]
    arguments += ["--stereo", folder / "stereo", "--output", output, "--device", "cpu", "--max-keypoints", "500"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    summary = json.loads((output / "summary.json").read_text())
    assert summary["settings"]["cases"] == 2 + 4 + 7 + 1
    for method in ("plain:sift", ORB):
        found = summary["methods"][method]
        assert list(found) == ["homography 0.2", "pairs", "unrelated", "pan +1", "pan +2", "stereo"]
        assert found["homography 0.2"]["precision"] > 0.5
        assert found["pan +1"]["precision"] > 0.9 > found["unrelated"]["held_out"] + 0.5
        assert found["stereo"]["precision"] > 0.9
        assert found["stereo"]["dy"] < 0.5
        for figures in found.values():
            assert 0 <= figures["correct"] <= figures["matches"] <= 510
    markdown = (output / "summary.md").read_text()
    assert markdown.count("| plain:sift |") == markdown.count(f"| {ORB} |") == 6
    assert len(list(csv.DictReader((output / "summary.csv").open()))) == 12
    assert len(list(csv.DictReader((output / "plain_sift.pairs.csv").open()))) == 14


def test_nothing_to_evaluate_on(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["suite", "plain:sift", "--output", str(tmp_path)])
    assert isinstance(result.exception, DataError)
    assert "--photos" in str(result.exception)


def test_means_count_pairs_without_matches(folder: Path) -> None:
    cases = list(photo_cases(held_out_photos(folder / "photos", every=1), difficulties=[0.1]))

    def only_the_first(image0: np.ndarray, image1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return orb(image0, image1) if image0.shape[:2] == (251, 401) else (np.empty((0, 2)), np.empty((0, 2)))

    rows = list(run_cases(cases, only_the_first))
    summary = summarise_suite(rows)["homography 0.1"]
    assert summary["pairs"] == 3
    assert summary["precision"] == pytest.approx(float(rows[2]["precision"]) / 3)
    assert summary["corner AUC@5px"] <= 1 / 3


def test_images_that_cannot_be_read_are_left_out_and_named(folder: Path, tmp_path: Path, caplog) -> None:
    (tmp_path / "cut.png").write_bytes(next((folder / "photos").iterdir()).read_bytes()[:300])
    cases = [*photo_cases([tmp_path / "cut.png"]), *photo_cases(held_out_photos(folder / "photos", every=1)[:1])]
    rows = list(run_cases(cases, orb))
    assert 0 < len(rows) == len(cases) // 2
    assert "left out, for all methods" in caplog.text and "cut.png" in caplog.text


def test_orb_finds_a_shift_and_survives_a_blank_image(textured_image: np.ndarray) -> None:
    points0, points1 = match_function(ORB, max_keypoints=300)(
        textured_image[:400, :500], textured_image[20:420, 10:510]
    )
    assert 100 < len(points0) <= 310
    assert np.median(np.abs(points0 - points1 - (10, 20)).max(axis=1)) < 1
    blank = np.zeros((60, 80, 3), np.uint8)
    assert [p.shape for p in orb(blank, textured_image)] == [(0, 2), (0, 2)]


def test_extractors_with_a_threshold_fill_the_budget(shared: Path, textured_image: np.ndarray) -> None:
    options = {"max_keypoints": 4000, "weights": shared / "weights", "device": "cpu"}
    crop = np.ascontiguousarray(textured_image[:256, :256])
    few, many = (
        load_matcher("plain:xfeat", full_budget=full, **options).extract(crop).counts.item() for full in (False, True)
    )
    assert many > few
