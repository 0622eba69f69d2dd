"""Triangle meshes as PLY files (binary, little endian), which MeshLab, Blender, Open3D and CloudCompare open."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.io.atomic import atomic_output


def write_ply(path: str | Path, vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> None:
    """Write a coloured triangle mesh; the file appears whole or not at all.

    Args:
        path: ends in ``.ply``.
        vertices: ``V x 3`` metres.
        faces: ``F x 3`` vertices of each triangle.
        colours: ``V x 3`` uint8 RGB.

    Raises:
        ConfigError: another suffix.
        ShapeError: shapes do not fit, or a face names a vertex that does not exist.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".ply":
        raise ConfigError(f"a mesh is written as .ply, got {path}")
    count = len(vertices)
    if vertices.shape != (count, 3) or colours.shape != (count, 3) or faces.ndim != 2 or faces.shape[1] != 3:
        raise ShapeError(
            f"expected V x 3 vertices and colours and F x 3 faces, got {vertices.shape}, {colours.shape}, {faces.shape}"
        )
    if faces.size and not 0 <= int(faces.min()) <= int(faces.max()) < count:
        raise ShapeError(f"faces name vertices {int(faces.min())} … {int(faces.max())}, there are {count}")
    header = "\n".join(
        [
            "ply",
            "format binary_little_endian 1.0",
            f"element vertex {count}",
            *(f"property float {axis}" for axis in "xyz"),
            *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
            f"element face {len(faces)}",
            "property list uchar int vertex_indices",
            "end_header\n",
        ]
    )
    points = np.empty(count, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    points["xyz"], points["rgb"] = vertices, colours
    triangles = np.empty(len(faces), [("count", "u1"), ("index", "<i4", 3)])
    triangles["count"], triangles["index"] = 3, faces
    with atomic_output(path) as temporary, temporary.open("wb") as file:
        file.write(header.encode("ascii"))
        file.write(points.tobytes())
        file.write(triangles.tobytes())
