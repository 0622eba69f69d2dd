"""Registration of videos whose deformation is known."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError, ImageError, OutputError, RegistrationError
from semantic_matcher_core.io.video import VideoFrame, VideoWriter, read_video, video_info
from semantic_matcher_core.registration import (
    OneEuroFilter,
    RegistrationConfig,
    Template,
    register_frames,
    register_video,
)
from semantic_matcher_core.registration.figures import CSV_COLUMNS
from tests.core.bent_surfaces import ground_truth, known_bend, render

SIZE = (240, 320)


@pytest.fixture(scope="module")
def sift() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=800)


@pytest.fixture(scope="module")
def sheet(textured: Callable[..., np.ndarray]) -> np.ndarray:
    return textured(*SIZE, seed=3)


@pytest.fixture(scope="module")
def pictures(sheet: np.ndarray) -> list[np.ndarray]:
    """The sheet flat, bent, hidden, and bent another way."""
    hidden = np.full((*SIZE, 3), 90, np.uint8)
    return [sheet, render(sheet, known_bend(SIZE, 10.0, 1)), hidden, render(sheet, known_bend(SIZE, 10.0, 2))]


def write_video(path: Path, pictures: list[np.ndarray], fps: float = 10.0) -> Path:
    with VideoWriter(path, fps) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


def frames(pictures: list[np.ndarray]) -> list[VideoFrame]:
    return [VideoFrame(i, i * 100_000_000, picture) for i, picture in enumerate(pictures)]


def test_each_frame_is_registered_onto_the_first(sift: SemanticMatcher, pictures: list[np.ndarray]) -> None:
    results = list(register_frames(sift, frames(pictures)))
    assert [r.is_template for r in results] == [True, False, False, False]
    assert [r.fit is not None for r in results] == [True, True, False, True]
    assert "matches agree" in results[2].problem
    for seed, result in ((1, results[1]), (2, results[3])):
        assert result.fit is not None and result.agreement is not None
        flat, bent = ground_truth(known_bend(SIZE, 10.0, seed), SIZE)
        assert float((result.fit.spline(flat) - bent).norm(dim=1).median()) < 1.5
        assert result.agreement.correlation > 0.93
    empty = results[2].figures()
    assert not empty.registered and math.isnan(empty.error)


def test_the_first_frame_is_registered_in_its_own_pixels(sift: SemanticMatcher, sheet: np.ndarray) -> None:
    """Also where its features are taken at a smaller size."""
    for result in register_frames(sift, frames([sheet, sheet]), config=RegistrationConfig(max_side=250)):
        assert result.fit is not None and result.agreement is not None
        assert result.agreement.error < 1 and result.features.image_size == SIZE
        moved = result.matches.keypoints0 - result.matches.keypoints1
        assert float(moved.norm(dim=1).median()) < 0.5


def test_a_file_becomes_a_video_and_figures(sift: SemanticMatcher, pictures: list[np.ndarray], tmp_path: Path) -> None:
    video = write_video(tmp_path / "in.avi", pictures)
    done: list[int] = []
    summary = register_video(
        sift, video, tmp_path / "out.mp4", csv_path=tmp_path / "out.csv", height=120, progress=done.append
    )
    assert done == [1, 2, 3, 4]
    assert (summary.frames, summary.registered) == (3, 2)
    assert summary.factor > 2 and summary.correlation > 0.9 and summary.inliers > 100
    assert summary.factor == pytest.approx(summary.error_before / summary.error)
    info = video_info(tmp_path / "out.mp4")
    assert info.frame_count == 4 and info.fps == pytest.approx(10)
    shown = [frame.image for frame in read_video(tmp_path / "out.mp4")]
    assert shown[0].shape[1] > 2 * 150 and shown[0].shape[0] > 2 * 120
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["registered"] for row in rows] == ["1", "1", "0", "1"]
    assert rows[2]["error"] == rows[2]["inliers"] == "" and float(rows[0]["error"]) < 1
    assert float(rows[3]["error"]) < 0.5 * float(rows[3]["error_before"])
    assert [float(row["stamp_s"]) for row in rows] == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-3)
    assert summary.error == pytest.approx(np.mean([float(rows[i]["error"]) for i in (1, 3)]), rel=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.avi", "out.csv", "out.mp4"]


def test_a_given_template_smoothing_and_every_other_frame(
    sift: SemanticMatcher, sheet: np.ndarray, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    video = write_video(tmp_path / "in.avi", [pictures[1], pictures[2]] * 3)
    template = Template.from_image(sift, sheet)
    summary = register_video(
        sift, video, tmp_path / "out.avi", template=template, smoothing=OneEuroFilter(), every=2, height=64
    )
    assert (summary.frames, summary.registered) == (3, 3)
    assert summary.factor > 2
    info = video_info(tmp_path / "out.avi")
    assert info.frame_count == 3 and info.fps == pytest.approx(5)


def test_a_smoothed_map_trembles_less(sift: SemanticMatcher, sheet: np.ndarray) -> None:
    random = np.random.default_rng(0)
    bent = render(sheet, known_bend(SIZE, 8.0, 1)).astype(np.float32)
    noisy = [np.clip(bent + random.normal(0, 12, bent.shape), 0, 255).astype(np.uint8) for _ in range(8)]
    tremble = []
    for smoothing in (None, OneEuroFilter()):
        results = list(register_frames(sift, frames([sheet, *noisy]), smoothing=smoothing))
        lattices = np.stack([r.lattice for r in results[2:] if r.lattice is not None])
        assert len(lattices) == 7
        tremble.append(float(np.median(np.abs(np.diff(lattices, axis=0)))))
    assert tremble[1] < 0.7 * tremble[0]


def test_nothing_is_written_when_no_frame_shows_the_template(
    sift: SemanticMatcher, sheet: np.ndarray, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    video = write_video(tmp_path / "in.avi", [sheet, pictures[2], pictures[2]])
    with pytest.raises(RegistrationError, match=r"none of 2 frames of .*in\.avi could be registered"):
        register_video(sift, video, tmp_path / "out.mp4", csv_path=tmp_path / "out.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["in.avi"]


def test_bad_videos_and_outputs_are_refused(sift: SemanticMatcher, pictures: list[np.ndarray], tmp_path: Path) -> None:
    video = write_video(tmp_path / "in.avi", pictures)
    blank = write_video(tmp_path / "blank.avi", [pictures[2]] * 2)
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(ImageError, match=r"empty\.mp4 is empty"):
        register_video(sift, tmp_path / "empty.mp4", tmp_path / "out.mp4")
    with pytest.raises(RegistrationError, match="keypoints in the template"):
        register_video(sift, blank, tmp_path / "out.mp4")
    with pytest.raises(OutputError, match="unknown video suffix"):
        register_video(sift, video, tmp_path / "out.gif")
    with pytest.raises(OutputError, match="does not exist"):
        register_video(sift, video, tmp_path / "out.mp4", csv_path=tmp_path / "missing" / "out.csv")
    with pytest.raises(ConfigError, match="every"):
        register_video(sift, video, tmp_path / "out.mp4", every=0)
    assert not (tmp_path / "out.mp4").exists()


def test_the_recorded_video_registers(shared: Path, tmp_path: Path) -> None:
    dalf = SemanticMatcher.from_pretrained("plain:dalf", device="cpu", weights=shared / "weights")
    summary = register_video(
        dalf, shared / "data" / "video" / "deform_bag.mp4", tmp_path / "out.mp4", every=56, height=64
    )
    assert summary.registered == summary.frames == 4
    assert summary.factor > 1.5 and summary.correlation > 0.7
