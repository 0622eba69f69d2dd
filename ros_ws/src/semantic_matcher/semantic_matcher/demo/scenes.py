"""Views of textured planes at known depths, and where each pixel of one view lies in another.

A photograph may be the reference view of a pinhole camera at the origin, looking along +z (x right, y down), and each
layer of it lies on a plane ``normal · X = distance`` in front of that camera, so that a camera with rotation R and
translation t (``X' = R X + t``) sees the layer through the plane-induced homography

    H = K (R + t normalᵀ / distance) K_photo⁻¹

(Hartley & Zisserman, Multiple View Geometry, 2nd ed., eq. 13.2, with their plane's sign turned round). A layer with a
texture of its own is a rectangle anywhere in space (:func:`board`). Nothing here is
estimated: the positions of matches can be checked against the closed form. No ROS.

Pixel convention: (0, 0) is the centre of the top-left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator, default_rng

NO_LAYER = -1


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        matrix: ``3 x 3`` intrinsics in pixels.
        size: ``(height, width)`` in pixels.
        rotation: ``3 x 3``, from the reference camera's axes to this camera's.
        centre: 3, where the camera is, in the reference camera's axes, metres.
    """

    matrix: np.ndarray
    size: tuple[int, int]
    rotation: np.ndarray
    centre: np.ndarray

    @property
    def translation(self) -> np.ndarray:
        """3, t of ``X' = R X + t``."""
        return -self.rotation @ self.centre

    def moved(self, shift: tuple[float, float, float]) -> Camera:
        """Return the same camera shifted along its own axes, metres."""
        return replace(self, centre=self.centre + self.rotation.T @ np.asarray(shift, np.float64))


@dataclass(frozen=True)
class Layer:
    """A part of the photograph on a plane.

    Attributes:
        normal, distance: the plane ``normal · X = distance`` in the reference camera's axes, metres.
        texture: ``H x W x 3`` uint8 RGB in pixels of the photograph, or what stands for it where it cannot be seen.
        mask: ``H x W`` uint8, 255 where the layer is; ``None`` for everywhere.
        onto: ``3 x 3`` from pixels of the texture to those of the photograph; ``None`` where they are the same.
    """

    normal: tuple[float, float, float]
    distance: float
    texture: np.ndarray
    mask: np.ndarray | None = None
    onto: np.ndarray | None = None


@dataclass(frozen=True)
class Scene:
    """A photograph and its layers, the farthest first: a layer hides those before it.

    Attributes:
        photo_matrix: ``3 x 3`` intrinsics of the camera that the photograph counts as taken with.
        layers: what is where.
    """

    photo_matrix: np.ndarray
    layers: tuple[Layer, ...]

    def homography(self, layer: int, camera: Camera) -> np.ndarray:
        """Return ``3 x 3`` from pixels of the layer's texture to pixels of the camera."""
        plane = self.layers[layer]
        induced = camera.rotation + np.outer(camera.translation, plane.normal) / plane.distance
        from_photo = camera.matrix @ induced @ np.linalg.inv(self.photo_matrix)
        return from_photo if plane.onto is None else from_photo @ plane.onto


def board(
    texture: np.ndarray,
    corner: tuple[float, float, float],
    right: tuple[float, float, float],
    down: tuple[float, float, float],
) -> Layer:
    """Make a layer of a rectangle in space, for a scene whose photograph's intrinsics are the identity.

    Args:
        texture: ``H x W x 3`` uint8 RGB.
        corner: of the rectangle, where the texture's top left corner lies; the plane must not contain the origin.
        right, down: from there to its other corners, metres.
    """
    rows, columns = texture.shape[:2]
    column, row = np.array(right) / columns, np.array(down) / rows
    normal = np.cross(right, down)
    normal /= np.linalg.norm(normal)
    onto = np.column_stack([column, row, np.array(corner) + (column + row) / 2])
    return Layer(tuple(normal), float(normal @ corner), np.ascontiguousarray(texture), None, onto)


def pinhole(focal: float, size: tuple[int, int]) -> np.ndarray:
    """Return intrinsics with the principal point in the middle of an image of ``(height, width)``."""
    height, width = size
    return np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])


def rotation(pitch: float, yaw: float, roll: float) -> np.ndarray:
    """Return rotation about x, then y, then z (degrees), for column vectors: ``Rz Ry Rx``."""
    vectors = np.radians([[pitch, 0.0, 0.0], [0.0, yaw, 0.0], [0.0, 0.0, roll]])
    about_x, about_y, about_z = (cv2.Rodrigues(vector)[0] for vector in vectors)
    return about_z @ about_y @ about_x


