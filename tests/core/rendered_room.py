"""A room whose walls carry pictures, seen by a pinhole camera: images and depth with exact poses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.motion.pose import Pose, exp_so3

WIDTH, HEIGHT, FOCAL = 320, 240, 260.0
CAMERA = Camera(np.array([[FOCAL, 0, 158.5], [0, FOCAL, 121.0], [0, 0, 1.0]]))
BASELINE = 0.12


@dataclass(frozen=True, eq=False)
class Wall:
    """A rectangle: the picture's top-left corner, its two sides in metres, and the picture."""

    corner: np.ndarray
    along: np.ndarray
    down: np.ndarray
    picture: np.ndarray


class Room:
    """Five walls of 6 x 4 x 6 m around the origin, and a board that stands in the room."""

    def __init__(self, textured: Callable[..., np.ndarray]) -> None:
        def wall(seed: int, corner: Sequence[float], along: Sequence[float], down: Sequence[float]) -> Wall:
            a, d = np.array(along, float), np.array(down, float)
            # 1.2 cm a pixel: about a pixel of the image at 3 m.
            size = [round(float(np.linalg.norm(side)) / 0.012) for side in (d, a)]
            return Wall(np.array(corner, float), a, d, textured(*size, seed=seed))

        self.walls = [
            wall(60, (-3, -2, 4), (6, 0, 0), (0, 4, 0)),  # ahead
            wall(61, (-3, -2, -2), (0, 0, 6), (0, 4, 0)),  # left
            wall(62, (3, -2, 4), (0, 0, -6), (0, 4, 0)),  # right
            wall(63, (-3, 2, 4), (6, 0, 0), (0, 0, -6)),  # floor
            wall(64, (-3, -2, -2), (6, 0, 0), (0, 0, 6)),  # ceiling
            wall(65, (3, -2, -2), (-6, 0, 0), (0, 4, 0)),  # behind
            wall(66, (-1.2, -0.2, 2.6), (1.0, 0, 0.2), (0, 0.8, 0)),
        ]

    def see(self, pose: Pose, extra: Sequence[Wall] = (), samples: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """The image, ``240 x 320 x 3`` uint8, and the depth along z in metres, ``240 x 320`` float32."""
        fine = (np.arange(WIDTH * samples) + 0.5) / samples - 0.5, (np.arange(HEIGHT * samples) + 0.5) / samples - 0.5
        colour, _ = self._cast(pose, *fine, extra)
        image = cv2.resize(colour, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        _, depth = self._cast(pose, np.arange(WIDTH), np.arange(HEIGHT), extra)
        return image, depth

    def pair(self, pose: Pose, **options: Sequence[Wall]) -> tuple[np.ndarray, np.ndarray]:
        """Left and right image of a rectified pair, the left one at ``pose``."""
        right = pose @ Pose(np.eye(3), np.array([BASELINE, 0, 0]))
        return self.see(pose, **options)[0], self.see(right, **options)[0]

    def _cast(
        self, pose: Pose, columns: np.ndarray, rows: np.ndarray, extra: Sequence[Wall]
    ) -> tuple[np.ndarray, np.ndarray]:
        columns, rows = columns.astype(np.float32), rows.astype(np.float32)[:, None]
        to_world = pose.rotation @ np.linalg.inv(CAMERA.matrix)
        shape = len(rows), len(columns)
        nearest = np.zeros(shape, np.float32)  # 1 / depth
        colour = np.zeros((*shape, 3), np.uint8)
        for wall in [*self.walls, *extra]:
            # depth * ray = corner - eye + u * along + v * down, solved for (u, v, 1) / depth: linear in the pixel.
            sides = np.column_stack([wall.along, wall.down, wall.corner - pose.translation])
            if abs(np.linalg.det(sides)) < 1e-9:
                continue  # seen from its edge
            linear = (np.linalg.inv(sides) @ to_world).astype(np.float32)
            u, v, inverse = (line[0] * columns + line[1] * rows + line[2] for line in linear)
            hit = (inverse > nearest) & (inverse < 20) & (u >= 0) & (u <= inverse) & (v >= 0) & (v <= inverse)
            if not hit.any():
                continue
            height, width = wall.picture.shape[:2]
            safe = np.where(hit, inverse, 1)
            where = [np.where(hit, t / safe * n - 0.5, 0) for t, n in ((u, width), (v, height))]
            seen = cv2.remap(wall.picture, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            colour[hit], nearest[hit] = seen[hit], inverse[hit]
        return colour, 1 / nearest


def walk(frames: int, step: float = 0.05, turn: float = 0.01) -> list[Pose]:
    """A way through the room: ahead and to the side, turning, ``step`` metres and ``turn`` radians a frame."""
    direction = np.array([0.6, 0.15, 0.8]) / np.linalg.norm([0.6, 0.15, 0.8])
    poses = []
    for i in range(frames):
        swing = np.array([0.3 * np.sin(i / 3), 1.0, 0.2 * np.cos(i / 4)])
        poses.append(Pose(exp_so3(turn * i * swing), step * i * direction - np.array([0.4, 0.1, 0.6])))
    return poses
