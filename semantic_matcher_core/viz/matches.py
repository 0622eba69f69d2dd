"""Pictures of the matches of one pair: lines between two images, or arrows of motion on one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from semantic_matcher_core.errors import ConfigError, ShapeError, check_choice
from semantic_matcher_core.inputs import as_picture
from semantic_matcher_core.types import Features, Matches
from semantic_matcher_core.viz.canvas import crosses, dots, layout, lines
from semantic_matcher_core.viz.geometry import draw_epipolar, draw_warp
from semantic_matcher_core.viz.palette import INLIER, KEYPOINT, OUTLIER, THEMES, amount_colours
from semantic_matcher_core.viz.picture import Picture
from semantic_matcher_core.viz.spread import spread
from semantic_matcher_core.viz.strip import Legend, draw_strip

if TYPE_CHECKING:
    from torch import Tensor

COLOURS = ("auto", "confidence", "inlier")
VIEWS = ("lines", "arrows", "warp", "epipolar")

_MAX_BLANK, _EMPTY = 8192, 40


def draw_matches(
    image0: Any,
    image1: Any,
    matches: Matches,
    *,
    features0: Features | None = None,
    features1: Features | None = None,
    title: str = "",
    view: str = "lines",
    colour: str = "auto",
    max_lines: int = 120,
    height: int = 480,
    theme: str = "dark",
    cameras: tuple[np.ndarray, np.ndarray] | None = None,
) -> Picture:
    """Draw the matches of one pair.

    Args:
        image0, image1: anything that ``SemanticMatcher.extract`` takes, as the matches' keypoints mean it; ``None``
            for an empty panel.
        matches: of this pair.
        features0, features1: draws the keypoints that found no match as well.
        title: what stands on the left of the strip above, e.g. the variant; counts follow by themselves.
        view: ``"lines"`` from one image to the other beside it; ``"arrows"`` of motion on the second image, from where
            a point was to where it is, for images of one size of a camera that moves little; ``"warp"``, the first
            image laid over the second by their homography, in a chequered pattern; ``"epipolar"``, the lines on which
            points of the first image must lie in the second.
        colour: ``"confidence"``: from dark blue (least) to yellow (most), with a labelled scale; ``"inlier"``: blue
            where the geometric check agreed, vermilion, with a cross, where not; ``"auto"``: inlier where a check ran,
            else confidence.
        max_lines: draw at most this many lines, the surest of every part of the image first, so that they can be told
            apart; the ends of all others are small dots. The strip says how many are shown.
        height: pixels that each image is scaled to, or less where it would become too wide to be looked at.
        theme: ``"dark"`` or ``"light"``: what surrounds the images.
        cameras: ``3 x 3`` matrices of both, for ``"epipolar"`` of an essential matrix.

    Returns:
        ``H x W x 3`` uint8 RGB; colours as in :mod:`semantic_matcher_core.viz.palette`.

    Raises:
        ImageError: an image is none, or is empty.
        ShapeError: matches of several pairs.
        ConfigError: unknown ``colour``, ``view`` or ``theme``; what needs a geometric check, without one; sizes out of
            range.
    """
    colour = _checked(matches, colour, view, theme, max_lines, height)
    images = [
        blank(points, None if features is None else features.image_size) if image is None else as_picture(image)
        for image, features, points in (
            (image0, features0, matches.keypoints0),
            (image1, features1, matches.keypoints1),
        )
    ]
    if view in ("warp", "epipolar"):
        summary = _summary(matches, features0, features1, len(matches))
        if view == "warp":
            return draw_warp(images[0], images[1], matches, title=title, summary=summary, height=height, theme=theme)
        return draw_epipolar(
            images[0], images[1], matches, cameras=cameras, title=title, summary=summary, height=height, theme=theme
        )
    canvas, strip, placements = layout(images[1:] if view == "arrows" else images, height, theme)
    if view == "arrows":
        placements = [placements[0], placements[0]]
    points0 = placements[0](_numpy(matches.keypoints0))
    points1 = placements[1](_numpy(matches.keypoints1))
    good = np.ones(len(matches), bool) if matches.inlier is None else matches.inlier.detach().cpu().numpy()
    confidence = _numpy(matches.confidence)
    low, high = _range(confidence)
    if colour == "inlier":
        colours = np.where(good[:, None], INLIER, OUTLIER).astype(np.uint8)
        legend = Legend(((INLIER, "dot", "inlier"), (OUTLIER, "cross", "outlier")))
    else:
        colours = amount_colours((confidence - low) / (high - low))
        legend = Legend((), "similarity", (f"{low:.2f}", f"{high:.2f}"))

    unit = height / 480
    sides = [(features0, placements[0]), (features1, placements[1])]
    for features, placement in sides[1:] if view == "arrows" else sides:
        if features is not None:
            centres = placement(_numpy(features.keypoints[0]))
            dots(canvas, centres, np.tile(KEYPOINT, (len(centres), 1)), radius=1.5 * unit, opacity=0.6)
            legend = legend.also((KEYPOINT, "dot", "keypoint"))
    shown = spread(points0, confidence, good, max_lines, canvas.shape)
    hidden = np.setdiff1d(np.arange(len(matches)), shown)
    for points in (points1,) if view == "arrows" else (points0, points1):
        dots(canvas, points[hidden], colours[hidden], radius=1.3 * unit, opacity=0.7)
    thickness = max(1, round(unit))
    # Outliers fainter, and below: what is right is to be seen first.
    wrong, right = (shown[~good[shown]], shown[good[shown]]) if colour == "inlier" else (shown[:0], shown)
    for rows, opacity in ((wrong, 0.45), (right, 0.85 if colour == "inlier" else 0.75)):
        lines(
            canvas,
            points0[rows],
            points1[rows],
            colours[rows],
            thickness=thickness,
            opacity=opacity,
            arrows=view == "arrows",
        )
    for points in (points1,) if view == "arrows" else (points0, points1):
        crosses(canvas, points[wrong], OUTLIER, radius=2.6 * unit, thickness=max(1, round(1.2 * unit)))
        dots(canvas, points[right], colours[right], radius=(1.6 if view == "arrows" else 2.3) * unit)
    summary = _summary(matches, features0, features1, len(shown), "arrow" if view == "arrows" else "line")
    draw_strip(canvas[:strip], title, summary, legend, THEMES[theme])
    return Picture.of(canvas)


def _checked(matches: Matches, colour: str, view: str, theme: str, max_lines: int, height: int) -> str:
    """Return what ``colour`` stands for, after all arguments were found possible."""
    check_choice("colour", colour, COLOURS)
    check_choice("view", view, VIEWS)
    check_choice("theme", theme, THEMES)
    if colour == "inlier" and matches.inlier is None:
        raise ConfigError("colour 'inlier' needs matches that a geometric check has seen (`verify`)")
    if max_lines < 0 or not 32 <= height <= 8192:
        raise ConfigError(f"max_lines must be at least 0 and height 32 to 8192, got {max_lines} and {height}")
    if matches.batch_size != 1:
        raise ShapeError(f"a picture shows one pair, these are matches of {matches.batch_size}; use of_pair(index)")
    if colour == "auto":
        return "confidence" if matches.inlier is None else "inlier"
    return colour


def blank(points: Tensor, image_size: tuple[int, int] | None = None) -> np.ndarray:
    """Return an empty panel, of ``(height, width)`` where that is known, that holds ``N x 2`` points."""
    height, width = (max(1, side) for side in image_size or (1, 1))
    if len(points):
        reach = points.detach().nan_to_num().clamp(0, _MAX_BLANK).max(dim=0).values.tolist()
        width, height = max(width, int(reach[0]) + 1), max(height, int(reach[1]) + 1)
    # What a file says of sizes is not to decide how much memory is taken.
    return np.full((min(height, _MAX_BLANK), min(width, _MAX_BLANK), 3), _EMPTY, np.uint8)


def _range(confidence: np.ndarray) -> tuple[float, float]:
    if not len(confidence):
        return 0.0, 1.0
    low, high = float(confidence.min()), float(confidence.max())
    return (low, high) if high - low > 1e-6 else (low - 0.5, high + 0.5)


def _summary(
    matches: Matches, features0: Features | None, features1: Features | None, shown: int, what: str = "line"
) -> str:
    parts = []
    if features0 is not None and features1 is not None:
        parts.append(f"{features0.keypoints.shape[1]} + {features1.keypoints.shape[1]} keypoints")
    parts.append(f"{len(matches)} match{'' if len(matches) == 1 else 'es'}")
    if matches.inlier is not None:
        inliers = int(matches.inlier.sum())
        share = f" ({inliers / len(matches):.0%})" if len(matches) else ""
        parts.append(f"{inliers} inlier{'' if inliers == 1 else 's'}{share}")
    if shown < len(matches):
        parts.append(f"{shown} {what}s shown")
    return ", ".join(parts)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()
