"""RGB-D pictures of a textured sheet rolled round a cylinder, by ray casting, with where each of its points lies."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

WIDTH_M, HEIGHT_M = 0.40, 0.30
BACKGROUND = 60


def camera(size: tuple[int, int]) -> np.ndarray:
    """``3 x 3`` matrix of a camera with a horizontal field of view of 60 degrees."""
    focal = size[1] / (2 * np.tan(np.radians(30)))
    return np.array([[focal, 0, (size[1] - 1) / 2], [0, focal, (size[0] - 1) / 2], [0, 0, 1]])


@dataclass(frozen=True)
class Sheet:
    """A sheet before the camera.

    Attributes:
        texture: its picture.
        radius_m: of the cylinder it is rolled round, about its vertical axis; negative bulges towards the camera,
            infinite is flat.
        rotation: ``3 x 3``, of the sheet about its middle.
        centre: (x, y, z) of its middle in metres; the camera is at the origin and looks along z.
    """

    texture: np.ndarray
    radius_m: float = np.inf
    rotation: np.ndarray | None = None
    centre: tuple[float, float, float] = (0.0, 0.0, 0.45)

    def points(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """``… x 3``: where points (u, v) of the sheet lie, u and v in metres from its middle."""
        if np.isinf(self.radius_m):
            local = np.stack([u, v, np.zeros_like(u)], axis=-1)
        else:
            angle = u / self.radius_m
            local = np.stack([self.radius_m * np.sin(angle), v, self.radius_m * (1 - np.cos(angle))], axis=-1)
        return local @ self._rotation().T + np.array(self.centre)

    def render(self, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """``H x W x 3`` uint8 RGB, and ``H x W`` float32 depth in metres, zero where there is no sheet."""
        matrix = camera(size)
        y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
        focal, middle = matrix[0, 0], matrix[:2, 2]
        rays = np.stack([(x - middle[0]) / focal, (y - middle[1]) / focal, np.ones_like(x)], axis=-1)
        rotation = self._rotation()
        direction = rays @ rotation
        origin = -np.array(self.centre) @ rotation
        depth = np.full(size, np.inf)
        u, v = np.zeros(size), np.zeros(size)
        for candidate in self._intersections(origin, direction):
            hit = origin + candidate[..., None] * direction
            if np.isinf(self.radius_m):
                along = hit[..., 0]
            else:
                along = np.arctan2(hit[..., 0] / self.radius_m, 1 - hit[..., 2] / self.radius_m) * self.radius_m
            seen = (candidate > 0) & (np.abs(along) <= WIDTH_M / 2) & (np.abs(hit[..., 1]) <= HEIGHT_M / 2)
            seen &= candidate < depth
            depth, u, v = (np.where(seen, a, b) for a, b in ((candidate, depth), (along, u), (hit[..., 1], v)))
        seen = np.isfinite(depth)
        scale = (self.texture.shape[1] - 1, self.texture.shape[0] - 1)
        at_x = ((u / WIDTH_M + 0.5) * scale[0]).astype(np.float32)
        at_y = ((v / HEIGHT_M + 0.5) * scale[1]).astype(np.float32)
        image = np.asarray(cv2.remap(self.texture, at_x, at_y, cv2.INTER_LINEAR))
        image = np.where(seen[..., None], image, np.uint8(BACKGROUND))
        return image, np.where(seen, depth, 0).astype(np.float32)

    def _rotation(self) -> np.ndarray:
        return np.eye(3) if self.rotation is None else self.rotation

    def _intersections(self, origin: np.ndarray, direction: np.ndarray) -> list[np.ndarray]:
        """Depths at which rays meet the plane z = 0, or the cylinder of which the sheet is a part."""
        with np.errstate(divide="ignore", invalid="ignore"):
            if np.isinf(self.radius_m):
                return [-origin[2] / direction[..., 2]]
            a = direction[..., 0] ** 2 + direction[..., 2] ** 2
            b = origin[0] * direction[..., 0] + (origin[2] - self.radius_m) * direction[..., 2]
            c = origin[0] ** 2 + (origin[2] - self.radius_m) ** 2 - self.radius_m**2
            root = np.sqrt(b * b - a * c)
            return [np.nan_to_num((-b + sign * root) / a, nan=-1.0) for sign in (-1, 1)]


def turn(degrees: tuple[float, float, float]) -> np.ndarray:
    """``3 x 3`` rotation by a rotation vector."""
    return np.asarray(cv2.Rodrigues(np.radians(np.array(degrees)))[0])
