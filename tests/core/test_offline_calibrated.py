"""Calibrated cameras offline: essential matrices, rectified stereo, points in space; COLMAP's intrinsics and pairs."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import h5py
import numpy as np
import pytest

from semantic_matcher_core.errors import ConfigError, ImageError, SemanticMatcherError
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.camera_file import read_camera_info
from semantic_matcher_core.io.colmap import Intrinsics
from semantic_matcher_core.matching.calibrated import verify_calibrated
from semantic_matcher_core.offline.exports import Exports
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.pair_choice import PairChoice, read_pairs
from semantic_matcher_core.offline.run import RunHooks, run
from semantic_matcher_core.offline.sources import BagSource
from semantic_matcher_core.pipeline import SemanticMatcher
from tests.core.recordings import (
    BASELINE,
    DISPARITY,
    FOCAL,
    SIZE,
    messages,
    view,
    write_camera_bag,
    write_rectified_bag,
)


@pytest.fixture(scope="module")
def matcher() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=300)


TOPICS = ["/left/image_rect", "/right/image_rect"]


def test_rectified_stereo(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    source = BagSource(write_rectified_bag(tmp_path / "in.mcap", textured_image), TOPICS)
    run(source, matcher, tmp_path / "out.mcap", RunOptions(mode="stereo", rectified=True, images="none"))
    matches = messages(tmp_path / "out.mcap", "/stereo_matcher/matches")
    for message in matches:
        xy0, xy1 = message.xy0.reshape(-1, 2), message.xy1.reshape(-1, 2)
        assert len(xy0) > 50 and np.abs(xy0[:, 1] - xy1[:, 1]).max() <= 2.0
    points = messages(tmp_path / "out.mcap", "/stereo_matcher/points")
    assert len(points) == 3
    for message in points:
        rows = np.frombuffer(message.data.tobytes(), np.float32).reshape(-1, 4)
        assert message.header.frame_id == "left_optical" and len(rows) == message.width > 40
        # The whole picture lies at one depth, and disparity is measured to a few hundredths of a pixel.
        assert abs(np.median(rows[:, 2]) / (FOCAL * BASELINE / DISPARITY) - 1) < 0.005
    free = RunOptions(mode="stereo", images="none")
    run(source, matcher, tmp_path / "free.mcap", free)
    loose = messages(tmp_path / "free.mcap", "/stereo_matcher/matches")
    assert any(len(a.index0) != len(b.index0) for a, b in zip(matches, loose, strict=True))
    with BagReader(tmp_path / "free.mcap") as bag:
        assert "/stereo_matcher/points" not in {topic.name for topic in bag.topics}


def test_without_calibration_points_are_missed_aloud(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    source = BagSource(write_rectified_bag(tmp_path / "in.mcap", textured_image, infos=False), TOPICS)
    notices: list[str] = []
    options = RunOptions(mode="stereo", rectified=True, images="none")
    run(source, matcher, tmp_path / "out.mcap", options, hooks=RunHooks(notice=notices.append))
    (notice,) = notices
    assert notice.startswith("warning: no points: there is no camera_info beside /left/image_rect, /right/image_rect")
    with pytest.raises(
        ConfigError, match="needs calibrated cameras, and there is no camera_info beside /left/image_rect"
    ):
        run(source, matcher, tmp_path / "e.mcap", RunOptions(mode="stereo", geometry="essential"))


@pytest.mark.parametrize("mode", ["temporal", "stereo"])
def test_essential(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray, mode: str) -> None:
    source = BagSource(
        write_rectified_bag(tmp_path / "in.mcap", textured_image), TOPICS[: 1 if mode == "temporal" else 2]
    )
    options = RunOptions(mode=mode, geometry="essential", geometry_threshold=1.5, images="none")
    run(source, matcher, tmp_path / "out.mcap", options)
    camera = Camera(np.array([[FOCAL, 0, SIZE[1] / 2], [0, FOCAL, SIZE[0] / 2], [0, 0, 1]]))
    other = view(textured_image, 1) if mode == "temporal" else view(textured_image, 0, DISPARITY)
    direct = verify_calibrated(matcher.match_images(view(textured_image, 0), other), camera, camera, threshold_px=1.5)
    message = messages(tmp_path / "out.mcap", f"/{mode}_matcher/matches")[0]
    assert message.model_type == "essential" and direct.model is not None and direct.inlier is not None
    np.testing.assert_array_equal(message.inlier.astype(bool), direct.inlier.numpy())
    np.testing.assert_array_equal(message.model.reshape(3, 3), direct.model.numpy())


def test_a_calibration_of_another_size_is_named(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    source = BagSource(write_rectified_bag(tmp_path / "in.mcap", textured_image, size=(240, 320)), TOPICS[:1])
    notices: list[str] = []
    with pytest.raises(ImageError, match="gave no usable image: 3 unreadable"):
        run(
            source,
            matcher,
            tmp_path / "out.mcap",
            RunOptions(geometry="essential"),
            hooks=RunHooks(notice=notices.append),
        )
    assert "the calibration of /left/image_rect describes images of 320 x 240, but they are 160 x 120" in notices[0]


CALIBRATION = """
image_width: 160
image_height: 120
camera_name: left
camera_matrix: {rows: 3, cols: 3, data: [200, 0, 80, 0, 200, 60, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.1, 0.01, 0.001, 0.002, 0]}
projection_matrix: {rows: 3, cols: 4, data: [190, 0, 81, 0, 0, 190, 61, 0, 0, 0, 1, 0]}
"""


def test_calibration_files(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    file = tmp_path / "left.yaml"
    file.write_text(CALIBRATION)
    info = read_camera_info(file)
    assert (info.height, info.width) == SIZE and info.k[0] == 200 and info.p[0] == 190 and info.d[0] == -0.1
    source = BagSource(write_rectified_bag(tmp_path / "in.mcap", textured_image, infos=False), TOPICS[:1])
    exports = Exports(colmap=tmp_path / "colmap")
    run(source, matcher, tmp_path / "o.mcap", RunOptions(geometry="essential"), calibration=(file,), exports=exports)
    assert messages(tmp_path / "o.mcap", "/temporal_matcher/matches")[0].model_type == "essential"
    with sqlite3.connect(tmp_path / "colmap" / "database.db") as database:
        ((model, params, known),) = database.execute("SELECT model, params, prior_focal_length FROM cameras")
        assert (model, known) == (4, 1)
        np.testing.assert_allclose(np.frombuffer(params), [200, 200, 80.5, 60.5, -0.1, 0.01, 0.001, 0.002])
    file.write_text(
        "camera_model: pinhole\nintrinsics: [200, 200, 80, 60]\nresolution: [160, 120]\n"
        "distortion_model: radial-tangential\ndistortion_coefficients: [-0.1, 0.01, 0.001, 0.002]\n"
    )
    run(source, matcher, tmp_path / "k.mcap", RunOptions(geometry="essential"), calibration=(file,))
    np.testing.assert_array_equal(
        *(messages(tmp_path / name, "/temporal_matcher/matches")[0].model for name in ("o.mcap", "k.mcap"))
    )
    for absent in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(SemanticMatcherError, match=r"(no such|cannot read) calibration"):
            run(source, matcher, tmp_path / "q.mcap", RunOptions(), calibration=(absent,))
    with pytest.raises(ConfigError, match="2 calibration files for the streams /left/image_rect"):
        run(source, matcher, tmp_path / "p.mcap", RunOptions(), calibration=(file, file))
    for content in ("", "a: 1", "- 1", ": : :", CALIBRATION.replace("200, 0, 80", "200, 0"), "\0"):
        file.write_text(content)
        with pytest.raises(ConfigError, match="is no calibration file"):
            read_camera_info(file)
    with pytest.raises(SemanticMatcherError, match="no such calibration file"):
        read_camera_info(tmp_path / "absent.yaml")


def test_one_chain_is_of_both_cameras(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    source = BagSource(write_rectified_bag(tmp_path / "in.mcap", textured_image, infos=False), TOPICS)
    camera = "  camera_model: pinhole\n  intrinsics: [{f}, {f}, 80, 60]\n  resolution: [160, 120]\n"
    chain = tmp_path / "chain.yaml"
    chain.write_text("".join(f"{name}:\n{camera.format(f=f)}" for name, f in (("cam0", 200), ("cam1", 210))))
    options = RunOptions(mode="stereo", geometry="essential", images="none")
    run(source, matcher, tmp_path / "o.mcap", options, calibration=(chain,))
    first = matcher.match_images(view(textured_image, 0), view(textured_image, 0, DISPARITY))
    cameras = [Camera(np.array([[f, 0, 80], [0, f, 60], [0, 0, 1.0]])) for f in (200, 210)]
    expected = verify_calibrated(first, *cameras)
    assert expected.model is not None
    message = messages(tmp_path / "o.mcap", "/stereo_matcher/matches")[0]
    np.testing.assert_array_equal(message.model.reshape(3, 3), expected.model.numpy())
    with pytest.raises(ConfigError, match="camera '' is not one of cam0, cam1"):
        run(
            BagSource(tmp_path / "in.mcap", TOPICS[:1]),
            matcher,
            tmp_path / "p.mcap",
            RunOptions(),
            calibration=(chain,),
        )


def test_cameras_as_colmap_has_them() -> None:
    k = np.array([[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])
    pinhole = (500.0, 510.0, 320.0, 240.0)
    assert Intrinsics.of_camera(Camera(k)) == Intrinsics("PINHOLE", pinhole)
    fisheye = Camera(k, "equidistant", np.array([0.1, 0.2, 0.3, 0.4]))
    assert Intrinsics.of_camera(fisheye) == Intrinsics("OPENCV_FISHEYE", (*pinhole, 0.1, 0.2, 0.3, 0.4))
    bob = Camera(k, "plumb_bob", np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert Intrinsics.of_camera(bob) == Intrinsics("FULL_OPENCV", (*pinhole, 0.1, 0.2, 0.3, 0.4, 0.5, 0, 0, 0))
    assert Intrinsics.guessed((640, 480)) == Intrinsics("SIMPLE_RADIAL", (768.0, 320.0, 240.0, 0.0), known=False)
    for model, params in (("PINHOLE", (1.0,)), ("LENS", (1.0,)), ("SIMPLE_PINHOLE", (0.0, 1.0, 1.0))):
        with pytest.raises(ConfigError):
            Intrinsics(model, params)


# Pairs of the exports.


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (PairChoice(), {(0, 1), (1, 2), (2, 3), (3, 4)}),
        (PairChoice("exhaustive"), {(i, j) for j in range(5) for i in range(j)}),
        (PairChoice("window", 2), {(i, j) for j in range(5) for i in range(max(0, j - 2), j)}),
        (
            PairChoice("list", listed=frozenset({("camera/image/000003.jpg", "camera/image/000000.jpg"), ("a", "b")})),
            {(0, 1), (1, 2), (2, 3), (3, 4), (0, 3)},
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, PairChoice) else "",
)
def test_pairs(
    tmp_path: Path,
    matcher: SemanticMatcher,
    textured_image: np.ndarray,
    choice: PairChoice,
    expected: set[tuple[int, int]],
) -> None:
    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 5))
    exports = Exports(matches=tmp_path / "m.h5", colmap=tmp_path / "colmap", pairs=choice)
    notices: list[str] = []
    run(
        source, matcher, tmp_path / "o.mcap", RunOptions(images="none"), exports=exports,
        hooks=RunHooks(notice=notices.append),
    )  # fmt: skip
    with sqlite3.connect(tmp_path / "colmap" / "database.db") as database:
        matched, verified = (
            {
                tuple(n - 1 for n in divmod(pair, 2147483647))
                for (pair,) in database.execute(f"SELECT pair_id FROM {table}")
            }
            for table in ("matches", "two_view_geometries")
        )
    # Of some pairs too little is seen by both.
    assert matched == expected and verified <= expected and {(0, 1), (1, 2)} <= verified
    with h5py.File(tmp_path / "m.h5") as file:
        found = {(int(a[-10:-4]), int(b[-10:-4])) for a in file for b in file[a]}
    assert found == expected
    wanted = ["warning: the list of pairs names images that are not here: a, b"] if choice.kind == "list" else []
    assert notices == wanted
    direct = matcher.match_images(view(textured_image, 0), view(textured_image, 1))
    with h5py.File(tmp_path / "m.h5") as file:
        first = file["camera-image-000000.jpg/camera-image-000001.jpg/matches0"][:]
    assert (first >= 0).sum() == len(direct)


def test_lists_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("# pairs\na.jpg b.jpg\n\nwith space.jpg\tb.jpg\n")
    assert read_pairs(path) == {("a.jpg", "b.jpg"), ("with space.jpg", "b.jpg")}
    for content, what in (("a\n", "line 1"), ("a b\na b c\n", "line 2"), ("a a\n", "line 1"), ("\n", "lists no pair")):
        path.write_text(content)
        with pytest.raises(ConfigError, match=what):
            read_pairs(path)
    with pytest.raises(ConfigError, match="no such list of pairs file"):
        read_pairs(tmp_path / "absent.txt")
    # One that nobody writes into: reading it would wait for that.
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ConfigError, match=r"cannot read list of pairs .*pipe\.txt: it is a named pipe"):
        read_pairs(tmp_path / "pipe.txt")


def test_what_a_reconstruction_wants() -> None:
    assert PairChoice.for_colmap(100) == PairChoice("exhaustive") and PairChoice.for_colmap(101).kind == "window"
    assert PairChoice.for_colmap(None, 7) == PairChoice("window", 7)
    for kind, window in (("some", 1), ("window", 0)):
        with pytest.raises(ConfigError):
            PairChoice(kind, window)
