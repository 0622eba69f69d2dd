"""Image files as sources: time stamps in names, names in any encoding, turned photographs, cut videos, cameras."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_matcher_core.cli import main
from semantic_matcher_core.cli.inputs import collect_images
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.exif import to_stored, upright
from semantic_matcher_core.io.features_file import FeaturesReader
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.io.names import readable
from semantic_matcher_core.io.video import VideoWriter, read_video
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.run import run
from semantic_matcher_core.offline.sources import FilesSource, VideoSource, stamps_in_names
from semantic_matcher_core.pipeline import SemanticMatcher
from tests.core.recordings import view
from tests.core.test_io_exif import jpeg_with_exif

LATIN_1 = os.fsdecode(b"caf\xe9")


@pytest.fixture(scope="module")
def matcher() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=200)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["1311868169.163498", "1311868169.263274"], [1311868169163498000, 1311868169263274000]),
        (["1403636579763555584", "1403636579813555584"], [1403636579763555584, 1403636579813555584]),
        (["1403636579763555", "1403636579813555"], [1403636579763555000, 1403636579813555000]),
        (["1403636579763", "1403636579813.5"], [1403636579763000000, 1403636579813500000]),
        (["0", "1", "2.5"], [0, 10**9, 25 * 10**8]),
        # A clock that begins with the recording: the largest number says the unit for all.
        (["0000000000000000000", "1403636579763555584"], [0, 1403636579763555584]),
    ],
)
def test_stamps_in_names(names: list[str], expected: list[int]) -> None:
    paths = [Path(f"{name}.png") for name in names]
    assert list(stamps_in_names(paths).values()) == expected


@pytest.mark.parametrize(
    "name", ["²", "1²", "٣", "a", "", "1.2.3", "-5", "1e9", "1_000", "9" * 19, "9" * 60, "1.", ".5"]
)
def test_other_names_are_one_sentence(name: str) -> None:
    path = Path("folder") / f"{name}.png"
    if path.stem in ("1.",):
        return
    with pytest.raises(ConfigError, match="time stamp"):
        stamps_in_names([path])


def test_a_pattern_of_any_suffix_is_taken_at_its_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jp2", "b.jp2", "c.png"):
        (tmp_path / name).touch()
    assert [key for key, _ in collect_images([str(tmp_path / "*.jp2")])] == ["a.jp2", "b.jp2"]
    assert "passed over" not in caplog.text
    assert [key for key, _ in collect_images([str(tmp_path / "*.*")])] == ["c.png"]
    assert "passed over" in caplog.text and "2 files of .jp2" in caplog.text


def test_stamps_end_after_68_years() -> None:
    frames = [(str(i), Path(f"{i}.png")) for i in range(8)]
    assert FilesSource([frames], fps=1e-8).total == 8
    with pytest.raises(ConfigError, match="8 images at 1e-09 a second take longer"):
        FilesSource([frames], fps=1e-9)


@given(st.lists(st.text(alphabet="0123456789.²٣ex-", min_size=1, max_size=25), min_size=1, max_size=3))
def test_any_name_is_a_stamp_or_a_sentence(names: list[str]) -> None:
    try:
        stamps = stamps_in_names([Path(f"x/{name}.png") for name in names])
    except ConfigError:
        return
    assert all(0 <= stamp < 2**31 * 10**9 for stamp in stamps.values())


def test_a_folder_named_by_nanoseconds(shared: Path, tmp_path: Path) -> None:
    folder = shared / "inputs" / "euroc_min"
    arguments = ["images", str(folder), "-o", str(tmp_path / "o.mcap"), "-v", "plain:sift", "--stamps-from-names"]
    assert main(arguments) == 0


# Names.


def write_frames(folder: Path, picture: np.ndarray, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        write_image(folder / f"{name}.png", view(picture, i))


def test_names_in_latin_1(tmp_path: Path, textured_image: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / LATIN_1
    try:
        write_frames(folder, textured_image, [f"{LATIN_1}1", f"{LATIN_1}2"])
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    assert readable(LATIN_1) == "café" and readable("naïve 日本") == "naïve 日本"
    options = ["-v", "plain:sift", "-k", "100"]
    assert main(["extract", str(folder), "-o", str(folder / "f.h5"), *options]) == 0
    with FeaturesReader(folder / "f.h5") as file:
        assert file.keys() == ["café1.png", "café2.png"]
    outputs = ["--hdf5", "--colmap"]
    assert main(["images", str(folder), "-o", str(folder / f"{LATIN_1}.mcap"), *outputs, *options]) == 0
    assert main(["report", str(folder / f"{LATIN_1}.mcap")]) == 0
    pair = [str(folder / f"{LATIN_1}{i}.png") for i in (1, 2)]
    assert main(["match", *pair, "-o", str(folder / "m.png"), "--json", *options]) == 0
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    write_frames(folder, textured_image, ["café1"])
    with pytest.raises(ConfigError, match=r"two images would both be called 'café1\.png'"):
        collect_images([str(folder)])


def test_a_video_called_in_latin_1(tmp_path: Path, textured_image: np.ndarray) -> None:
    with VideoWriter(tmp_path / "v.mp4", 10.0) as writer:
        for i in range(3):
            writer.write(view(textured_image, i))
    try:
        (tmp_path / "v.mp4").rename(tmp_path / f"{LATIN_1}.mp4")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    assert len(list(read_video(tmp_path / f"{LATIN_1}.mp4"))) == 3
    assert main(["video", str(tmp_path / f"{LATIN_1}.mp4"), "-o", str(tmp_path / "o.mcap"), "-v", "plain:sift"]) == 0


# Videos.


def test_a_cut_video_is_said(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole.avi"
    with VideoWriter(whole, 10.0) as writer:
        for i in range(10):
            writer.write(view(textured_image, i))
    problems: list[str] = []
    assert len(list(read_video(whole, report=problems.append))) == 10 and not problems
    data = whole.read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) * 6 // 10])
    frames = list(read_video(tmp_path / "cut.avi", report=problems.append))
    assert 3 <= len(frames) < 10 and f"states 10 frames, of which {len(frames)} can be read" in problems[0]
    progress = run(VideoSource([tmp_path / "cut.avi"]), matcher, tmp_path / "o.mcap", RunOptions())
    assert progress.problems == problems
    assert main(["video", str(tmp_path / "cut.avi"), "-o", str(tmp_path / "p.mcap"), "-v", "plain:sift"]) == 0
    captured = capsys.readouterr()
    assert "can be read" in captured.err and "the recording is not complete" in captured.out.splitlines()[-1]


def test_the_cut_video_of_another(shared: Path) -> None:
    problems: list[str] = []
    assert len(list(read_video(shared / "inputs" / "cut.webm", report=problems.append))) == 4
    assert "states 10 frames, of which 4 can be read" in problems[0]


# Turned photographs: what is written for other tools are pixels of the files as they are stored.


@pytest.fixture
def phone(tmp_path: Path, textured_image: np.ndarray) -> Path:
    """A folder of four photographs of a telephone that was held in four ways."""
    folder = tmp_path / "phone"
    folder.mkdir()
    for i, orientation in enumerate((1, 6, 3, 8)):
        looked_at = np.ascontiguousarray(textured_image[20 + 4 * i : 320 + 4 * i, 40 + 6 * i : 440 + 6 * i])
        stored = upright(looked_at, {6: 8, 8: 6}.get(orientation, orientation))
        (folder / f"{i}.jpg").write_bytes(jpeg_with_exif(stored, orientation, 26))
    return folder


def test_one_rule_of_orientation(phone: Path, tmp_path: Path, matcher: SemanticMatcher) -> None:
    options = ["-v", "plain:sift", "-k", "200"]
    assert main(["extract", str(phone), "-o", str(tmp_path / "e.h5"), *options]) == 0
    command = ["images", str(phone), "-o", str(tmp_path / "i.mcap"), "--hdf5", "--colmap", "--geometry", "homography"]
    assert main([*command, *options]) == 0
    database = sqlite3.connect(tmp_path / "i.colmap" / "database.db")
    keypoints = [
        np.frombuffer(d, np.float32).reshape(-1, 2) - 0.5 for (d,) in database.execute("SELECT data FROM keypoints")
    ]
    sizes = database.execute(
        "SELECT width, height FROM images JOIN cameras USING (camera_id) ORDER BY image_id"
    ).fetchall()
    with FeaturesReader(tmp_path / "e.h5") as extracted, FeaturesReader(tmp_path / "i.features.h5") as run_features:
        for i, orientation in enumerate((1, 6, 3, 8)):
            path = phone / f"{i}.jpg"
            as_stored = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            direct = matcher.extract(path)
            matrix = to_stored(orientation, direct.image_size)
            expected = direct.keypoints[0].numpy() @ matrix[:2, :2].T + matrix[:2, 2]
            for features in (extracted.read(f"{i}.jpg"), run_features.read(f"{i}.jpg")):
                assert features.image_size == as_stored.shape[:2]
                np.testing.assert_allclose(features.keypoints[0].numpy(), expected, atol=1e-3)
            np.testing.assert_allclose(keypoints[i], expected, atol=1e-3)
            assert sizes[i] == as_stored.shape[1::-1]
    # The matched points fit the models, both in pixels of the files.
    with h5py.File(tmp_path / "i.matches.h5") as file:
        for name0, name1 in (("0.jpg", "1.jpg"), ("1.jpg", "2.jpg"), ("2.jpg", "3.jpg"), ("0.jpg", "3.jpg")):
            group = file[f"{name0}/{name1}"]
            matches0, model = group["matches0"][:], group.attrs["model"]
            rows = np.flatnonzero((matches0 >= 0) & group["inliers0"][:].astype(bool))
            assert len(rows) > 30
            x0, x1 = keypoints[int(name0[0])][rows], keypoints[int(name1[0])][matches0[rows]]
            moved = np.hstack([x0, np.ones((len(rows), 1))]) @ model.T
            assert np.median(np.linalg.norm(moved[:, :2] / moved[:, 2:] - x1, axis=1)) < 1.0


def test_matches_are_written_for_the_stored_files(
    phone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    pair = [str(phone / "0.jpg"), str(phone / "1.jpg")]
    command = ["match", *pair, "--json", "--arrays", "-v", "plain:sift", "--npz", str(tmp_path / "m.npz")]
    assert main([*command, "--geometry", "homography"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(image["width"], image["height"]) for image in found["images"]] == [(400, 300), (300, 400)]
    points = np.array(found["keypoints1"])
    assert points[:, 0].max() < 300 and points[:, 1].max() > 300
    arrays = np.load(tmp_path / "m.npz")
    np.testing.assert_allclose(arrays["keypoints1"], points, atol=1e-4)
    moved = np.hstack([np.array(found["keypoints0"]), np.ones((len(points), 1))]) @ arrays["model"].T
    error = np.linalg.norm(moved[:, :2] / moved[:, 2:] - points, axis=1)[arrays["inlier"]]
    assert np.median(error) < 1.0


def test_focal_lengths_of_exif(phone: Path, tmp_path: Path) -> None:
    assert (
        main(["images", str(phone), "-o", str(tmp_path / "i.mcap"), "--colmap", "-v", "plain:sift", "-k", "100"]) == 0
    )
    database = sqlite3.connect(tmp_path / "i.colmap" / "database.db")
    for params, known in database.execute("SELECT params, prior_focal_length FROM cameras"):
        assert known == 1 and abs(np.frombuffer(params)[0] - 26 / 43.267 * 500) < 0.1


def test_a_camera_for_each_folder(tmp_path: Path, textured_image: np.ndarray) -> None:
    for camera in ("front", "rear"):
        write_frames(tmp_path / "rig" / camera, textured_image, ["0", "1"])
    folders = [str(tmp_path / "rig" / camera) for camera in ("front", "rear")]
    for mode in ("temporal", "stereo"):
        output = tmp_path / f"{mode}.mcap"
        assert main(["images", *folders, "-o", str(output), "--colmap", "-v", "plain:sift", "--mode", mode]) == 0
        with sqlite3.connect(tmp_path / f"{mode}.colmap" / "database.db") as database:
            found = dict(database.execute("SELECT name, camera_id FROM images"))
            assert set(found) == {"front/0.png", "front/1.png", "rear/0.png", "rear/1.png"}
            assert found["front/0.png"] == found["front/1.png"] != found["rear/0.png"] == found["rear/1.png"]


def test_a_folder_given_twice_keeps_names_apart(tmp_path: Path, textured_image: np.ndarray) -> None:
    write_frames(tmp_path / "in", textured_image, ["0"])
    files = [("0.png", tmp_path / "in" / "0.png")]
    assert [image.name for image in FilesSource([files, files]).images()] == ["left/0.png", "right/0.png"]
    shutil.rmtree(tmp_path / "in")
