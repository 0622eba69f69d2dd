"""COLMAP databases: the tables, the numbers in them, and COLMAP's own reading where it is installed."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.errors import ConfigError, OutputError
from semantic_matcher_core.io.colmap import ColmapWriter, to_colmap_pixels

SHIFT = np.array([[1.0, 0.0, 5.0], [0.0, 1.0, -3.0], [0.0, 0.0, 1.0]])
HALF = np.array([0.5, 0.5, 0.0])
POINTS = np.array([[0, 0], [10.25, 20.5], [63, 47]], np.float64)


def write(path: Path) -> Path:
    with ColmapWriter(path) as writer:
        assert writer.add_image("left/1.jpg", POINTS, (64, 48), camera="left") == 1
        assert writer.add_image("left/2.jpg", POINTS[:2], (64, 48), camera="left") == 2
        assert writer.add_image("right/1.jpg", np.zeros((0, 2)), (100, 80), camera="right") == 3
        writer.add_matches("left/1.jpg", "left/2.jpg", np.array([[2, 0], [1, 1]]))
        # The later image first: COLMAP keeps pairs by ascending number.
        writer.add_matches(
            "right/1.jpg",
            "left/1.jpg",
            np.array([[7, 0], [8, 1], [9, 2]]),
            inlier=np.array([True, False, True]),
            model=SHIFT,
            model_type="homography",
        )
    return path


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as database:
        return database.execute(query).fetchall()


def test_tables(tmp_path: Path) -> None:
    path = write(tmp_path / "database.db")
    assert [p.name for p in tmp_path.iterdir()] == ["database.db"]
    assert rows(path, "SELECT image_id, name, camera_id FROM images") == [
        (1, "left/1.jpg", 1),
        (2, "left/2.jpg", 1),
        (3, "right/1.jpg", 2),
    ]
    assert rows(path, "SELECT model, width, height, prior_focal_length FROM cameras") == [
        (2, 64, 48, 0),
        (2, 100, 80, 0),
    ]
    params = np.frombuffer(rows(path, "SELECT params FROM cameras")[0][0], np.float64)  # type: ignore[call-overload]
    assert params.tolist() == pytest.approx([1.2 * 64, 32, 24, 0])
    count, columns, data = rows(path, "SELECT rows, cols, data FROM keypoints WHERE image_id = 1")[0]
    assert (count, columns) == (3, 2)
    assert np.array_equal(np.frombuffer(data, np.float32).reshape(3, 2), POINTS + 0.5)  # type: ignore[call-overload]
    matches = {pair: np.frombuffer(d, np.uint32).reshape(-1, 2).tolist()  # type: ignore[call-overload]
               for pair, d in rows(path, "SELECT pair_id, data FROM matches")}  # fmt: skip
    assert matches == {2147483647 + 2: [[2, 0], [1, 1]], 2147483647 + 3: [[0, 7], [1, 8], [2, 9]]}
    ((pair, data, config, homography),) = rows(path, "SELECT pair_id, data, config, H FROM two_view_geometries")
    assert (pair, config) == (2147483647 + 3, 6)
    assert np.frombuffer(data, np.uint32).tolist() == [0, 7, 2, 9]  # type: ignore[call-overload]
    read = np.frombuffer(homography, np.float64).reshape(3, 3)  # type: ignore[call-overload]
    assert np.allclose(read, np.linalg.inv(SHIFT))


@pytest.mark.parametrize("kind", ["homography", "fundamental"])
def test_models_fit_colmaps_pixels(kind: str) -> None:
    random = np.random.default_rng(0)
    model = random.normal(size=(3, 3))
    if kind == "homography":
        x0 = np.append(random.uniform(0, 50, 2), 1)
        x1 = model @ x0
        moved = to_colmap_pixels(model, kind) @ (x0 + HALF)
        assert moved[:2] / moved[2] == pytest.approx(x1[:2] / x1[2] + 0.5)
    else:
        x0, x1 = (np.append(random.uniform(0, 50, 2), 1) for _ in range(2))
        shifted = (x1 + HALF) @ to_colmap_pixels(model, kind) @ (x0 + HALF)
        assert shifted == pytest.approx(x1 @ model @ x0)


def test_colmap_reads_it(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    path = write(tmp_path / "database.db")
    database = pycolmap.Database.open(str(path))
    assert [image.name for image in database.read_all_images()] == ["left/1.jpg", "left/2.jpg", "right/1.jpg"]
    assert np.allclose(np.asarray(database.read_keypoints(1))[:, :2], POINTS + 0.5)
    assert np.asarray(database.read_matches(1, 2)).tolist() == [[2, 0], [1, 1]]
    geometry = database.read_two_view_geometry(1, 3)
    assert np.asarray(geometry.inlier_matches).tolist() == [[0, 7], [2, 9]]
    assert np.allclose(geometry.H, np.linalg.inv(SHIFT))
    assert database.num_cameras() == 2 and database.read_camera(1).model.name == "SIMPLE_RADIAL"
    database.close()


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a.db").read_bytes() == write(tmp_path / "b.db").read_bytes()


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ColmapWriter(tmp_path / "database.db") as writer:
        writer.add_image("a", POINTS, (10, 10))
        raise KeyError("boom")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    writer = ColmapWriter(tmp_path / "database.db")
    with pytest.raises(OutputError, match=r"cannot write .*database\.db: the disk is full"), writer:
        assert writer._database is not None
        writer._database.execute("PRAGMA max_page_count = 30")
        for i in range(100):
            writer.add_image(str(i), np.zeros((500, 2)), (10, 10))
    assert not list(tmp_path.iterdir())


def test_refusals(tmp_path: Path) -> None:
    with ColmapWriter(tmp_path / "database.db") as writer:
        writer.add_image("a", POINTS, (10, 10))
        writer.add_image("b", POINTS, (10, 10))
        with pytest.raises(ConfigError, match=r"image 'a' is in .* already"):
            writer.add_image("a", POINTS, (10, 10))
        with pytest.raises(ConfigError, match="no image 'c'"):
            writer.add_matches("a", "c", np.zeros((0, 2)))
        writer.add_matches("a", "b", np.zeros((0, 2)))
        with pytest.raises(ConfigError, match="has matches of 'b' and 'a' already"):
            writer.add_matches("b", "a", np.zeros((0, 2)))
    with pytest.raises(OutputError, match="not open"):
        writer.add_image("c", POINTS, (10, 10))
    with pytest.raises(OutputError, match="create it first"):
        ColmapWriter(tmp_path / "missing" / "database.db")
