"""Sub-pixel alignment of matched keypoints between two views: the second view's image decides where a point lies.

What :mod:`semantic_matcher_core.motion.disparity` does along a row, here in both directions and between views that
differ in scale, rotation and slant: the patch of the first view is warped as the motion between the views warps it.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np

from semantic_matcher_core.motion.sampling import STD_OF_BLURRED_NOISE, cubic_weights, prepared

_RADIUS = 5
_ITERATIONS = 6
# The farthest that a point may move.
_MAX_STEP_PX = 2.0
_CONVERGED_PX = 0.02
_SETTLED_SHARE = 0.9
_MIN_CORRELATION = 0.75
_MAX_STD_PX = 0.5
# How much farther away a keypoint's patch may be seen from, in levels of a pyramid of halves.
_LEVELS = 4


class PatchImage:
    """An image made ready for alignment, once for all the views that it is aligned with.

    Args:
        image: ``H x W`` or ``H x W x 3``.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.full = prepared(image, "given")

    def level(self, number: int) -> tuple[np.ndarray, float]:
        """Return the image at 1 / 2^number of its size, or the smallest there is, and its scale.

        Pixel (x, y) of it has its centre on pixel (x, y) / scale of the image, as pyrDown has it.
        """
        number = min(number, len(self._levels) - 1)
        return self._levels[number], 0.5**number

    @functools.cached_property
    def _levels(self) -> list[np.ndarray]:
        # Whole at once: threads that locate a camera in the same stored view must not each add to it.
        levels = [self.full]
        while len(levels) <= _LEVELS and min(levels[-1].shape) >= 32:
            levels.append(cv2.pyrDown(levels[-1]))
        return levels


