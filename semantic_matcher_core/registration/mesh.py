"""Triangle meshes of depth images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from semantic_matcher_core.errors import ImageError

# As a share of the depth: a larger difference is an edge of something, which no triangle spans.
_JUMP = 0.05


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh.

    Attributes:
        vertices: ``V x 3`` float64, metres in the camera's optical frame (x right, y down, z forward).
        faces: ``F x 3`` int64, vertices of each triangle, counter-clockwise seen from the camera.
        colours: ``V x 3`` uint8 RGB.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray


def check_depth(depth: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """Return ``H x W`` float64 metres, NaN where there is no measurement (not finite, or not above 0).

    Raises:
        ImageError: the depth is not of ``size`` (height, width), or not in floating point.
    """
    if depth.shape != size:
        raise ImageError(
            f"the depth of the {name} is {' x '.join(map(str, depth.shape))}, its image {size[0]} x {size[1]} "
            "(height x width); register depth to colour first, so that pixels correspond"
        )
    if not np.issubdtype(depth.dtype, np.floating):
        raise ImageError(
            f"the depth of the {name} is {depth.dtype}, expected metres in floating point; divide millimetres by 1000"
        )
    metres = depth.astype(np.float64)
    return np.where(np.isfinite(metres) & (metres > 0), metres, np.nan)


def back_project(pixels: np.ndarray, depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Return ``… x 3`` points of ``… x 2`` pixels (x, y) at ``…`` depths along the optical axis."""
    x = (pixels[..., 0] - K[0, 2]) / K[0, 0]
    y = (pixels[..., 1] - K[1, 2]) / K[1, 1]
    return np.stack([x * depth, y * depth, depth], axis=-1)


@dataclass(frozen=True, eq=False)
class DepthMesh:
    """A mesh whose vertices are pixels of a depth image, evenly spaced.

    Attributes:
        mesh: the triangles.
        index: ``R x C`` int64, the vertex at pixel (c step, r step), or -1.
        step: pixels.
        pixels: ``V x 2`` (x, y) of the vertices.
    """

    mesh: Mesh
    index: np.ndarray
    step: int
    pixels: np.ndarray

    def attach(self, pixels: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Return pixels as weighted means of vertices.

        Args:
            pixels: ``N x 2`` (x, y).

        Returns:
            ``M x V`` weights of those that lie in a triangle, and ``N`` bool: which those are.
        """
        scaled = pixels / self.step
        rows, columns = self.index.shape
        cell = np.floor(scaled).astype(np.int64)
        inside = np.all((cell >= 0) & (cell < np.array([columns - 1, rows - 1])), axis=1)
        column, row = np.where(inside[:, None], cell, 0).T
        fx, fy = (scaled - cell).T
        upper = fx + fy <= 1
        # The triangles of a cell are (top left, bottom left, top right) and (top right, bottom left, bottom right).
        apex = np.where(upper, self.index[row, column], self.index[row + 1, column + 1])
        corners = np.stack([apex, self.index[row + 1, column], self.index[row, column + 1]], axis=1)
        weights = np.stack(
            [np.where(upper, 1 - fx - fy, fx + fy - 1), np.where(upper, fy, 1 - fx), np.where(upper, fx, 1 - fy)],
            axis=1,
        )
        faces = {tuple(face) for face in np.sort(self.mesh.faces, axis=1).tolist()}
        real = inside & np.array([tuple(face) in faces for face in np.sort(corners, axis=1).tolist()], bool)
        count = int(real.sum())
        entries = (np.repeat(np.arange(count), 3), corners[real].reshape(-1))
        shape = (count, len(self.mesh.vertices))
        return sparse.csr_matrix((weights[real].reshape(-1), entries), shape=shape), real

    def without(self, dropped: np.ndarray) -> DepthMesh:
        """Return the mesh without the vertices marked in ``V`` bool, and without those that are in no triangle then."""
        faces = self.mesh.faces[~dropped[self.mesh.faces].any(axis=1)]
        used, compact = np.unique(faces, return_inverse=True)
        renamed = np.full(len(self.mesh.vertices) + 1, -1)
        renamed[used] = np.arange(len(used))
        mesh = Mesh(self.mesh.vertices[used], compact.reshape(-1, 3), self.mesh.colours[used])
        return DepthMesh(mesh, renamed[self.index], self.step, self.pixels[used])


def mesh_of_depth(image: np.ndarray, depth: np.ndarray, K: np.ndarray, step: int) -> DepthMesh:
    """Return a mesh with a vertex every ``step`` pixels where there is depth.

    Args:
        image: ``H x W x 3`` uint8, for the colours.
        depth: ``H x W`` metres, NaN at holes.
        K: ``3 x 3`` camera matrix.
    """
    y, x = np.meshgrid(np.arange(0, depth.shape[0], step), np.arange(0, depth.shape[1], step), indexing="ij")
    z = depth[y, x]
    pixels = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float64)
    index = np.arange(z.size).reshape(z.shape)
    top_left, bottom_left, top_right, bottom_right = index[:-1, :-1], index[1:, :-1], index[:-1, 1:], index[1:, 1:]
    triangles = [(top_left, bottom_left, top_right), (top_right, bottom_left, bottom_right)]
    faces = np.concatenate([np.stack([c.reshape(-1) for c in corners], axis=1) for corners in triangles])
    spans = z.reshape(-1)[faces]
    kept = faces[spans.max(axis=1) - spans.min(axis=1) <= _JUMP * spans.mean(axis=1)]  # false for holes, which are NaN
    mesh = Mesh(back_project(pixels, z.reshape(-1), K), kept, image[y, x].reshape(-1, 3))
    return DepthMesh(mesh, index, step, pixels).without(np.zeros(z.size, bool))
