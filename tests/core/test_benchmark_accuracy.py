"""The accuracy benchmark on pictures whose geometry the test makes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import accuracy
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.types import Matches
from training.evaluation.consistency import chain_share, held_out_share, pair_figures, rectified_figures
from training.evaluation.layouts import find_pairs, find_sequences, find_stereo


def matches(points0: np.ndarray, points1: np.ndarray) -> Matches:
    count = len(points0)
    return Matches(
        torch.arange(count)[:, None].expand(-1, 2),
        torch.as_tensor(points0, dtype=torch.float32),
        torch.as_tensor(points1, dtype=torch.float32),
        torch.ones(count),
    )


def scene(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points in space seen by two cameras, pixels."""
    random = np.random.default_rng(seed)
    points = random.uniform((-2, -1.5, 4), (2, 1.5, 9), (count, 3))
    angle = 0.1
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    views = [points, points @ turn.T + (0.5, 0.1, 0.2)]
    return tuple(500 * view[:, :2] / view[:, 2:] + (320, 240) for view in views)


def test_rigid_scene_is_explained_and_random_matches_are_not():
    good = pair_figures(matches(*scene(200)))
    assert good["matches"] == good["epipolar"] == 200
    assert good["held_out"] > 0.99
    assert good["homography"] < 100  # it is no plane
    random = np.random.default_rng(1)
    chance = pair_figures(matches(random.uniform(0, 480, (200, 2)), random.uniform(0, 480, (200, 2))))
    assert 8 <= chance["epipolar"] < 60
    assert chance["held_out"] < 0.1


def test_half_wrong_matches_halve_the_held_out_share():
    first, second = scene(300)
    second[::2] = np.random.default_rng(2).uniform(0, 480, (150, 2))
    assert held_out_share(matches(first, second)) == pytest.approx(0.5, abs=0.06)


def test_plane():
    random = np.random.default_rng(3)
    points = random.uniform(0, 480, (100, 2))
    homography = np.array([[1.1, 0.05, 3], [-0.04, 0.95, 8], [1e-4, 2e-4, 1]])
    mapped = cv2.perspectiveTransform(points[None], homography)[0]
    assert pair_figures(matches(points, mapped))["homography"] == 100


@pytest.mark.parametrize("count", [0, 1, 15])
def test_few_matches(count):
    figures = pair_figures(matches(*(points[:count] for points in scene(20))))
    assert figures["matches"] == count
    assert figures["held_out"] == 0
    assert rectified_figures(matches(np.zeros((0, 2)), np.zeros((0, 2))))["correct"] == 0


def test_rectified():
    left = np.array([[100.0, 50], [100, 60], [100, 70], [100, 80]])
    right = np.array([[90.0, 50.5], [90, 63], [110, 70], [100, 80]])
    assert rectified_figures(matches(left, right)) == {"matches": 4.0, "on_row": 0.75, "correct": 0.5, "dy": 0.0}


def test_chain():
    def by_index(indices, ends):
        rows = torch.tensor(indices)
        return Matches(rows, torch.zeros(len(rows), 2), torch.tensor(ends), torch.ones(len(rows)))

    first = by_index([[0, 5], [1, 6], [2, 7]], [[0.0, 0]] * 3)
    second = by_index([[5, 1], [6, 2], [9, 3]], [[10.0, 10], [20, 20], [30, 30]])
    direct = by_index([[0, 1], [1, 8], [2, 3]], [[11.0, 10], [25, 20], [30, 30]])
    assert chain_share(first, second, direct) == 0.5
    assert chain_share(first, by_index([[9, 3]], [[0.0, 0]]), direct) is None