def render(scene: Scene, camera: Camera, *, exposure: float = 1.0, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return what the camera sees: ``H x W x 3`` uint8 RGB, black outside the photograph.

    Args:
        scene: the layers.
        camera: where from; the layers must lie in front of it.
        exposure: factor on all grey levels.
        noise: standard deviation of the sensor's noise in grey levels.
        seed: of the noise.
    """
    image: np.ndarray = np.zeros((*camera.size, 3), np.uint8)
    for index, layer in enumerate(scene.layers):
        window, homography = _window(layer, scene.homography(index, camera), camera.size)
        size = image[window].shape[:2]
        if min(size) == 0:
            continue
        warped = cv2.warpPerspective(
            layer.texture, homography, size[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        # A view of the image, which it changes.
        cv2.copyTo(warped, _shown(layer, homography, size), image[window])
    if exposure != 1.0:
        image = cv2.convertScaleAbs(image, alpha=exposure)
    if noise > 0.0:
        random = default_rng(seed)
        image = cv2.add(image, _noise(camera.size, noise, random), dtype=cv2.CV_8U)
    return image


def label_map(scene: Scene, camera: Camera) -> np.ndarray:
    """Return ``H x W`` int8: the layer that each pixel shows, ``NO_LAYER`` outside the photograph."""
    labels = np.full(camera.size, NO_LAYER, np.int8)
    for index, layer in enumerate(scene.layers):
        window, homography = _window(layer, scene.homography(index, camera), camera.size)
        part = labels[window]
        if part.size:
            part[_shown(layer, homography, part.shape) > 0] = index
    return labels


def transfer(scene: Scene, source: Camera, target: Camera, points: np.ndarray) -> np.ndarray:
    """Return where points that one camera sees lie in the image of another.

    Args:
        scene: what both see.
        source, target: the cameras.
        points: ``N x 2`` (x, y) in pixels of ``source``.

    Returns:
        ``N x 2`` float64 (x, y) in pixels of ``target``; NaN where a point shows no layer, leaves the target's image,
        or is hidden there by another layer.
    """
    points = np.asarray(points, np.float64).reshape(-1, 2)
    labels = _label_at(label_map(scene, source), points)
    moved = np.full(points.shape, np.nan)
    for index in range(len(scene.layers)):
        chosen = labels == index
        if chosen.any():
            homography = scene.homography(index, target) @ np.linalg.inv(scene.homography(index, source))
            moved[chosen] = cv2.perspectiveTransform(points[None, chosen], homography)[0]
    moved[_label_at(label_map(scene, target), moved) != labels] = np.nan
    moved[labels == NO_LAYER] = np.nan
    return moved


def _label_at(labels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Label of the pixel that each point lies in; ``NO_LAYER`` outside the image and for NaN."""
    height, width = labels.shape
    column, row = np.floor(points + 0.5).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = np.full(len(points), NO_LAYER, np.int8)
    found[inside] = labels[row[inside].astype(np.intp), column[inside].astype(np.intp)]
    return found


def _window(layer: Layer, homography: np.ndarray, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """Return the part of an image of ``(height, width)`` that the layer can lie in, and the homography to that part."""
    rows, columns = layer.texture.shape[:2]
    corners = np.array([[x, y, 1.0] for x in (-0.5, columns - 0.5) for y in (-0.5, rows - 0.5)]) @ homography.T
    low, high = np.zeros(2), np.array(size[::-1])
    if np.ptp(np.sign(corners[:, 2])) == 0:
        places = corners[:, :2] / corners[:, 2:]
        low = np.clip(np.floor(places.min(axis=0)) - 1, 0, high)
        high = np.clip(np.ceil(places.max(axis=0)) + 2, low, high)
    (left, top), (right, bottom) = low.astype(int), high.astype(int)
    shift = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top], [0.0, 0.0, 1.0]])
    return (slice(top, bottom), slice(left, right)), shift @ homography


def _shown(layer: Layer, homography: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return ``H x W`` uint8, 1 where the layer lies in an image of ``(height, width)``, whatever is before it."""
    mask = np.full(layer.texture.shape[:2], 255, np.uint8) if layer.mask is None else layer.mask
    warped = cv2.warpPerspective(mask, homography, (size[1], size[0]), flags=cv2.INTER_LINEAR)
    return cv2.threshold(warped, 127, 1, cv2.THRESH_BINARY)[1]


@lru_cache(maxsize=2)
def _noise_field(height: int, width: int, deviation: float) -> np.ndarray:
    values = default_rng(0).normal(0.0, deviation, (height, width, 3))
    return np.rint(values).astype(np.int16)


def _noise(size: tuple[int, int], deviation: float, random: Generator) -> np.ndarray:
    """Return a window at a random place of one large noise field: as good to a matcher as fresh noise, and made
    faster.
    """
    margin = 64
    y, x = random.integers(0, margin, 2)
    return _noise_field(size[0] + margin, size[1] + margin, deviation)[y : y + size[0], x : x + size[1]]
