"""A drawn hall with things in it, as a robot sees it whose camera is 0.7 m above the floor. No ROS.

Axes are those of the reference camera: x right, y down, z ahead, metres. The room's near end lies behind what any camera
of the demo sees, and ahead of where any stands: no plane reaches behind a camera.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.random import Generator, default_rng

from semantic_matcher.demo.scenes import Layer, Scene, board

Colour = tuple[float, ...]

_LEFT, _RIGHT, _TOP, _FLOOR, _NEAR, _FAR = -1.7, 1.9, -1.9, 0.7, 1.35, 7.5
# Texture pixels a metre, and what they are divided by from how far away: a finer texture than the image would flicker.
_RESOLUTION = 200
_COARSER = ((1.35, 1), (2.6, 2), (4.2, 4))
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def hall(photograph: np.ndarray) -> Scene:
    """Draw the hall.

    Args:
        photograph: ``H x W x 3`` uint8 RGB, which hangs on a wall.
    """
    random = default_rng(7)
    length, height = _FAR - _NEAR, _FLOOR - _TOP
    end = _end_wall(random, _RIGHT - _LEFT + 2.0, height + 1.0)
    layers = [
        board(end, (_LEFT - 1.0, _TOP - 0.5, _FAR), (_RIGHT - _LEFT + 2.0, 0, 0), (0, height + 1.0, 0)),
        *_along(_ceiling(random, _RIGHT - _LEFT + 1.0, length), (_LEFT - 0.5, _TOP, _FAR), _RIGHT - _LEFT + 1.0),
        *_along(_floor(random, _RIGHT - _LEFT + 1.0, length), (_LEFT - 0.5, _FLOOR, _FAR), _RIGHT - _LEFT + 1.0),
        *_wall(_left_wall(random, length, height, photograph), _LEFT),
        *_wall(_right_wall(random, length, height, photograph), _RIGHT),
    ]
    # The farthest first.
    layers += _box(random, (0.35, 0.1, 5.3), (0.6, 0.6, 0.6), (60, 105, 165), "7", left=True)
    layers += _box(random, (-1.6, 0.0, 4.1), (0.8, 0.7, 0.7), (176, 136, 92), "FRAGILE", right=True)
    layers += _box(random, (1.2, -0.35, 3.2), (0.7, 1.05, 0.9), (150, 158, 150), "TOOLS", left=True)
    layers += _box(random, (-1.45, 0.25, 2.9), (0.5, 0.45, 0.5), (190, 150, 105), "A-12", right=True)
    return Scene(np.eye(3), tuple(layers))


def _along(texture: np.ndarray, corner: tuple[float, float, float], width: float) -> Iterator[Layer]:
    """Return floor or ceiling, whose rows go from far to near, in strips that are the coarser the farther they are."""
    for rows, coarser in _strips(texture.shape[0]):
        part = _shrunk(texture[rows], coarser)
        start = _FAR - rows.start / _RESOLUTION
        yield board(
            part, (corner[0], corner[1], start), (width, 0, 0), (0, 0, -(rows.stop - rows.start) / _RESOLUTION)
        )


def _wall(texture: np.ndarray, x: float) -> Iterator[Layer]:
    """Yield a wall at ``x``, whose columns go from far to near where it is on the right, else from near to far."""
    if x < 0:
        texture = texture[:, ::-1]
    for columns, coarser in _strips(texture.shape[1]):
        part = _shrunk(texture[:, columns], coarser)
        length = (columns.stop - columns.start) / _RESOLUTION
        start = _FAR - columns.start / _RESOLUTION
        if x < 0:
            yield board(part[:, ::-1], (x, _TOP, start - length), (0, 0, length), (0, _FLOOR - _TOP, 0))
        else:
            yield board(part, (x, _TOP, start), (0, 0, -length), (0, _FLOOR - _TOP, 0))


def _strips(count: int) -> Iterator[tuple[slice, int]]:
    """Return ranges of ``count`` texture pixels from far to near, each a little under the next one, and their coarseness."""
    ends = [round((_FAR - z) * _RESOLUTION) for z, _ in reversed(_COARSER)]
    ends[-1] = count
    start = 0
    for end, (_, coarser) in zip(ends, reversed(_COARSER), strict=True):
        length = -(-(end - start + 2 * coarser) // coarser) * coarser
        yield slice(start, min(start + length, count)), coarser
        start = end


def _shrunk(texture: np.ndarray, divisor: int) -> np.ndarray:
    height, width = texture.shape[:2]
    size = (max(1, round(width / divisor)), max(1, round(height / divisor)))
    return texture if divisor == 1 else cv2.resize(texture, size, interpolation=cv2.INTER_AREA)


def _box(
    random: Generator,
    corner: tuple[float, float, float],
    size: tuple[float, float, float],
    colour: Colour,
    text: str,
    *,
    left: bool = False,
    right: bool = False,
) -> Iterator[Layer]:
    """Yield the sides of a box that a camera in the middle of the hall sees; ``corner`` is its front's upper left."""
    x, y, z = corner
    width, height, depth = size
    resolution = int(_RESOLUTION * min(1.0, 2.4 / z))
    if left:
        side = _face(random, depth, height, tuple(int(0.7 * c) for c in colour), "", resolution)
        yield board(side, (x, y, z + depth), (0, 0, -depth), (0, height, 0))
    if right:
        side = _face(random, depth, height, tuple(int(0.8 * c) for c in colour), "", resolution)
        yield board(side, (x + width, y, z), (0, 0, depth), (0, height, 0))
    if y > 0:
        top = _face(random, width, depth, tuple(min(255, int(1.2 * c)) for c in colour), "", resolution // 2, labels=0)
        yield board(top, (x, y, z + depth), (width, 0, 0), (0, 0, -depth))
    yield board(_face(random, width, height, colour, text, resolution), corner, (width, 0, 0), (0, height, 0))


def _surface(random: Generator, width: float, height: float, colour: Colour, resolution: int) -> np.ndarray:
    """Return ``H x W x 3`` uint8: a colour with blotches of several sizes and scratches."""
    size = (round(width * resolution), round(height * resolution))
    canvas: np.ndarray = np.full((size[1], size[0], 3), colour, np.float32)
    for cells, strength in ((0.6, 7), (0.03, 6)):
        grid = (max(2, round(height / cells)), max(2, round(width / cells)))
        noise = random.normal(0, strength, grid).astype(np.float32)
        canvas += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)[..., None]
    canvas = np.clip(canvas, 0, 255).astype(np.uint8)
    for _ in range(int(8 * width * height)):
        start = random.uniform((0, 0), size)
        stop = start + random.normal(0, 0.06 * resolution, 2)
        shade = tuple(float(c) for c in np.array(colour) * random.uniform(0.6, 1.2))
        cv2.line(canvas, _pixel(start), _pixel(stop), shade, int(random.integers(1, 4)), cv2.LINE_AA)
    return canvas


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _rectangle(canvas: np.ndarray, box: tuple[float, float, float, float], colour: Colour, border: int = 0) -> None:
    """Draw a filled rectangle (left, top, width, height in metres) with a darker border in pixels."""
    left, top, width, height = (round(v * _RESOLUTION) for v in box)
    cv2.rectangle(canvas, (left, top), (left + width, top + height), colour, -1, cv2.LINE_AA)
    if border:
        dark = tuple(0.4 * c for c in colour)
        cv2.rectangle(canvas, (left, top), (left + width, top + height), dark, border, cv2.LINE_AA)


