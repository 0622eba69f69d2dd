"""Depth images and meshes as files."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from semantic_matcher_core.errors import ConfigError, ImageError, OutputError, ShapeError
from semantic_matcher_core.io.depth import read_depth
from semantic_matcher_core.io.ply import write_ply


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    header, body = path.read_bytes().split(b"end_header\n", 1)
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\n")
    counts = {
        words[1]: int(words[2]) for line in header.decode().splitlines() if (words := line.split())[0] == "element"
    }
    vertex = np.dtype("<f4,<f4,<f4,u1,u1,u1")
    vertices = np.frombuffer(body, vertex, counts["vertex"])
    faces = np.frombuffer(
        body, np.dtype([("n", "u1"), ("i", "<i4", 3)]), counts["face"], vertex.itemsize * len(vertices)
    )
    assert len(body) == vertices.nbytes + faces.nbytes and (faces["n"] == 3).all()
    columns = [vertices[name] for name in vertex.names or ()]
    return np.stack(columns[:3], axis=1), faces["i"], np.stack(columns[3:], axis=1)


def test_a_mesh_reads_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vertices, faces = random.normal(size=(7, 3)), random.integers(0, 7, (4, 3))
    colours = random.integers(0, 256, (7, 3), dtype=np.uint8)
    path = tmp_path / "mesh.ply"
    write_ply(path, vertices, faces, colours)
    for read, written in zip(read_ply(path), (vertices, faces, colours), strict=True):
        np.testing.assert_allclose(read, written, rtol=1e-6)
    write_ply(path, vertices, np.zeros((0, 3), np.int64), colours)
    assert read_ply(path)[1].shape == (0, 3)


@pytest.mark.skipif(not hasattr(cv2, "loadMesh"), reason="this OpenCV reads no meshes")
def test_opencv_reads_the_mesh(tmp_path: Path) -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.5]])
    write_ply(tmp_path / "mesh.ply", vertices, np.array([[0, 1, 2]]), np.full((3, 3), 255, np.uint8))
    read = cv2.loadMesh(str(tmp_path / "mesh.ply"))
    np.testing.assert_allclose(np.asarray(read[0]).reshape(-1, 3), vertices)
    assert np.asarray(read[1]).ravel().tolist() == [0, 1, 2]


def test_bad_meshes_are_refused(tmp_path: Path) -> None:
    vertices, faces, colours = np.zeros((3, 3)), np.array([[0, 1, 2]]), np.zeros((3, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"\.ply"):
        write_ply(tmp_path / "mesh.obj", vertices, faces, colours)
    with pytest.raises(ShapeError, match="faces name vertices 1 … 3, there are 3"):
        write_ply(tmp_path / "mesh.ply", vertices, faces + 1, colours)
    with pytest.raises(ShapeError, match="V x 3"):
        write_ply(tmp_path / "mesh.ply", vertices, faces, colours[:2])
    with pytest.raises(OutputError, match="does not exist"):
        write_ply(tmp_path / "missing" / "mesh.ply", vertices, faces, colours)
    assert not list(tmp_path.iterdir())


def test_depth_in_every_form(tmp_path: Path) -> None:
    millimetres = np.array([[0, 1500], [65535, 3]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), millimetres)
    np.testing.assert_allclose(read_depth(tmp_path / "a.png"), millimetres / 1000, rtol=1e-6)
    np.testing.assert_allclose(read_depth(tmp_path / "a.png", units_per_metre=5000), millimetres / 5000, rtol=1e-6)
    metres = np.array([[0, 1.25, np.nan]], np.float32)
    cv2.imwrite(str(tmp_path / "b.tiff"), metres)
    np.save(tmp_path / "c.npy", metres.astype(np.float64))
    for name in ("b.tiff", "c.npy"):
        found = read_depth(tmp_path / name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, metres)


def test_what_is_no_depth_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "broken.npy").write_bytes(b"nothing")
    (tmp_path / "empty.npy").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    for name, message in (
        ("missing.png", "no such depth file"),
        ("colour.png", "one channel of 16 bits"),
        ("broken.png", "is text, not a picture"),
        ("empty.png", "is empty"),
        ("broken.npy", "cannot read depth"),
        ("empty.npy", "cannot read depth"),
        ("several.npy", "several arrays"),
        ("pipe.png", "it is a named pipe"),
        ("object.npy", "cannot read depth"),
    ):
        with pytest.raises(ImageError, match=message):
            read_depth(tmp_path / name)
    with pytest.raises(ConfigError, match="units_per_metre"):
        read_depth(tmp_path / "colour.png", units_per_metre=0)