def align_patches(
    first: PatchImage,
    second: PatchImage,
    points0: np.ndarray,
    points1: np.ndarray,
    warps: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Move points of the second image to where the patches around those of the first are found again.

    Args:
        first, second: the images.
        points0, points1: ``M x 2`` pixels.
        warps: ``M x 2 x 2``, what a small step in the first image is in the second.

    Returns:
        ``M x 2`` pixels, and ``M`` bool: where they hold. Elsewhere they are as given.
    """
    count = len(points0)
    if not count:
        return points1, np.zeros(0, bool)
    inverse, sane = _inverted(warps)
    offsets = np.arange(-_RADIUS - 1, _RADIUS + 2, dtype=np.float64)
    grid = np.stack(np.meshgrid(offsets, offsets), axis=-1)
    template = np.zeros((count, *grid.shape[:2]), np.float32)
    inside = np.zeros(count, bool)
    levels = np.clip(np.round(np.log2(np.maximum(_magnification(inverse), 1.0))), 0, _LEVELS).astype(int)
    for number in np.unique(levels):
        rows = np.flatnonzero(levels == number)
        image, scale = first.level(int(number))
        where = points0[rows][:, None, None] + grid @ inverse[rows].transpose(0, 2, 1)[:, None]
        where = (where * scale).astype(np.float32)
        for chunk in np.array_split(np.arange(len(rows)), len(rows) // 2000 + 1):  # remap's largest side is 32767
            flat = where[chunk].reshape(-1, len(offsets), 2)
            sampled = cv2.remap(image, flat[..., 0], flat[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            template[rows[chunk]] = sampled.reshape(-1, len(offsets), len(offsets))
        limit = np.array([image.shape[1] - 1, image.shape[0] - 1])
        inside[rows] = ((where >= 0) & (where <= limit)).all(axis=(1, 2, 3))
    image = second.full
    reach = _RADIUS + int(np.ceil(_MAX_STEP_PX))
    limit = np.array([image.shape[1] - 1, image.shape[0] - 1])
    inside &= sane & ((points1 >= _RADIUS) & (points1 <= limit - _RADIUS)).all(axis=1)

    gradients = np.stack(
        [template[:, 1:-1, 2:] - template[:, 1:-1, :-2], template[:, 2:, 1:-1] - template[:, :-2, 1:-1]]
    )
    gradients /= 2
    side = 2 * _RADIUS + 1
    template = _centred(template[:, 1:-1, 1:-1].reshape(count, -1))
    contrast = (template**2).sum(axis=1) + 1e-6
    flat_gradients = gradients.reshape(2, count, -1).transpose(1, 0, 2)
    flat_gradients = flat_gradients - flat_gradients.mean(axis=2, keepdims=True)
    share = flat_gradients @ template[:, :, None] / contrast[:, None, None]
    flat_gradients -= share * template[:, None]
    solve = np.linalg.inv(flat_gradients @ flat_gradients.transpose(0, 2, 1) + 1e-6 * np.eye(2))

    base = np.floor(points1).astype(np.intp) - reach - 1
    blocks = _blocks(image, base, 2 * reach + 4)
    position, step = points1.copy(), np.full(count, np.inf)
    for _ in range(_ITERATIONS):
        patches = _centred(_shifted(blocks, position - base, side).reshape(count, -1))
        gain = np.maximum((template * patches).sum(axis=1) / contrast, 0.1)
        moved = -(solve @ (flat_gradients @ patches[:, :, None]))[:, :, 0] / gain[:, None]
        before = position
        position = np.clip(position + np.clip(moved, -1, 1), points1 - _MAX_STEP_PX, points1 + _MAX_STEP_PX)
        step = np.abs(position - before).max(axis=1)
        # What has not settled when nearly all have will hardly do so.
        if inside.any() and (step[inside] < _CONVERGED_PX).mean() >= _SETTLED_SHARE:
            break
    patches = _centred(_shifted(blocks, position - base, side).reshape(count, -1))
    both = (template * patches).sum(axis=1)
    correlation = both / np.sqrt(contrast * ((patches**2).sum(axis=1) + 1e-6))
    gain = np.maximum(both / contrast, 1e-6)
    variance = ((patches - gain[:, None] * template) ** 2).sum(axis=1) / (side**2 - 4) + 1 / 12
    std = STD_OF_BLURRED_NOISE * np.sqrt(variance * np.trace(solve, axis1=1, axis2=2)) / gain
    good = inside & (step < 4 * _CONVERGED_PX) & (correlation >= _MIN_CORRELATION) & (std <= _MAX_STD_PX)
    good &= (np.abs(position - points1) < _MAX_STEP_PX).all(axis=1)
    return np.where(good[:, None], position, points1), good


def _inverted(warps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return inverses, and which are usable: neither mirrored nor squeezed flat."""
    finite = np.isfinite(warps).all(axis=(1, 2))
    warps = np.where(finite[:, None, None], warps, 0.0)
    determinant = np.linalg.det(warps)
    size = np.abs(warps).max(axis=(1, 2))
    sane = finite & (determinant > 0.05 * size**2) & (size > 0.06) & (size < 16)
    return np.linalg.inv(np.where(sane[:, None, None], warps, np.eye(2))), sane


def _magnification(inverse: np.ndarray) -> np.ndarray:
    return np.sqrt(np.abs(np.linalg.det(inverse)))


def _centred(patches: np.ndarray) -> Any:
    return patches - patches.mean(axis=1, keepdims=True)


def _blocks(image: np.ndarray, base: np.ndarray, side: int) -> np.ndarray:
    """Return ``M x side x side`` pixels from (x, y) ``base`` on; the border is repeated."""
    steps = np.arange(side)
    rows = np.clip(base[:, 1, None] + steps, 0, image.shape[0] - 1)
    columns = np.clip(base[:, 0, None] + steps, 0, image.shape[1] - 1)
    return image[rows[:, :, None], columns[:, None, :]]


def _shifted(blocks: np.ndarray, centre: np.ndarray, side: int) -> np.ndarray:
    """Return ``M x side x side`` patches of the blocks, centred on (x, y) ``centre`` of each."""
    whole = np.floor(centre)
    x_weights, y_weights = (cubic_weights(centre[:, i] - whole[:, i]) for i in (0, 1))
    start = whole.astype(np.intp) - side // 2 - 1
    steps = np.arange(side + 3)
    rows, columns = start[:, 1, None] + steps, start[:, 0, None] + steps
    around = blocks[np.arange(len(blocks))[:, None, None], rows[:, :, None], columns[:, None, :]]
    lines = sum(y_weights[:, k, None, None] * around[:, k : k + side] for k in range(4))
    return sum(x_weights[:, k, None, None] * lines[:, :, k : k + side] for k in range(4))
