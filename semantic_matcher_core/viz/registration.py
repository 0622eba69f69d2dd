"""Four panels of a registration: template, image with the template's mesh on it, image on the template, difference."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.viz.canvas import layout, text
from semantic_matcher_core.viz.palette import INLIER, MARK, THEMES, amount_colours

_THEME = THEMES["dark"]
_SHIFT = 4
# The grey-level difference that is drawn brightest.
_FULL_SCALE = 96.0
_NAMES = ("template", "image", "image on the template", "difference")


class Agreement(Protocol):
    """What is drawn of :class:`semantic_matcher_core.registration.pair.Agreement`."""

    @property
    def warped(self) -> np.ndarray:
        """``H x W x 3`` uint8, the image on the template."""

    @property
    def support(self) -> np.ndarray:
        """``H x W`` bool, where the map is known."""


def draw_registration(
    template: np.ndarray,
    image: np.ndarray,
    agreement: Agreement | None,
    lattice: np.ndarray | None,
    *,
    summary: str = "",
    height: int = 360,
) -> np.ndarray:
    """Draw one registration: template and image above, the image on the template and what differs below.

    Args:
        template, image: ``H x W x 3`` uint8 RGB.
        agreement, lattice: what :func:`~semantic_matcher_core.registration.pair.compare` gave and was given; ``None``
            where there is no registration, which leaves the last two panels empty.
        summary: what stands along the lower edge.
        height: pixels that each panel is scaled to.

    Returns:
        ``H x W x 3`` uint8 RGB of even height and width, as video encoders want.

    Raises:
        ConfigError: ``height`` is not in 32 … 4096.
    """
    if not 32 <= height <= 4096:
        raise ConfigError(f"height must be 32 to 4096 pixels, got {height}")
    if agreement is None or lattice is None:
        empty = np.full_like(template, _THEME.background)
        panels = [template, image, empty, empty]
    else:
        panels = [template, _with_mesh(image, lattice), _supported(agreement), _difference(template, agreement)]
    # Two by two: four in a row are too wide for a screen. What came in above, what was made of it below.
    rows = []
    for names, shown in ((_NAMES[:2], panels[:2]), (_NAMES[2:], panels[2:])):
        canvas, strip, placements = layout(shown, height, "dark")
        ends = [placements[1].left, canvas.shape[1]]
        for name, place, end in zip(names, placements, ends, strict=True):
            text(canvas, name, place.left + 6, end, strip // 2, height / 800, _THEME.faint)
        rows.append(canvas)
    width, tall = max(row.shape[1] for row in rows), rows[0].shape[0]
    canvas = np.full((2 * tall, width + width % 2, 3), _THEME.background, np.uint8)
    for top, row in zip((0, tall), rows, strict=True):
        canvas[top : top + tall, : row.shape[1]] = row
    if summary:
        band = max(16, height // 16)
        canvas[-band:] //= 4
        text(canvas, summary, 6, canvas.shape[1], canvas.shape[0] - band // 2, height / 700, _THEME.text)
    return canvas


def _with_mesh(image: np.ndarray, lattice: np.ndarray) -> np.ndarray:
    """Return the image with about a dozen of the lattice's rows and columns drawn on it."""
    drawn = image.copy()
    every = max(1, round(max(lattice.shape[:2]) / 14))
    limit = 8 * max(image.shape)
    points = np.round(np.clip(lattice, -limit, limit) * 2**_SHIFT).astype(np.int32)
    across = [*points[::every], points[-1], *points.transpose(1, 0, 2)[::every], points[:, -1]]
    lines = [np.ascontiguousarray(line) for line in across]
    thickness = max(1, round(max(image.shape) / 900))
    cv2.polylines(drawn, lines, False, INLIER, thickness, cv2.LINE_AA, _SHIFT)
    return drawn


def _supported(agreement: Agreement) -> np.ndarray:
    dimmed = np.where(agreement.support[..., None], agreement.warped, agreement.warped // 3)
    edges, _ = cv2.findContours(agreement.support.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(dimmed, edges, -1, MARK, max(1, round(max(dimmed.shape) / 600)), cv2.LINE_AA)
    return dimmed


def _difference(template: np.ndarray, agreement: Agreement) -> np.ndarray:
    grey, warped = (cv2.cvtColor(i, cv2.COLOR_RGB2GRAY).astype(np.float32) for i in (template, agreement.warped))
    level = np.clip(np.abs(grey - warped) / _FULL_SCALE * 255, 0, 255).astype(np.uint8)
    heat = amount_colours(level / 255)
    return np.where(agreement.support[..., None], heat, np.array(_THEME.background, np.uint8))
