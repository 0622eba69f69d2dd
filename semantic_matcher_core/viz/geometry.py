"""Pictures of the geometry between two images: one laid over the other, and epipolar lines."""

from __future__ import annotations

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, PoseError
from semantic_matcher_core.types import Matches
from semantic_matcher_core.viz.canvas import crosses, dots, fit, layout, lines, text
from semantic_matcher_core.viz.palette import INLIER, MARK, OUTLIER, THEMES
from semantic_matcher_core.viz.picture import Picture
from semantic_matcher_core.viz.strip import Legend, draw_strip

_CHEQUERS, _LINES = 10, 16


def draw_warp(
    image0: np.ndarray,
    image1: np.ndarray,
    matches: Matches,
    *,
    title: str = "",
    summary: str = "",
    height: int = 480,
    theme: str = "dark",
) -> Picture:
    """Lay the first image over the second by their homography, in squares that alternate.

    Where the two agree, edges run on from square to square. Beside it stands the second image alone.

    Args:
        image0, image1: ``H x W x 3`` uint8 RGB.
        matches: with ``model`` of type ``"homography"``.
        title, summary: what stands in the strip above.
        height, theme: as for ``draw_matches``.

    Raises:
        ConfigError: the matches were not checked by a homography.
        PoseError: none was found.
    """
    model = _model(matches, "warp", "homography")
    # Drawn at the size of the picture: the model goes from pixels of one image as given to those of the other.
    target = fit(image1, height)
    to_target = _resize(image1.shape, target.shape)
    warped, inside = (
        cv2.warpPerspective(source, to_target @ model, target.shape[1::-1], flags=cv2.INTER_LINEAR)
        for source in (image0, np.full(image0.shape[:2], 255, np.uint8))
    )
    side = max(8, max(target.shape[:2]) // _CHEQUERS)
    rows, columns = np.indices(target.shape[:2]) // side
    first = ((rows + columns) % 2 == 0) & (inside > 127)
    overlay = np.where(first[..., None], warped, target)
    canvas, strip, _ = layout([target, overlay], height, theme)
    edges, _ = cv2.findContours((inside > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    left = canvas.shape[1] - target.shape[1]
    top = strip + (height - target.shape[0]) // 2
    cv2.drawContours(canvas, edges, -1, MARK, max(1, height // 320), cv2.LINE_AA, offset=(left, top))
    legend = Legend(((MARK, "", "inside the white line: the first image, in every other square"),))
    draw_strip(canvas[:strip], title, summary, legend, THEMES[theme])
    return Picture.of(canvas)


def draw_epipolar(
    image0: np.ndarray,
    image1: np.ndarray,
    matches: Matches,
    *,
    cameras: tuple[np.ndarray, np.ndarray] | None = None,
    title: str = "",
    summary: str = "",
    height: int = 480,
    theme: str = "dark",
) -> Picture:
    """Draw numbered points of the first image, and in the second their epipolar lines and matches.

    Args:
        image0, image1: ``H x W x 3`` uint8 RGB.
        matches: with ``model`` of type ``"fundamental"`` or ``"essential"``.
        cameras: ``3 x 3`` matrices of both cameras, for an essential matrix.
        title, summary, height, theme: as for :func:`draw_warp`.

    Raises:
        ConfigError: the matches were not checked by such a model, or an essential matrix comes without cameras.
        PoseError: none was found.
    """
    model = _model(matches, "epipolar", "fundamental", "essential")
    if matches.model_type == "essential":
        if cameras is None:
            raise ConfigError("view 'epipolar' of an essential matrix needs cameras=(K0, K1)")
        model = np.linalg.inv(cameras[1]).T @ model @ np.linalg.inv(cameras[0])
    canvas, strip, placements = layout([image0, image1], height, theme)
    points0 = matches.keypoints0.detach().cpu().double().numpy()
    points1 = matches.keypoints1.detach().cpu().double().numpy()
    good = np.ones(len(matches), bool) if matches.inlier is None else matches.inlier.cpu().numpy()
    rows = _some(points0, good)
    unit = height / 480
    for number, row in enumerate(rows, start=1):
        colour = INLIER if good[row] else OUTLIER
        segment = _in_image(model @ np.append(points0[row], 1.0), image1.shape)
        if segment is not None:
            ends = placements[1](segment)
            lines(canvas, ends[:1], ends[1:], np.array([colour]), thickness=max(1, round(unit)), opacity=0.8)
        for points, placement in ((points0, placements[0]), (points1, placements[1])):
            place = placement(points[row : row + 1])
            if good[row]:
                dots(canvas, place, np.array([colour]), radius=3 * unit)
            else:
                crosses(canvas, place, colour, radius=3 * unit, thickness=max(1, round(1.4 * unit)))
            x, y = (int(v) for v in np.clip(np.nan_to_num(place[0], nan=-99), -99, 32767))
            text(canvas, str(number), x + round(5 * unit), canvas.shape[1], y, 0.38 * unit, MARK, rim=True)
    legend = Legend(((INLIER, "dot", "inlier and its line"), (OUTLIER, "cross", "outlier")))
    draw_strip(canvas[:strip], title, summary, legend, THEMES[theme])
    return Picture.of(canvas)


def _resize(shape: tuple[int, ...], target: tuple[int, ...]) -> np.ndarray:
    """Return ``3 x 3``: pixels of an image to those of the same one resized; centres of pixels are whole numbers in
    both.
    """
    x, y = target[1] / shape[1], target[0] / shape[0]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1.0]])


def _some(points: np.ndarray, good: np.ndarray) -> list[int]:
    """Return a few matches far from each other, inliers before outliers."""
    finite = np.isfinite(points).all(axis=1)
    chosen: list[int] = []
    for rows, limit in ((np.flatnonzero(good & finite), _LINES), (np.flatnonzero(~good & finite), 3)):
        nearest = np.full(len(rows), np.inf)
        for _ in range(min(limit, len(rows))):
            # Next the one that is farthest from all chosen so far.
            pick = int(nearest.argmax()) if chosen else 0
            chosen.append(int(rows[pick]))
            nearest = np.minimum(nearest, np.linalg.norm(points[rows] - points[rows[pick]], axis=1))
            nearest[pick] = -1
    return chosen


def _in_image(line: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return where a line ``a x + b y + c = 0`` meets the edges of an image, ``2 x 2``; ``None`` where it misses it."""
    (a, b, c), height, width = line, shape[0], shape[1]
    left, right, top, bottom = -0.5, width - 0.5, -0.5, height - 0.5
    ends = []
    if b:
        ends += [(x, -(a * x + c) / b) for x in (left, right)]
    if a:
        ends += [(-(b * y + c) / a, y) for y in (top, bottom)]
    slack = 1e-6 * max(height, width)
    inside = [e for e in ends if left - slack <= e[0] <= right + slack and top - slack <= e[1] <= bottom + slack]
    if len(inside) < 2:
        return None
    return np.array([min(inside), max(inside)])


def _model(matches: Matches, view: str, *kinds: str) -> np.ndarray:
    if matches.model is not None and matches.model_type in kinds:
        return matches.model.detach().cpu().double().numpy()
    if matches.model is None and matches.inlier is not None:
        raise PoseError(
            f"no model was found in a check of {len(matches)} matches, so view {view!r} has nothing to show"
        )
    raise ConfigError(f"view {view!r} needs matches with a model: verify(matches, {kinds[0]!r})")