def _text(canvas: np.ndarray, text: str, at: tuple[float, float], scale: float, colour: Colour) -> None:
    cv2.putText(canvas, text, (round(at[0] * _RESOLUTION), round(at[1] * _RESOLUTION)), _FONT, scale, colour, 4, 16)


def _paper(random: Generator, canvas: np.ndarray, box: tuple[float, float, float, float]) -> None:
    """Draw a sheet with a heading, lines of writing and perhaps a picture."""
    left, top, width, height = box
    tone = random.uniform(0.75, 1.0, 3) * 250
    _rectangle(canvas, box, tuple(tone), 1)
    ink = tuple(random.uniform(10, 120, 3))
    _rectangle(canvas, (left + 0.1 * width, top + 0.08 * height, random.uniform(0.3, 0.8) * width, 0.1 * height), ink)
    for row in np.arange(0.28, 0.92, 0.09).tolist():
        length = random.uniform(0.3, 0.8) * width
        _rectangle(canvas, (left + 0.1 * width, top + row * height, length, 0.03 * height), ink)
    if random.random() < 0.6:
        shade = tuple(random.uniform(30, 230, 3))
        _rectangle(canvas, (left + 0.45 * width, top + 0.5 * height, 0.4 * width, 0.3 * height), shade, 2)


