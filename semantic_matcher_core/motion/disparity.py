"""Sub-pixel disparity: matched keypoints of a rectified pair, aligned along the row by what the images show.

Keypoints lie where a detector put them, to a pixel or half of one; depth needs a twentieth. So the patch around each
left keypoint is aligned with the right image, along the row alone, by Gauss-Newton steps (Lucas and Kanade, 1981;
inverse compositional form with gain and offset projected out, Baker and Matthews, IJCV 2004 and Bartoli, 2008).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.motion.sampling import STD_OF_BLURRED_NOISE, cubic_weights, prepared
from semantic_matcher_core.types import Matches

# Half the side of a patch: 11 x 11 pixels.
_RADIUS = 5
_ITERATIONS = 6
_SLANT_ITERATIONS = 4
# Typical and largest change of disparity from one pixel to the next on slanted surfaces; and the noise of grey values
# against which little texture is weighed.
_SLANT, _STEEPEST, _GREY_NOISE = 0.1, 0.4, 3.0
# A step of less than this many pixels ends the iteration.
_CONVERGED_PX = 0.01
# What is left between aligned patches: their correlation, and the standard deviation of the disparity that the
# remaining differences and the patch's own gradient along the row allow.
_MIN_CORRELATION = 0.7
_MAX_STD_PX = 0.3
# No alignment is better than its interpolation.
_LEAST_STD_PX = 0.01
# Share of a patch that must lie inside both images.
_MIN_INSIDE = 0.6


@dataclass(frozen=True, eq=False)
class RowAlignment:
    """Right columns of matched keypoints, aligned to a fraction of a pixel.

    Attributes:
        columns: ``M`` float64, x of each match in the right image; as given where ``aligned`` is false.
        std: ``M`` float64, expected standard deviation of the column in pixels; infinite where ``aligned`` is false.
        aligned: ``M`` bool; false where the patches do not agree, have nothing to hold on to along the row, leave the
            image, or are farther apart than the largest step.
    """

    columns: np.ndarray
    std: np.ndarray
    aligned: np.ndarray


def align_rows(
    left: np.ndarray, right: np.ndarray, points_left: np.ndarray, points_right: np.ndarray, *, max_step: float = 2.0
) -> RowAlignment:
    """Align matched keypoints of a rectified pair along the row.

    The images may differ in gain and offset from patch to patch. Where the rows of the matches differ by the same
    amount throughout (a rectification that is a little off), the right patches are taken that much lower.

    Args:
        left, right: rectified images, ``H x W`` or ``H x W x 3``, of any real type; they may differ in size.
        points_left, points_right: ``M x 2`` pixels.
        max_step: the farthest that a column may move, in pixels. Patches of 11 x 11 pixels find their way over about 2.

    Returns:
        The aligned columns, and for which matches they hold.

    Raises:
        ShapeError: an image is neither ``H x W`` nor ``H x W x 3``, or the two sets of points differ in length.
        ConfigError: ``max_step`` is not a positive number of pixels up to 8.
    """
    if not 0 < max_step <= 8:
        raise ConfigError(f"max_step must be more than 0 and at most 8 pixels, got {max_step!r}")
    p0: np.ndarray = np.asarray(points_left, dtype=np.float64).reshape(-1, 2)
    p1: np.ndarray = np.asarray(points_right, dtype=np.float64).reshape(-1, 2)
    if len(p0) != len(p1):
        raise ShapeError(f"each left point needs its right one, got {len(p0)} and {len(p1)}")
    grey0, grey1 = prepared(left, "left"), prepared(right, "right")
    if not len(p0):
        return RowAlignment(np.zeros(0), np.zeros(0), np.zeros(0, bool))
    finite = np.asarray(np.isfinite(np.hstack([p0, p1])).all(axis=1))
    p0, p1_given = np.where(finite[:, None], p0, 0.0), p1
    p1 = np.where(finite[:, None], p1, 0.0)
    rows1 = p0[:, 1] + _row_offset((p1 - p0)[finite, 1])

    reach = int(np.ceil(max_step))
    template = _strips(grey0, p0[:, 0], p0[:, 1], _RADIUS + 1)
    gradient = (template[:, :, 2:] - template[:, :, :-2]) / 2
    template = template[:, :, 1:-1]
    # The right image around each match, its rows interpolated once; every step only moves along them.
    base = np.floor(p1[:, 0]) - _RADIUS - reach - 3
    strips = _rows_of(grey1, base, rows1, 2 * (_RADIUS + reach) + 8)
    weight = _inside(grey0.shape, p0[:, 0], p0[:, 1]) * _inside(grey1.shape, p1[:, 0], rows1)
    total = weight.sum(axis=(1, 2))
    usable = finite & (total >= _MIN_INSIDE * (2 * _RADIUS + 1) ** 2)
    total = np.maximum(total, 1.0)

    def centred(patches: np.ndarray) -> np.ndarray:
        mean = (weight * patches).sum(axis=(1, 2)) / total
        return weight * (patches - mean[:, None, None])

    def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("mij,mij->m", a, b)

    tiny = 1e-6
    template = centred(template)
    contrast = dot(template, template) + tiny

    def independent(steepest: np.ndarray) -> np.ndarray:
        """Return what gain and offset cannot make up for."""
        steepest = centred(steepest)
        return steepest - template * (dot(template, steepest) / contrast)[:, None, None]

    # First the column alone, from up to max_step away ...
    straight = independent(gradient)
    information = dot(straight, straight) + tiny
    x = p1[:, 0].copy()
    for _ in range(_ITERATIONS):
        patches = centred(_columns_of(strips, x - base))
        # A gain near zero or below is no match; its step is bounded, and its correlation rejects it.
        gain = np.maximum(dot(template, patches) / contrast, 0.1)
        moved = np.clip(-dot(straight, patches) / (information * gain), -1.0, 1.0)
        x, before = np.clip(x + moved, p1[:, 0] - max_step, p1[:, 0] + max_step), x
        if np.abs(x - before)[usable].max(initial=0.0) < 4 * _CONVERGED_PX:
            break
    # ... then with the slant of what is seen, along and across the row: on a floor, disparity changes within a patch.
    offsets = np.arange(-_RADIUS, _RADIUS + 1, dtype=np.float32)
    steepest = np.stack(
        [straight, independent(gradient * offsets), independent(gradient * offsets[:, None])], axis=1
    ).reshape(len(x), 3, -1)
    normal = steepest @ steepest.transpose(0, 2, 1) + tiny * np.eye(3)
    # Little texture must not make up a slant: it is expected to be small.
    normal[:, [1, 2], [1, 2]] += ((_GREY_NOISE / _SLANT) ** 2) / np.maximum(gain, 0.1)[:, None] ** 2
    solve = np.linalg.inv(normal)
    slant, step = np.zeros((len(x), 2)), np.full(len(x), np.inf)
    for _ in range(_SLANT_ITERATIONS):
        patches = centred(_slanted(strips, x - base, slant, offsets))
        gain = np.maximum(dot(template, patches) / contrast, 0.1)
        pull = np.einsum("mkp,mp->mk", steepest, patches.reshape(len(x), -1)) / gain[:, None]
        pull[:, 1:] += slant * ((_GREY_NOISE / _SLANT) ** 2) / gain[:, None] ** 2
        moved = np.clip(-np.einsum("mkl,ml->mk", solve, pull), -0.5, 0.5)
        x, before = np.clip(x + moved[:, 0], p1[:, 0] - max_step, p1[:, 0] + max_step), x
        slant = np.clip(slant + moved[:, 1:], -_STEEPEST, _STEEPEST)
        step = np.abs(x - before)
        if step[usable].max(initial=0.0) < _CONVERGED_PX:
            break
    patches = centred(_slanted(strips, x - base, slant, offsets))
    correlation = dot(template, patches) / np.sqrt(contrast * (dot(patches, patches) + tiny))
    gain = np.maximum(dot(template, patches) / contrast, tiny)
    remaining = patches - gain[:, None, None] * template
    # Five values were fitted to each patch: column, slants, gain and offset. Grey values are whole numbers at best.
    variance = dot(remaining, remaining) / np.maximum(total - 5, 1.0) + 1 / 12
    std = np.hypot(STD_OF_BLURRED_NOISE * np.sqrt(variance * solve[:, 0, 0]) / gain, _LEAST_STD_PX)
    aligned = (
        usable
        & (step < 4 * _CONVERGED_PX)
        & (np.abs(x - p1[:, 0]) < max_step)
        & (correlation >= _MIN_CORRELATION)
        & (std <= _MAX_STD_PX)
    )
    return RowAlignment(np.where(aligned, x, p1_given[:, 0]), np.where(aligned, std, np.inf), aligned)


def aligned_matches(matches: Matches, left: np.ndarray, right: np.ndarray) -> Matches:
    """Keep the matches of a rectified pair whose disparity could be measured, with their aligned columns.

    Args:
        matches: of one pair.
        left, right: as for :func:`align_rows`.

    Returns:
        ``K`` matches, ``keypoints1`` moved along the row, all else as it was.
    """
    points = [keypoints.detach().cpu().double().numpy() for keypoints in (matches.keypoints0, matches.keypoints1)]
    alignment = align_rows(left, right, *points)
    moved = matches.keypoints1.clone()
    moved[:, 0] = torch.from_numpy(alignment.columns).to(moved)
    return replace(matches, keypoints1=moved)[alignment.aligned]


def _row_offset(differences: np.ndarray) -> float:
    """Return what the rows of the right image differ by from the left's: 0 unless the matches clearly agree on more."""
    if not len(differences):
        return 0.0
    middle = float(np.median(differences))
    spread = 1.4826 * float(np.median(np.abs(differences - middle)))
    return middle if abs(middle) > max(0.1, 4 * spread / np.sqrt(len(differences))) else 0.0


