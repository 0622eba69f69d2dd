"""Two images side by side with their matches; drawn by OpenCV into an array, no display needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.inputs import as_picture
from semantic_matcher_core.types import Features, Matches
from semantic_matcher_core.viz.picture import Picture

if TYPE_CHECKING:
    from torch import Tensor

COLOURS = ("auto", "confidence", "inlier")

_BACKGROUND = (24, 26, 30)
_TEXT = (236, 238, 242)
_FAINT = (150, 156, 166)
_KEYPOINT = (170, 178, 190)
_INLIER = (64, 224, 128)
_OUTLIER = (235, 70, 70)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# OpenCV draws at fractions of a pixel: coordinates are shifted by this many bits.
_SHIFT = 4
# Widths of an image in its heights, and in pixels: two of them still fit into a JPEG (65500).
_WIDEST, _MAX_WIDTH = 8, 16384
_MAX_BLANK, _EMPTY = 8192, 40


@dataclass(frozen=True)
class _Placement:
    """Where an image lies in the canvas: ``canvas = scale * (xy + 0.5) - 0.5 + offset``."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def __call__(self, points: np.ndarray) -> np.ndarray:
        scale = np.array([self.scale_x, self.scale_y])
        return (points + 0.5) * scale - 0.5 + (self.left, self.top)


