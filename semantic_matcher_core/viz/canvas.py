"""Points, lines, arrows and text on an array, placed to fractions of a pixel; drawn by OpenCV, no display needed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from semantic_matcher_core.viz.palette import HALO, THEMES, Colour

FONT = cv2.FONT_HERSHEY_SIMPLEX
# OpenCV draws at fractions of a pixel: coordinates are shifted by this many bits.
_SHIFT = 4
# Widths of an image in its heights, and in pixels: two of them still fit into a JPEG (65500).
_WIDEST, _MAX_WIDTH = 8, 16384


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the canvas: ``canvas = scale * (xy + 0.5) - 0.5 + offset``."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def __call__(self, points: np.ndarray) -> np.ndarray:
        scale = np.array([self.scale_x, self.scale_y])
        return (points + 0.5) * scale - 0.5 + (self.left, self.top)


def fit(image: np.ndarray, height: int) -> np.ndarray:
    """Return the image at a height in pixels, or less where it would become too wide to be looked at."""
    # Both sides have a limit: a line camera's 10000 x 1 would become two gigabytes at this height.
    scale = min(height / image.shape[0], min(_WIDEST * height, _MAX_WIDTH) / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def layout(images: list[np.ndarray], height: int, theme: str) -> tuple[np.ndarray, int, list[Placement]]:
    """Return an empty strip above images side by side: the canvas, the strip's height, and where each image lies."""
    pictures = [fit(image, height) for image in images]
    gap = max(4, height // 96)
    width = sum(p.shape[1] for p in pictures) + gap * (len(pictures) - 1)
    # One image leaves half the room: title and legend stand in two rows.
    strip = max(30, round(height * 0.075)) * (1 if len(pictures) > 1 else 2)
    canvas = np.full((strip + height, width, 3), THEMES[theme].background, np.uint8)
    placements = []
    left = 0
    for image, picture in zip(images, pictures, strict=True):
        tall, wide = picture.shape[:2]
        top = strip + (height - tall) // 2
        canvas[top : top + tall, left : left + wide] = picture
        placements.append(Placement(wide / image.shape[1], tall / image.shape[0], left, top))
        left += wide + gap
    return canvas, strip, placements


def lines(
    canvas: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    colours: np.ndarray,
    *,
    thickness: int,
    opacity: float,
    arrows: bool = False,
) -> None:
    """Draw ``N`` lines, or arrows, with a dark rim that keeps them apart from what is below."""
    if not len(start):
        return
    over = canvas.copy()
    pairs = list(zip(fixed(start), fixed(end), strict=True))
    for a, b in pairs if arrows else ():
        _stroke(over, a, b, HALO, thickness + 2, arrows)
    for (a, b), colour in zip(pairs, colours.tolist(), strict=True):
        _stroke(over, a, b, colour, thickness, arrows)
    cv2.addWeighted(over, opacity, canvas, 1 - opacity, 0, dst=canvas)


def _stroke(
    canvas: np.ndarray, a: tuple[int, int], b: tuple[int, int], colour: Colour, thickness: int, arrow: bool
) -> None:
    length = np.hypot(b[0] - a[0], b[1] - a[1]) / 2**_SHIFT
    if not arrow or length < 3:
        cv2.line(canvas, a, b, colour, thickness, cv2.LINE_AA, _SHIFT)
    else:
        tip = min(0.4, (4 + 2 * thickness) / length)
        cv2.arrowedLine(canvas, a, b, colour, thickness, cv2.LINE_AA, _SHIFT, tip)


def dots(canvas: np.ndarray, centres: np.ndarray, colours: np.ndarray, *, radius: float, opacity: float = 1.0) -> None:
    """Draw ``N`` filled circles."""
    if not len(centres):
        return
    over = canvas if opacity == 1 else canvas.copy()
    size = max(1, round(radius * 2**_SHIFT))
    for centre, colour in zip(fixed(centres), colours.tolist(), strict=True):
        cv2.circle(over, centre, size, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    if over is not canvas:
        cv2.addWeighted(over, opacity, canvas, 1 - opacity, 0, dst=canvas)


def crosses(canvas: np.ndarray, centres: np.ndarray, colour: Colour, *, radius: float, thickness: int) -> None:
    """Draw ``N`` diagonal crosses."""
    for sign in (1, -1):
        arm = np.array([radius, sign * radius])
        for a, b in zip(fixed(centres - arm), fixed(centres + arm), strict=True):
            cv2.line(canvas, a, b, colour, thickness, cv2.LINE_AA, _SHIFT)


def ring(canvas: np.ndarray, centre: np.ndarray, colour: Colour, *, radius: float, thickness: int) -> None:
    """Draw a circle with a dark rim round a place."""
    (middle,) = fixed(np.asarray(centre, np.float64)[None])
    size = max(1, round(radius * 2**_SHIFT))
    cv2.circle(canvas, middle, size, HALO, thickness + 2, cv2.LINE_AA, _SHIFT)
    cv2.circle(canvas, middle, size, colour, thickness, cv2.LINE_AA, _SHIFT)


def fixed(points: np.ndarray) -> list[tuple[int, int]]:
    """Return points as OpenCV takes them with this file's shift; what is no number or far outside is clipped."""
    limited = np.clip(np.nan_to_num(points), -32768, 32767)
    return [(int(x), int(y)) for x, y in np.round(limited * 2**_SHIFT)]


def text(
    canvas: np.ndarray, words: str, left: int, right: int, middle: int, size: float, colour: Colour, rim: bool = False
) -> int:
    """Draw text that starts at ``left``, smaller or cut where it would pass ``right``; returns where it ends."""
    # Hershey fonts have no glyphs beyond ASCII.
    words = words.encode("ascii", "replace").decode()
    smallest = size * 0.7
    while text_width(words, size) > right - left and size > smallest:
        size *= 0.95
    while len(words) > 4 and text_width(words, size) > right - left:
        words = words[:-4] + "..."
    (width, ascent), _ = cv2.getTextSize(words, FONT, size, 1)
    place = (left, middle + ascent // 2)
    if rim:
        cv2.putText(canvas, words, place, FONT, size, HALO, 3, cv2.LINE_AA)
    cv2.putText(canvas, words, place, FONT, size, colour, 1, cv2.LINE_AA)
    return left + width


def text_width(words: str, size: float) -> int:
    """Measure the width of text in pixels."""
    return cv2.getTextSize(words, FONT, size, 1)[0][0]