def _inside(shape: tuple[int, ...], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return ``M x 11 x 11``: 1 where the pixel of a patch lies in the image, else 0."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    columns, rows = x[:, None] + offsets, y[:, None] + offsets
    in_columns = (columns >= 0) & (columns <= shape[1] - 1)
    in_rows = (rows >= 0) & (rows <= shape[0] - 1)
    return (in_rows[:, :, None] & in_columns[:, None, :]).astype(np.float32)


def _rows_of(image: np.ndarray, first: np.ndarray, y: np.ndarray, width: int) -> np.ndarray:
    """Return ``M x 11 x width`` strips from whole columns ``first`` on, rows centred on ``y``; the border is
    repeated.
    """
    whole = np.floor(y)
    rows = whole[:, None].astype(np.intp) + np.arange(-_RADIUS - 1, _RADIUS + 3)
    columns = first[:, None].astype(np.intp) + np.arange(width)
    rows, columns = np.clip(rows, 0, image.shape[0] - 1), np.clip(columns, 0, image.shape[1] - 1)
    around = image[rows[:, :, None], columns[:, None, :]]
    weights = cubic_weights(y - whole)
    side = 2 * _RADIUS + 1
    return sum(weights[:, k, None, None] * around[:, k : k + side] for k in range(4))


def _columns_of(strips: np.ndarray, x: np.ndarray, radius: int = _RADIUS) -> np.ndarray:
    """Return ``M x 11 x (2 radius + 1)`` patches of strips, centred on column ``x`` of each."""
    whole = np.floor(x)
    columns = whole[:, None].astype(np.intp) + np.arange(-radius - 1, radius + 3)
    around = np.take_along_axis(strips, columns[:, None, :], axis=2)
    weights = cubic_weights(x - whole)
    side = 2 * radius + 1
    return sum(weights[:, k, None, None] * around[:, :, k : k + side] for k in range(4))


def _slanted(strips: np.ndarray, x: np.ndarray, slant: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return ``M x 11 x 11`` values of strips, at column ``x`` plus the slants times the offsets along and across
    the row.
    """
    along, across = (slant[:, i, None, None].astype(np.float32) for i in (0, 1))
    where = x[:, None, None].astype(np.float32) + offsets * (1 + along) + offsets[:, None] * across
    whole = np.floor(where)
    columns = np.clip(whole.astype(np.intp), 1, strips.shape[2] - 3)
    weights = cubic_weights((where - whole).reshape(-1)).reshape(*where.shape, 4)
    return sum(weights[..., k] * np.take_along_axis(strips, columns + (k - 1), axis=2) for k in range(4))


def _strips(image: np.ndarray, x: np.ndarray, y: np.ndarray, radius: int) -> np.ndarray:
    """Return ``M x 11 x (2 radius + 1)`` patches centred on (x, y)."""
    first = np.floor(x) - radius - 1
    return _columns_of(_rows_of(image, first, y, 2 * radius + 4), x - first, radius)