def draw_matches(
    image0: Any,
    image1: Any,
    matches: Matches,
    *,
    features0: Features | None = None,
    features1: Features | None = None,
    title: str = "",
    colour: str = "auto",
    max_lines: int = 200,
    height: int = 480,
) -> Picture:
    """Draw the matches of one pair.

    Args:
        image0, image1: anything that ``SemanticMatcher.extract`` takes, as the matches' keypoints mean it; ``None``
            for an empty panel.
        matches: of this pair.
        features0, features1: draws the keypoints that found no match as well.
        title: what stands on the left of the strip above, e.g. the variant; counts follow by themselves.
        colour: ``"confidence"``: lines run from blue (least) to red (most), with a scale; ``"inlier"``: green where the
            geometric check agreed, red where not; ``"auto"``: inlier where a check ran, else confidence.
        max_lines: draw at most this many lines, spread over the image, so that they can be told apart; all matched
            keypoints are drawn as dots. The strip says how many lines are shown.
        height: pixels that each image is scaled to, or less where it would become too wide to be looked at.

    Returns:
        ``H x W x 3`` uint8 RGB.

    Raises:
        ImageError: an image is none, or is empty.
        ShapeError: matches of several pairs.
        ConfigError: unknown ``colour``, or ``"inlier"`` without a geometric check; sizes out of range.
    """
    if colour not in COLOURS:
        raise ConfigError(f"unknown colour {colour!r}; use one of {', '.join(COLOURS)}")
    if colour == "auto":
        colour = "confidence" if matches.inlier is None else "inlier"
    if colour == "inlier" and matches.inlier is None:
        raise ConfigError("colour 'inlier' needs matches that a geometric check has seen (`verify`)")
    if max_lines < 0 or not 32 <= height <= 8192:
        raise ConfigError(f"max_lines must be at least 0 and height 32 to 8192, got {max_lines} and {height}")
    if matches.batch_size != 1:
        raise ShapeError(f"a picture shows one pair, these are matches of {matches.batch_size}; use of_pair(index)")
    images = [
        _blank(features, points) if image is None else as_picture(image)
        for image, features, points in (
            (image0, features0, matches.keypoints0),
            (image1, features1, matches.keypoints1),
        )
    ]
    pictures = [_fit(image, height) for image in images]
    strip = max(30, round(height * 0.075))
    gap = max(4, height // 96)
    canvas = np.full((strip + height, sum(p.shape[1] for p in pictures) + gap, 3), _BACKGROUND, np.uint8)
    placements = []
    left = 0
    for image, picture in zip(images, pictures, strict=True):
        tall, width = picture.shape[:2]
        top = strip + (height - tall) // 2
        canvas[top : top + tall, left : left + width] = picture
        placements.append(_Placement(width / image.shape[1], tall / image.shape[0], left, top))
        left += width + gap

    points0 = placements[0](_numpy(matches.keypoints0))
    points1 = placements[1](_numpy(matches.keypoints1))
    good = np.ones(len(matches), bool) if matches.inlier is None else matches.inlier.detach().cpu().numpy()
    confidence = _numpy(matches.confidence)
    low, high = _range(confidence)
    if colour == "inlier":
        colours = np.where(good[:, None], _INLIER, _OUTLIER).astype(np.uint8)
    else:
        colours = _turbo((confidence - low) / (high - low))

    unit = height / 480
    for features, placement in ((features0, placements[0]), (features1, placements[1])):
        if features is not None:
            centres = placement(_numpy(features.keypoints[0]))
            _dots(canvas, centres, np.tile(_KEYPOINT, (len(centres), 1)), radius=1.5 * unit, opacity=0.6)
    shown = _spread(points0, points1, confidence, good, max_lines, canvas.shape)
    thickness = max(1, round(unit))
    if colour == "inlier":
        # Fainter, and below: what is right is to be seen first.
        wrong = shown[~good[shown]]
        _lines(canvas, points0[wrong], points1[wrong], colours[wrong], thickness=thickness, opacity=0.35)
        right = shown[good[shown]]
        _lines(canvas, points0[right], points1[right], colours[right], thickness=thickness, opacity=0.8)
    else:
        _lines(canvas, points0[shown], points1[shown], colours[shown], thickness=thickness, opacity=0.6)
    below_first = np.argsort(good, kind="stable")
    _dots(canvas, points0[below_first], colours[below_first], radius=2.3 * unit)
    _dots(canvas, points1[below_first], colours[below_first], radius=2.3 * unit)
    _strip(canvas[:strip], title, _summary(matches, features0, features1, len(shown)), colour, (low, high))
    return Picture.of(canvas)


def _blank(features: Features | None, points: Tensor) -> np.ndarray:
    """An empty panel that holds the keypoints."""
    height, width = features.image_size if features is not None else (1, 1)
    if len(points):
        reach = points.detach().nan_to_num().clamp(0, _MAX_BLANK).max(dim=0).values.tolist()
        width, height = max(width, int(reach[0]) + 1), max(height, int(reach[1]) + 1)
    # What a file says of sizes is not to decide how much memory is taken.
    return np.full((min(height, _MAX_BLANK), min(width, _MAX_BLANK), 3), _EMPTY, np.uint8)


def _fit(image: np.ndarray, height: int) -> np.ndarray:
    # Both sides have a limit: a line camera's 10000 x 1 would become two gigabytes at this height.
    scale = min(height / image.shape[0], min(_WIDEST * height, _MAX_WIDTH) / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def _range(confidence: np.ndarray) -> tuple[float, float]:
    if not len(confidence):
        return 0.0, 1.0
    low, high = float(confidence.min()), float(confidence.max())
    return (low, high) if high - low > 1e-6 else (low - 0.5, high + 0.5)


def _turbo(share: np.ndarray) -> np.ndarray:
    """RGB of 0 … 1; the ends of the map are left out, they are too dark on a picture."""
    if not len(share):
        return np.zeros((0, 3), np.uint8)
    levels = np.clip(np.round(share * 255 * 0.86 + 255 * 0.1), 0, 255).astype(np.uint8)
    return cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_TURBO)[:, 0, ::-1]


def _spread(
    points0: np.ndarray,
    points1: np.ndarray,
    confidence: np.ndarray,
    good: np.ndarray,
    limit: int,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Up to ``limit`` of the matches, the surest of every part of the first image in turn; the surest drawn last.

    With a geometric check, inliers and outliers are shown in the share that they have.
    """
    if len(points0) <= limit:
        chosen = np.arange(len(points0))
    else:
        inliers = round(limit * good.mean())
        parts = ((np.flatnonzero(good), inliers), (np.flatnonzero(~good), limit - inliers))
        chosen = np.concatenate([rows[_by_cell(points0[rows], confidence[rows], n, shape)] for rows, n in parts])
    return chosen[np.lexsort((confidence[chosen], good[chosen]))]


def _by_cell(points: np.ndarray, confidence: np.ndarray, limit: int, shape: tuple[int, ...]) -> np.ndarray:
    side = max(1.0, np.sqrt(shape[0] * shape[1] / 2 / max(1, limit)))
    cells = np.floor(points / side).astype(np.int64)
    cell = cells[:, 0] * 100_003 + cells[:, 1]
    order = np.lexsort((-confidence, cell))
    # The rank of each match within its cell: first the best of all cells, then their second best, and so on.
    starts = np.flatnonzero(np.r_[True, np.diff(cell[order]) != 0])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return order[np.lexsort((-confidence[order], rank))][:limit]


def _lines(
    canvas: np.ndarray, start: np.ndarray, end: np.ndarray, colours: np.ndarray, *, thickness: int, opacity: float
) -> None:
    over = canvas.copy()
    for a, b, colour in zip(_fixed(start), _fixed(end), colours.tolist(), strict=True):
        cv2.line(over, a, b, colour, thickness, cv2.LINE_AA, _SHIFT)
    cv2.addWeighted(over, opacity, canvas, 1 - opacity, 0, dst=canvas)


def _dots(
    canvas: np.ndarray,
    centres: np.ndarray,
    colours: np.ndarray,
    *,
    radius: float,
    opacity: float = 1.0,
) -> None:
    over = canvas if opacity == 1 else canvas.copy()
    size = max(1, round(radius * 2**_SHIFT))
    for centre, colour in zip(_fixed(centres), colours.tolist(), strict=True):
        cv2.circle(over, centre, size, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)
    if over is not canvas:
        cv2.addWeighted(over, opacity, canvas, 1 - opacity, 0, dst=canvas)


def _fixed(points: np.ndarray) -> list[tuple[int, int]]:
    limited = np.clip(points, -32768, 32767)
    return [(int(x), int(y)) for x, y in np.round(limited * 2**_SHIFT)]


def _summary(matches: Matches, features0: Features | None, features1: Features | None, shown: int) -> str:
    parts = []
    if features0 is not None and features1 is not None:
        parts.append(f"{features0.keypoints.shape[1]} + {features1.keypoints.shape[1]} keypoints")
    parts.append(f"{len(matches)} match{'' if len(matches) == 1 else 'es'}")
    if matches.inlier is not None:
        inliers = int(matches.inlier.sum())
        share = f" ({inliers / len(matches):.0%})" if len(matches) else ""
        parts.append(f"{inliers} inlier{'' if inliers == 1 else 's'}{share}")
    if shown < len(matches):
        parts.append(f"{shown} lines shown")
    return ", ".join(parts)


def _strip(strip: np.ndarray, title: str, summary: str, colour: str, scale: tuple[float, float]) -> None:
    height, width = strip.shape[:2]
    size = height / 62
    margin = height // 3
    right = width - margin
    if colour == "confidence" and width > 420:
        right = _colour_bar(strip, right, scale, size)
    # Hershey fonts have no glyphs beyond ASCII.
    title, summary = (text.encode("ascii", "replace").decode() for text in (title, summary))
    if title:
        drawn = _text(strip, title, margin, right, size, _TEXT)
        margin = drawn + height // 2
    _text(strip, summary, margin, right, size, _FAINT if title else _TEXT)


def _colour_bar(strip: np.ndarray, right: int, scale: tuple[float, float], size: float) -> int:
    height = strip.shape[0]
    length, thick = height * 3, max(4, height // 5)
    labels = [f"{value:.2f}" for value in scale]
    widths = [cv2.getTextSize(text, _FONT, size * 0.85, 1)[0][0] for text in labels]
    x = right - widths[1]
    _text(strip, labels[1], x, right + 8, size * 0.85, _FAINT)
    x -= height // 5 + length
    top = (height - thick) // 2
    strip[top : top + thick, x : x + length] = _turbo(np.linspace(0, 1, length))[None]
    x -= height // 5 + widths[0]
    _text(strip, labels[0], x, right, size * 0.85, _FAINT)
    return x - height // 2


def _text(strip: np.ndarray, text: str, left: int, right: int, size: float, colour: tuple[int, int, int]) -> int:
    """Draw text that starts at ``left``, smaller or cut where it would pass ``right``; returns where it ends."""
    smallest = size * 0.7
    while cv2.getTextSize(text, _FONT, size, 1)[0][0] > right - left and size > smallest:
        size *= 0.95
    while len(text) > 4 and cv2.getTextSize(text, _FONT, size, 1)[0][0] > right - left:
        text = text[:-4] + "..."
    (width, ascent), _ = cv2.getTextSize(text, _FONT, size, 1)
    cv2.putText(strip, text, (left, (strip.shape[0] + ascent) // 2), _FONT, size, colour, 1, cv2.LINE_AA)
    return left + width


def _numpy(tensor: object) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()  # type: ignore[attr-defined]
