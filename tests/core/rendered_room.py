"""A room whose walls carry pictures, seen by a pinhole camera: images and depth with exact poses."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.io.mcap import McapWriter
from semantic_matcher_core.io.messages import header_message, image_message, typestore
from semantic_matcher_core.motion.pose import Pose, exp_so3
from tests.core.recordings import PERIOD_NS, START_NS

WIDTH, HEIGHT, FOCAL = 320, 240, 260.0
CAMERA = Camera(np.array([[FOCAL, 0, 158.5], [0, FOCAL, 121.0], [0, 0, 1.0]]))
BASELINE = 0.12


@dataclass(frozen=True, eq=False)
class Wall:
    """A rectangle: the picture's top-left corner, its two sides in metres, and the picture, or what draws it."""

    corner: np.ndarray
    along: np.ndarray
    down: np.ndarray
    surface: np.ndarray | Callable[[], np.ndarray]

    @cached_property
    def picture(self) -> np.ndarray:
        """Drawn when it is seen: most walls never are."""
        return self.surface() if callable(self.surface) else self.surface


class Room:
    """Five walls of 6 x 4 x 6 m around the origin, and a board that stands in the room."""

    def __init__(self, textured: Callable[..., np.ndarray]) -> None:
        def wall(seed: int, corner: Sequence[float], along: Sequence[float], down: Sequence[float]) -> Wall:
            a, d = np.array(along, float), np.array(down, float)
            # 1.2 cm a pixel: about a pixel of the image at 3 m.
            size = [round(float(np.linalg.norm(side)) / 0.012) for side in (d, a)]
            return Wall(np.array(corner, float), a, d, partial(textured, *size, seed=seed))

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


def write_depth_bag(
    path: Path,
    seen: Sequence[tuple[np.ndarray, np.ndarray]],
    kind: str = "16UC1",
    *,
    stamps: Sequence[int] = (),
    later: int = 3_000_000,
) -> Path:
    """A bag as a depth camera's driver fills it: colour, registered depth a little later, and camera_info.

    Args:
        path: file to write.
        seen: image and depth in metres of each frame.
        kind: ``16UC1``, ``32FC1`` or ``compressedDepth``.
        stamps: of the images, nanoseconds.
        later: how much later depth is, nanoseconds.
    """
    stamps = stamps or [START_NS + i * PERIOD_NS for i in range(len(seen))]
    with McapWriter(path) as writer:
        for (image, depth), stamp in zip(seen, stamps, strict=True):
            header = header_message(stamp, "camera_optical")
            writer.write("/camera/color/camera_info", info_message(header), stamp)
            writer.write("/camera/color/image_raw", image_message(image, header), stamp)
            at = stamp + later
            writer.write("/camera/depth", depth_message(depth, header_message(at, "camera_optical"), kind), at)
    return path


def write_pair_bag(path: Path, pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, stamps: Sequence[int]) -> Path:
    """A bag of rectified pairs with their camera_info."""
    with McapWriter(path) as writer:
        for pair, stamp in zip(pairs, stamps, strict=True):
            for side, image, baseline in zip(("left", "right"), pair, (0.0, BASELINE), strict=True):
                header = header_message(stamp, "left_optical")
                writer.write(f"/{side}/camera_info", info_message(header, baseline), stamp)
                writer.write(f"/{side}/image", image_message(image, header), stamp)
    return path


def info_message(header: Any, baseline: float = 0.0) -> Any:
    """The sensor_msgs/CameraInfo of the camera, ``baseline`` to the right of the left one."""
    types = typestore().types
    projection = np.hstack([CAMERA.matrix, [[-FOCAL * baseline], [0], [0]]])
    roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    k, r, p = (matrix.reshape(-1).astype(float) for matrix in (CAMERA.matrix, np.eye(3), projection))
    return types["sensor_msgs/msg/CameraInfo"](header, HEIGHT, WIDTH, "plumb_bob", np.zeros(5), k, r, p, 0, 0, roi)


def depth_message(depth: np.ndarray, header: Any, kind: str) -> Any:
    """A depth image, as an Image or as the depth transport has it."""
    types = typestore().types
    millimetres = np.round(depth * 1000).astype("<u2")
    if kind == "compressedDepth":
        data = struct.pack("<iff", 0, 0, 0) + cv2.imencode(".png", millimetres)[1].tobytes()
        return types["sensor_msgs/msg/CompressedImage"](
            header, "16UC1; compressedDepth png", np.frombuffer(data, np.uint8)
        )
    values = depth.astype("<f4") if kind == "32FC1" else millimetres
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return types["sensor_msgs/msg/Image"](header, HEIGHT, WIDTH, kind, 0, values.itemsize * WIDTH, data)
