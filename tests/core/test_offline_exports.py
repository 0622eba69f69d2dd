"""Results as HDF5 and as a COLMAP project: the same numbers as in the MCAP file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import h5py
import numpy as np
import pytest

from semantic_matcher_core.errors import OutputError
from semantic_matcher_core.io.features_file import FeaturesReader
from semantic_matcher_core.io.images import read_image, write_image
from semantic_matcher_core.io.matches_file import MatchesWriter, pair_key
from semantic_matcher_core.offline.exports import Exports
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.run import run
from semantic_matcher_core.offline.sources import BagSource, FilesSource
from semantic_matcher_core.pipeline import SemanticMatcher
from tests.core.recordings import messages, topics, view, write_camera_bag


@pytest.fixture(scope="module")
def matcher() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=150)


@pytest.mark.parametrize("geometry", [None, "homography", "fundamental"])
def test_hdf5_and_colmap_of_a_bag(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray, geometry: str | None
) -> None:
    bag = write_camera_bag(tmp_path / "in.mcap", textured_image, 3)
    exports = Exports(tmp_path / "features.h5", tmp_path / "matches.h5", tmp_path / "colmap")
    output = tmp_path / "out.mcap"
    run(BagSource(bag), matcher, output, RunOptions(images="none", geometry=geometry), exports=exports)
    # What is only for the exports stays out of the bag.
    assert set(topics(output)) == {"/semantic_matcher/run", "/temporal_matcher/keypoints", "/temporal_matcher/matches"}
    keys = [f"camera/image/{i:06d}.jpg" for i in range(3)]
    keypoints = messages(output, "/temporal_matcher/keypoints")
    matches = messages(output, "/temporal_matcher/matches")

    with FeaturesReader(tmp_path / "features.h5") as reader:
        assert reader.keys() == keys and reader.variant == "plain:sift"
        for i, key in enumerate(keys):
            read, direct = reader.read(key), matcher.extract(view(textured_image, i))
            assert np.array_equal(read.keypoints, direct.keypoints) and read.image_size == (120, 160)
            assert np.array_equal(read.descriptors, direct.descriptors) and np.array_equal(read.scores, direct.scores)

    with h5py.File(tmp_path / "matches.h5") as file:
        for i, message in enumerate(matches):
            group = file[pair_key(keys[i], keys[i + 1])]
            assert group.name == f"/camera-image-{i:06d}.jpg/camera-image-{i + 1:06d}.jpg"
            matches0, scores0 = group["matches0"][:], group["matching_scores0"][:]
            assert len(matches0) == len(keypoints[i].scores)
            rows = np.flatnonzero(matches0 >= 0)
            assert np.array_equal(rows, message.index0) and np.array_equal(matches0[rows], message.index1)
            assert np.array_equal(scores0[rows], message.confidence)
            assert ("inliers0" in group) == (geometry is not None)
            if geometry is not None:
                assert np.array_equal(group["inliers0"][:][rows], message.inlier.astype(bool))
                assert group.attrs["model_type"] == geometry

    with sqlite3.connect(tmp_path / "colmap" / "database.db") as database:
        assert [name for (name,) in database.execute("SELECT name FROM images")] == keys
        assert database.execute("SELECT COUNT(*) FROM cameras").fetchone() == (1,)
        for (data,), message in zip(database.execute("SELECT data FROM keypoints"), keypoints, strict=True):
            assert np.array_equal(np.frombuffer(data, np.float32), message.xy + np.float32(0.5))
        for (data,), message in zip(database.execute("SELECT data FROM matches"), matches, strict=True):
            expected = np.stack([message.index0, message.index1], axis=1)
            assert np.array_equal(np.frombuffer(data, np.uint32).reshape(-1, 2), expected)
        verified = database.execute("SELECT rows, config FROM two_view_geometries").fetchall()
        # COLMAP maps what is verified, so pairs are checked for it where the run itself checks none.
        config = {None: [3, 3], "fundamental": [3, 3], "homography": [6, 6]}[geometry]
        assert [c for _, c in verified] == config
        if geometry is not None:
            assert [rows for rows, _ in verified] == [int(m.inlier.sum()) for m in matches]
    for i, key in enumerate(keys):
        image = read_image(tmp_path / "colmap" / "images" / key)
        assert np.abs(image.astype(int) - view(textured_image, i)).mean() < 12


def test_exports_are_the_same_after_a_resumed_run(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    from tests.core.test_offline_run import DyingSource, Killed

    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 5))
    files: dict[str, list[bytes]] = {}
    for name in ("whole", "resumed"):
        folder = tmp_path / name
        folder.mkdir()
        exports = Exports(folder / "f.h5", folder / "m.h5", folder / "colmap", half=True)
        if name == "resumed":
            with pytest.raises(Killed):
                run(DyingSource(source, 3), matcher, folder / "out.mcap", RunOptions(), exports=exports, part_seconds=0)
            assert [p.name for p in folder.iterdir()] == ["out.mcap.partial"]
        run(source, matcher, folder / "out.mcap", RunOptions(), exports=exports)
        paths = sorted(p for p in folder.rglob("*") if p.is_file())
        files[name] = [p.read_bytes() for p in paths]
        assert [p.name for p in paths if p.suffix != ".jpg"] == ["database.db", "f.h5", "m.h5", "out.mcap"]
    assert files["whole"] == files["resumed"]


def test_image_files_are_not_copied(tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray) -> None:
    files = [(f"shots/{i}.png", tmp_path / f"{i}.png") for i in range(2)]
    for i, (_, path) in enumerate(files):
        write_image(path, view(textured_image, i))
    exports = Exports(colmap=tmp_path / "colmap", colmap_images=False)
    run(FilesSource([files]), matcher, tmp_path / "out.mcap", RunOptions(images="none"), exports=exports)
    assert [p.name for p in (tmp_path / "colmap").iterdir()] == ["database.db"]
    with sqlite3.connect(tmp_path / "colmap" / "database.db") as database:
        assert [n for (n,) in database.execute("SELECT name FROM images")] == ["shots/0.png", "shots/1.png"]


def test_targets_are_checked_before_the_work(
    tmp_path: Path, matcher: SemanticMatcher, textured_image: np.ndarray
) -> None:
    source = BagSource(write_camera_bag(tmp_path / "in.mcap", textured_image, 2))
    for exports in (
        Exports(features=tmp_path / "missing" / "f.h5"),
        Exports(matches=tmp_path / "missing" / "m.h5"),
        Exports(colmap=tmp_path / "missing" / "colmap"),
    ):
        with pytest.raises(OutputError, match="create it first"):
            run(source, matcher, tmp_path / "out.mcap", RunOptions(), exports=exports)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mcap"]
    run(source, matcher, tmp_path / "out.mcap", RunOptions())
    with pytest.raises(OutputError, match=r"is complete, but .*f\.h5 is not there; --overwrite makes both anew"):
        run(source, matcher, tmp_path / "out.mcap", RunOptions(), exports=Exports(features=tmp_path / "f.h5"))


def test_matches_of_a_pair_are_written_once(tmp_path: Path) -> None:
    from semantic_matcher_core.errors import ConfigError

    nothing = np.zeros((0, 2)), np.zeros(0)
    with MatchesWriter(tmp_path / "m.h5", variant="x") as writer:
        writer.write("a", "b", 3, *nothing)
        with pytest.raises(ConfigError, match="has matches of 'a' and 'b' already"):
            writer.write("a", "b", 3, *nothing)
    with h5py.File(tmp_path / "m.h5") as file:
        assert file["a/b/matches0"][:].tolist() == [-1, -1, -1] and file.attrs["variant"] == "x"
    with pytest.raises(OutputError, match="not open"):
        writer.write("a", "c", 3, *nothing)
