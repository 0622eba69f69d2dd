"""Draw a hall as a robot sees it from two places, match the two, and show the matches and the semantic map.

    python examples/first_look.py                       # writes first_look.jpg: the picture of the first page
    python examples/first_look.py --variant plain:sift  # matches alone: without semantics there is no map

The hall is made of textured planes; each is seen through the homography that it induces.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

import semantic_matcher_core as smc
from semantic_matcher_core.errors import SemanticMatcherError
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.viz.semantics import draw_semantics

WIDTH, HEIGHT, FOCAL = 800, 450, 430.0
FONT = cv2.FONT_HERSHEY_SIMPLEX
Plane = tuple[list[float], list[float], list[float], np.ndarray]


def plaster(height: int, width: int, base: tuple[int, int, int], amplitude: float, seed: int) -> np.ndarray:
    """Draw a surface of one colour with stains of three sizes."""
    random = np.random.default_rng(seed)
    surface = np.full((height, width, 3), base, np.float32)
    for cells, share in ((6, 1.0), (24, 0.8), (96, 0.6)):
        stains = random.normal(0, amplitude * share, (cells, cells)).astype(np.float32)
        surface += cv2.resize(stains, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return np.clip(surface, 0, 255).astype(np.uint8)


def wall(seed: int, base: tuple[int, int, int], sign: str) -> np.ndarray:
    """Draw a wall with a sign and framed pictures."""
    random = np.random.default_rng(seed)
    surface = plaster(600, 900, base, 9, seed)
    for _ in range(5):
        x, y, w, h = (int(random.integers(*limits)) for limits in ((20, 760), (40, 330), (70, 150), (80, 170)))
        cv2.rectangle(surface, (x, y), (x + w, y + h), random.integers(60, 230, 3).tolist(), -1)
        cv2.rectangle(surface, (x, y), (x + w, y + h), (30, 30, 30), 4)
        for _ in range(6):
            centre = (x + int(random.integers(8, w - 8)), y + int(random.integers(8, h - 8)))
            cv2.circle(surface, centre, int(random.integers(4, 22)), random.integers(0, 255, 3).tolist(), -1)
    cv2.putText(surface, sign, (300, 80), FONT, 2.2, (40, 40, 60), 7, cv2.LINE_AA)
    return surface


def shelf(seed: int) -> np.ndarray:
    """Return three boards full of books."""
    random = np.random.default_rng(seed)
    surface = plaster(500, 700, (120, 85, 55), 8, seed)
    for top in (20, 180, 340):
        cv2.rectangle(surface, (15, top), (685, top + 140), (40, 28, 20), -1)
        x, bottom = 25, top + 140
        while x < 640:
            w, h = int(random.integers(18, 48)), int(random.integers(70, 130))
            colour = random.integers(30, 240, 3)
            cv2.rectangle(surface, (x, bottom - h), (x + w, bottom), colour.tolist(), -1)
            cv2.rectangle(surface, (x, bottom - h + 12), (x + w, bottom - h + 22), (255 - colour).tolist(), -1)
            x += w + 3
    return surface


def crate(seed: int, label: str) -> np.ndarray:
    """Draw the front of a crate."""
    surface = plaster(300, 300, (150, 120, 80), 12, seed)
    for y in range(0, 300, 50):
        cv2.line(surface, (0, y), (300, y), (70, 50, 30), 3)
    cv2.rectangle(surface, (4, 4), (295, 295), (60, 45, 25), 8)
    cv2.putText(surface, label, (40, 180), FONT, 2.6, (200, 40, 30), 9, cv2.LINE_AA)
    return surface


def floor() -> np.ndarray:
    """Draw tiles, and a yellow line to follow."""
    surface = plaster(900, 900, (95, 95, 100), 10, 77)
    for at in range(0, 900, 75):
        cv2.line(surface, (at, 0), (at, 900), (60, 60, 64), 3)
        cv2.line(surface, (0, at), (900, at), (60, 60, 64), 3)
    cv2.line(surface, (450, 0), (450, 900), (225, 190, 40), 16)
    return surface[::-1]


def hall() -> list[Plane]:
    """Draw planes, the farthest first: a corner, where the right and the lower side lead to in metres, and the texture.

    x right, y down, z forward.
    """
    return [
        ([-4, 1.3, 0.6], [8, 0, 0], [0, 0, 8], floor()),
        ([-4, -1.9, 8.5], [8, 0, 0], [0, 3.2, 0], wall(1, (176, 182, 178), "DOCK 7")),
        ([-4, -1.9, 0.8], [0, 0, 7.7], [0, 3.2, 0], wall(2, (150, 165, 185), "BAY 3")),
        ([4, -1.9, 8.5], [0, 0, -7.7], [0, 3.2, 0], wall(3, (190, 170, 150), "EXIT")),
        ([-3.6, -1.2, 7.6], [3, 0, 0.3], [0, 2.5, 0], shelf(4)),
        ([1.4, -1.0, 7.0], [2.2, 0, -0.5], [0, 2.3, 0], shelf(9)),
        ([-1.9, 0.1, 4.6], [1.15, 0, 0.35], [0, 1.2, 0], crate(5, "A4")),
        ([0.5, 0.3, 5.2], [1.0, 0, -0.25], [0, 1.0, 0], crate(6, "K9")),
        ([-0.35, 0.65, 3.4], [0.62, 0, 0.1], [0, 0.62, 0], crate(7, "R2")),
    ]


def view(
    planes: list[Plane], centre: tuple[float, float, float], yaw: float, pitch: float, light: float = 1.0
) -> np.ndarray:
    """Return ``HEIGHT x WIDTH x 3`` uint8 RGB, seen from ``centre``; ``light`` below 1 is dimmer, and dimmest on
    the right.
    """
    rotation = cv2.Rodrigues(np.array([pitch, 0, 0]))[0] @ cv2.Rodrigues(np.array([0, -yaw, 0]))[0]
    # Twice as large, and made smaller at the end: smooth edges.
    camera = np.array([[2 * FOCAL, 0, WIDTH], [0, 2 * FOCAL, HEIGHT], [0, 0, 1]])
    size = (2 * WIDTH, 2 * HEIGHT)
    picture = np.full((size[1], size[0], 3), (38, 40, 46), np.uint8)
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    for corner, right, down, texture in planes:
        rows, columns = texture.shape[:2]
        sides = np.column_stack([np.divide(right, columns), np.divide(down, rows), np.subtract(corner, centre)])
        onto = camera @ rotation @ sides
        back = np.linalg.inv(onto)
        covered = cv2.warpPerspective(np.full((rows, columns), 255, np.uint8), onto, size) > 127
        # What lies behind the camera is projected too.
        in_front = back[2, 0] * x + back[2, 1] * y + back[2, 2] > 0
        picture = np.where((covered & in_front)[..., None], cv2.warpPerspective(texture, onto, size), picture)
    small = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    shade = np.linspace(1.05, 0.75, WIDTH)[None, :, None] if light < 1 else 1.0
    noise = np.random.default_rng(1).normal(0, 3, small.shape)
    return np.clip(small * light * shade + noise, 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("first_look.jpg"))
    parser.add_argument("--variant", default="compact")
    arguments = parser.parse_args()

    planes = hall()
    images = view(planes, (-0.5, 0.0, 0.0), 0.04, 0.05), view(planes, (0.75, -0.1, 1.0), -0.12, 0.09, light=0.8)

    matcher = smc.SemanticMatcher.from_pretrained(arguments.variant, max_keypoints=1536)
    (features0, map0), (features1, map1) = (matcher.extract_with_map(image) for image in images)
    matches = smc.verify(matcher.match(features0, features1), "fundamental")
    print(matches)

    rows = [matches.plot(*images, title=arguments.variant, height=HEIGHT, max_lines=90)]
    if map0 is not None:
        rows.append(draw_semantics(*images, map0, map1, title=arguments.variant, height=HEIGHT))
    write_image(arguments.output, np.vstack(rows), jpeg_quality=82)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    try:
        main()
    except SemanticMatcherError as error:
        sys.exit(f"error: {error}")
