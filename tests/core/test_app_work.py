"""What the page does, without a browser: pictures and sentences for whatever is dropped on it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.app.work import MAX_SIDE, Choice, Desk, picture_of
from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.io.video import VideoWriter


@pytest.fixture
def pair(tmp_path: Path, textured_image: np.ndarray) -> tuple[Path, Path]:
    paths = tmp_path / "first.png", tmp_path / "second.jpg"
    write_image(paths[0], textured_image[100:300, 150:410])
    write_image(paths[1], textured_image[110:310, 130:390])
    return paths


@pytest.fixture
def desk() -> Desk:
    return Desk("cpu", max_frames=3)


FEW = Choice(keypoints=256, geometry="homography")


def test_variants_side_by_side_and_features_are_kept(desk: Desk, pair: tuple[Path, Path]) -> None:
    outcomes = desk.match(*pair, ["plain:sift", "compact"], FEW)
    assert [o.variant for o in outcomes] == ["plain:sift", "compact"]
    for outcome in outcomes:
        assert outcome.picture is not None and outcome.picture.shape[1] > 2 * outcome.picture.shape[0]
        assert "inliers of a homography" in outcome.text and "ms, matching" in outcome.text
    # Thresholds are moved without extracting anew.
    times = outcomes[0].text.partition("Extracting ")[2].partition(" ms")[0]
    fewer = desk.match(*pair, ["plain:sift"], Choice(keypoints=256, least=0.97))[0]
    assert f"Extracting {times} ms" in fewer.text
    assert int(fewer.text.split()[1]) < int(outcomes[0].text.split()[1])


@pytest.mark.parametrize("view", ["arrows", "warp", "epipolar", "semantics", "point"])
def test_every_view(desk: Desk, pair: tuple[Path, Path], view: str) -> None:
    (outcome,) = desk.match(*pair, ["compact"], Choice(view, keypoints=256, point=(130, 100)))
    assert outcome.picture is not None and outcome.picture.std() > 10, outcome.text


def test_what_cannot_be_shown_is_said(desk: Desk, pair: tuple[Path, Path], tmp_path: Path) -> None:
    def said(variant: str, choice: Choice) -> str:
        (outcome,) = desk.match(*pair, [variant], choice)
        assert outcome.picture is None
        return outcome.text

    assert "a plain matcher has no semantic map" in said("plain:sift", Choice("semantics", keypoints=64))
    assert "click a point" in said("plain:sift", Choice("point", keypoints=64))
    assert "no homography fits" in said("plain:sift", Choice("warp", least=1.1, keypoints=64))
    assert "xfaet" in said("plain:xfaet", Choice())
    (tmp_path / "text.png").write_text("no picture at all")
    with pytest.raises(ImageError, match=r"text\.png"):
        desk.match(pair[0], tmp_path / "text.png", ["plain:sift"], FEW)
    with pytest.raises(ImageError, match=r"notes\.txt is no image file"):
        desk.match(pair[0], tmp_path / "notes.txt", ["plain:sift"], FEW)
    for variants in ([], ["plain:sift"] * 4):
        with pytest.raises(ConfigError, match="choose 1 to 3 variants"):
            desk.match(*pair, variants, FEW)


def test_large_images_are_made_smaller(tmp_path: Path) -> None:
    write_image(tmp_path / "large.png", np.zeros((10, 4 * MAX_SIDE, 3), np.uint8))
    assert picture_of(tmp_path / "large.png").shape == (2, MAX_SIDE, 3)


def test_a_video_becomes_a_report(desk: Desk, tmp_path: Path, textured_image: np.ndarray) -> None:
    with VideoWriter(tmp_path / "video.mp4", 10) as writer:
        for i in range(6):
            writer.write(np.ascontiguousarray(textured_image[100 : 300 + 0, 100 + 4 * i : 360 + 4 * i]))
    (tmp_path / "out").mkdir()
    page, text = desk.report(tmp_path / "video.mp4", "plain:sift", FEW, tmp_path / "out")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert text.startswith("plain:sift: 3 frames, 2 pairs") and "The first 3 frames only" in text
    with pytest.raises(ConfigError, match="neither a video nor a bag"):
        desk.report(tmp_path / "notes.txt", "plain:sift", FEW, tmp_path / "out")


def test_without_gradio_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from semantic_matcher_core.cli import main

    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_OFFLINE", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app", "--port", "0"]) == 1
    assert "pip install gradio" in capsys.readouterr().err
    assert main(["app", "--variant", "compatc"]) != 0
    assert "compatc" in capsys.readouterr().err