def _door(canvas: np.ndarray, left: float, colour: Colour, number: str) -> None:
    height = canvas.shape[0] / _RESOLUTION
    _rectangle(canvas, (left, height - 2.1, 1.0, 2.1), (205, 205, 200), 3)
    _rectangle(canvas, (left + 0.06, height - 2.04, 0.88, 2.04), colour, 3)
    _rectangle(canvas, (left + 0.2, height - 1.85, 0.3, 0.7), (120, 150, 165), 4)
    _rectangle(canvas, (left + 0.78, height - 1.05, 0.1, 0.04), (60, 60, 60), 1)
    _rectangle(canvas, (left + 0.6, height - 1.8, 0.26, 0.16), (240, 240, 235), 2)
    _text(canvas, number, (left + 0.62, height - 1.68), 0.7, (20, 20, 20))


def _skirting(random: Generator, canvas: np.ndarray, colour: Colour) -> None:
    """Draw a painted band along the floor, worn."""
    height, width = (side / _RESOLUTION for side in canvas.shape[:2])
    _rectangle(canvas, (0, height - 0.55, width, 0.55), colour)
    for _ in range(int(14 * width)):
        x, y = random.uniform((0, height - 0.5), (width, height - 0.05))
        shade = tuple(float(c) for c in np.array(colour) * random.uniform(0.55, 1.25))
        _rectangle(canvas, (x, y, random.uniform(0.01, 0.09), random.uniform(0.01, 0.05)), shade)


def _left_wall(random: Generator, length: float, height: float, photograph: np.ndarray) -> np.ndarray:
    canvas = _surface(random, length, height, (196, 192, 178), _RESOLUTION)
    _skirting(random, canvas, (96, 128, 128))
    _door(canvas, 4.2, (150, 96, 70), "2.14")
    _rectangle(canvas, (0.9, 0.75, 1.7, 1.05), (150, 110, 70), 6)
    for row in range(2):
        for column in range(5):
            at = (0.98 + 0.32 * column + random.uniform(0, 0.04), 0.82 + 0.48 * row + random.uniform(0, 0.06))
            _paper(random, canvas, (*at, random.uniform(0.18, 0.26), random.uniform(0.26, 0.38)))
    _hang(canvas, photograph, (3.0, 0.7), 0.75)
    _rectangle(canvas, (5.4, 0.9, 0.35, 0.5), (200, 40, 35), 3)
    _text(canvas, "FIRE", (5.42, 1.2), 1.0, (250, 250, 250))
    return canvas


def _right_wall(random: Generator, length: float, height: float, photograph: np.ndarray) -> np.ndarray:
    """Draw the right wall; columns go from far to near."""
    canvas = _surface(random, length, height, (208, 200, 186), _RESOLUTION)
    _skirting(random, canvas, (140, 110, 90))
    _door(canvas, 0.5, (84, 104, 132), "2.15")
    _hang(canvas, photograph[:330, ::-1], (1.75, 0.8), 0.7)
    for column in range(9):
        _paper(random, canvas, (2.75 + 0.3 * column, 0.75 + random.uniform(0, 0.35), 0.22, 0.32))
    # Pipes under the ceiling.
    for y, colour in ((0.2, (150, 150, 155)), (0.34, (190, 120, 60))):
        _rectangle(canvas, (0, y, length, 0.08), colour, 2)
        for x in np.arange(0.3, length, 0.9).tolist():
            _rectangle(canvas, (x + random.uniform(0, 0.3), y - 0.02, 0.06, 0.12), (90, 90, 95), 2)
    return canvas


def _hang(canvas: np.ndarray, picture: np.ndarray, at: tuple[float, float], width: float) -> None:
    """Draw a picture in a frame."""
    columns = round(width * _RESOLUTION)
    rows = round(columns * picture.shape[0] / picture.shape[1])
    left, top = (round(v * _RESOLUTION) for v in at)
    _rectangle(canvas, (at[0] - 0.04, at[1] - 0.04, width + 0.08, rows / _RESOLUTION + 0.08), (70, 50, 35), 3)
    canvas[top : top + rows, left : left + columns] = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)