@pytest.fixture
def data(tmp_path: Path, textured) -> Path:
    """A shifted stereo pair, a sequence that pans, and two pairs: one a homography apart, one a shift."""
    picture = textured(300, 500, 1)
    height, width = 240, 320
    homography = np.array([[1.02, 0.03, -6], [-0.03, 1.02, 5], [5e-5, 0, 1]])
    warped = cv2.warpPerspective(picture, homography, (500, 300))
    other = textured(300, 500, 2)
    images = {
        "pairs/print_ref.png": picture[:height, :width],
        "pairs/print_tgt.png": warped[:height, :width],
        "pairs/room1.png": other[:height, :width],
        "pairs/room2.png": other[10 : 10 + height, 20 : 20 + width],
        "pairs/alone.png": other[:height, :width],
        "stereo/left.png": picture[:height, :width],
        "stereo/right.png": picture[:height, 12 : 12 + width],
        **{f"sequences/pan/{i}.png": picture[i : i + height, 3 * i : 3 * i + width] for i in range(4)},
    }
    for name, image in images.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.ascontiguousarray(image))
    return tmp_path / "data"


def test_pairs_are_found_once(data, tmp_path):
    pairs = find_pairs(data / "pairs")
    assert {name: tuple(p.name for p in paths) for name, paths in pairs.items()} == {
        "print": ("print_ref.png", "print_tgt.png"),
        "room": ("room1.png", "room2.png"),
    }
    numbered = tmp_path / "numbered"
    numbered.mkdir()
    for name in ("a_1.png", "a_2.png", "b1.png"):
        write_image(numbered / name, np.zeros((4, 4, 3), np.uint8))
    assert list(find_pairs(numbered)) == ["a"]
    assert find_pairs(tmp_path / "nowhere") == {}
    assert find_stereo(tmp_path / "nowhere") is None
    assert find_sequences(tmp_path / "nowhere") == {}


def test_table_and_json(data, tmp_path, capsys):
    report = tmp_path / "report.json"
    arguments = ["--data", str(data), "--methods", "plain:sift", "--keypoints", "400", "--gaps", "1", "9"]
    assert accuracy.main([*arguments, "--device", "cpu", "--json", str(report)]) == 0
    table = capsys.readouterr().out
    for title in ("pair print", "pair room", "unrelated pictures", "rectified stereo pair", "sequence pan +1"):
        assert f"### {title}" in table
    assert "| plain:sift |" in table
    for column in ("keypoints", "mutual matches", "inliers: homography ≤ 3 px", "inliers: epipolar ≤ 1 px"):
        assert f"| {column} |" in table
    figures = json.loads(report.read_text())["methods"]["plain:sift"]
    assert figures["pairs"]["print"]["homography"] > 0.7 * figures["pairs"]["print"]["matches"] > 100
    assert figures["stereo"]["correct"] > 0.9
    assert list(figures["sequences"]) == ["pan +1"]
    assert figures["sequences"]["pan +1"]["chained"] > 0.9
    assert figures["unrelated"]["homography"] < 0.2 * figures["pairs"]["print"]["homography"]


def test_without_weights(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", "")
    monkeypatch.setattr(accuracy, "list_extractors", lambda: ["superpoint"])
    # The variant that comes with the package always has its weights.
    monkeypatch.setattr(accuracy, "list_variants", lambda *_: [])
    assert accuracy.main(["--data", str(data)]) == 1
    assert "no method's weights are here" in capsys.readouterr().err
    assert accuracy.main(["--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder with any of pairs, sequences, stereo" in capsys.readouterr().err


def test_bare_it_finds_the_shared_pictures_and_every_method(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", "")
    monkeypatch.setenv("SEMANTIC_MATCHER_SHARED", str(data.parent))
    assert accuracy.main(["--keypoints", "200", "--frames", "2", "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    # With and without its context, and the one that needs no weights.
    for method in ("compact", "plain:compact", "plain:sift"):
        assert f"\n| {method} |" in table
    absent = next(line for line in table.splitlines() if line.startswith("Without weights here"))
    assert "plain:xfeat" in absent and "plain:dedode-G" in absent
    monkeypatch.setenv("SEMANTIC_MATCHER_SHARED", str(tmp_path / "nothing"))
    assert accuracy.main([]) == 2
    assert "SEMANTIC_MATCHER_SHARED" in capsys.readouterr().err