def _end_wall(random: Generator, width: float, height: float) -> np.ndarray:
    """Draw the far wall, which goes on 1 m to both sides and 0.5 m above and below, hidden by the others."""
    canvas = _surface(random, width, height, (182, 186, 192), _RESOLUTION)
    _rectangle(canvas, (3.1, 0.5 + 0.55, 1.5, 2.05), (120, 74, 60), 5)
    for left in (3.15, 3.88):
        _rectangle(canvas, (left, 0.5 + 0.6, 0.68, 2.0), (152, 104, 84), 4)
        _rectangle(canvas, (left + 0.18, 0.5 + 0.8, 0.32, 0.6), (190, 210, 215), 5)
    _rectangle(canvas, (3.45, 0.5 + 0.2, 0.8, 0.26), (20, 130, 70), 4)
    _text(canvas, "EXIT", (3.55, 0.5 + 0.4), 1.3, (250, 250, 250))
    for shelf in range(4):
        top = 0.5 + 0.9 + 0.42 * shelf
        _rectangle(canvas, (1.15, top + 0.36, 1.75, 0.05), (90, 70, 50), 2)
        x: float = 1.2
        while x < 2.75:
            breadth, tall = random.uniform(0.06, 0.2), random.uniform(0.15, 0.34)
            shade = tuple(random.uniform(30, 225, 3))
            _rectangle(canvas, (x, top + 0.36 - tall, breadth, tall), shade, 2)
            x += breadth + 0.015
    for column in range(2):
        _paper(random, canvas, (4.85 + 0.32 * column, 0.5 + 0.9, 0.24, 0.34))
    return _shrunk(canvas, 3)


def _tiled(
    random: Generator, width: float, length: float, colour: Colour, shades: tuple[float, float], seam: Colour
) -> np.ndarray:
    """Draw a surface of square tiles; ``shades`` are the darkest and the brightest of them, relative to the colour."""
    canvas = _surface(random, width, length, colour, _RESOLUTION)
    tile = round(0.6 * _RESOLUTION)
    for top in range(0, canvas.shape[0], tile):
        for left in range(0, canvas.shape[1], tile):
            part = canvas[top : top + tile, left : left + tile]
            part[:] = cv2.convertScaleAbs(part, alpha=random.uniform(*shades))
            cv2.rectangle(canvas, (left, top), (left + tile, top + tile), seam, 2)
    return canvas


def _floor(random: Generator, width: float, length: float) -> np.ndarray:
    canvas = _tiled(random, width, length, (134, 128, 120), (0.82, 1.16), (112, 107, 101))
    for _ in range(160):
        x, y = random.uniform((0, 0), (width, length))
        shade = tuple(np.array([110, 104, 96]) * random.uniform(0.35, 1.7))
        axes = (int(random.uniform(2, 18)), int(random.uniform(2, 12)))
        centre = _pixel(np.array([x, y]) * _RESOLUTION)
        cv2.ellipse(canvas, centre, axes, random.uniform(0, 180), 0, 360, shade, -1, cv2.LINE_AA)
    for lane in (0.95, 3.2):
        _rectangle(canvas, (lane, 0, 0.07, length), (214, 178, 40))
        for _ in range(60):
            at = random.uniform((lane, 0), (lane + 0.06, length))
            _rectangle(canvas, (*at, random.uniform(0.005, 0.03), random.uniform(0.01, 0.06)), (120, 110, 80))
    for row in (1.3, 3.1, 4.6):
        _text(canvas, "A3", (1.7, row), 3.0, (225, 222, 210))
    return canvas


def _ceiling(random: Generator, width: float, length: float) -> np.ndarray:
    canvas = _tiled(random, width, length, (214, 214, 208), (0.86, 1.06), (186, 186, 181))
    for row in np.arange(0.5, length, 1.8).tolist():
        _rectangle(canvas, (1.9, row, 0.9, 0.5), (255, 255, 250), 4)
    for _ in range(60):  # sprinklers, lids, cracks
        x, y = random.uniform((0, 0), (width, length))
        _rectangle(canvas, (x, y, random.uniform(0.02, 0.12), random.uniform(0.02, 0.12)), (172, 170, 164), 2)
    return canvas


def _face(
    random: Generator,
    width: float,
    height: float,
    colour: Colour,
    text: str,
    resolution: int,
    labels: int = 3,
) -> np.ndarray:
    """Return one side of a box: tape or a seam, labels, and a word."""
    scale = resolution / _RESOLUTION
    canvas = _surface(random, width, height, colour, _RESOLUTION)
    dark = tuple(0.55 * c for c in colour)
    _rectangle(canvas, (0, 0.45 * height, width, 0.06 * height), dark)
    cv2.rectangle(canvas, (0, 0), (canvas.shape[1] - 1, canvas.shape[0] - 1), dark, 4)
    for _ in range(labels):
        at = random.uniform((0.08 * width, 0.1 * height), (0.65 * width, 0.65 * height))
        _paper(random, canvas, (*at, 0.22 * width, 0.24 * height))
    if text:
        size = 0.9 * width * _RESOLUTION / cv2.getTextSize(text, _FONT, 1.0, 4)[0][0]
        _text(canvas, text, (0.06 * width, 0.36 * height), min(size, 2.2), (30, 25, 20))
    return cv2.resize(canvas, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
