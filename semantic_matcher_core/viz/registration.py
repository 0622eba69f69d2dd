"""Four panels of a registration: template, image with the template's mesh on it, image on the template, difference."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.viz.palette import INLIER, MARK, THEMES, amount_colours

_BACKGROUND, _TEXT, _FAINT = THEMES["dark"].background, THEMES["dark"].text, THEMES["dark"].faint
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SHIFT = 4
# Widths of a panel in its heights; four panels of the widest still fit into a JPEG and a video.
_WIDEST, _NARROWEST = 3, 8
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
    height += height % 2
    if agreement is None or lattice is None:
        empty = np.full_like(template, _BACKGROUND)
        panels = [template, image, empty, empty]
    else:
        panels = [template, _with_mesh(image, lattice), _supported(agreement), _difference(template, agreement)]
    strip = max(28, height // 12 // 2 * 2)
    gap = max(4, height // 90)
    fitted = [_fit(panel, height) for panel in panels]
    # Two by two: four in a row are too wide for a screen. What came in above, what was made of it below.
    columns = [max(fitted[i].shape[1], fitted[i + 2].shape[1]) for i in (0, 1)]
    width = sum(columns) + gap
    row = strip + height
    canvas = np.full((2 * row, width + width % 2, 3), _BACKGROUND, np.uint8)
    for i, (name, panel) in enumerate(zip(_NAMES, fitted, strict=True)):
        left, top = (i % 2) * (columns[0] + gap), (i // 2) * row
        canvas[top + strip : top + row, left : left + panel.shape[1]] = panel
        size = _text_size(name, panel.shape[1], height / 800)
        cv2.putText(canvas, name, (left + 6, top + strip - strip // 3), _FONT, size, _FAINT, 1, cv2.LINE_AA)
    if summary:
        _caption(canvas, summary, height / 700)
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
    return np.where(agreement.support[..., None], heat, np.array(_BACKGROUND, np.uint8))


def _fit(image: np.ndarray, height: int) -> np.ndarray:
    """Return the image at a height, in bounds: one that is far wider than high is stretched, one far higher widened."""
    width = min(max(round(image.shape[1] * height / image.shape[0]), height // _NARROWEST), _WIDEST * height)
    shrinks = height < image.shape[0] and width <= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _text_size(text: str, width: int, wanted: float) -> float:
    needed = cv2.getTextSize(text, _FONT, wanted, 1)[0][0]
    return min(wanted, wanted * (width - 12) / needed)


def _caption(canvas: np.ndarray, text: str, size: float) -> None:
    """Draw text on a dark band along the lower edge."""
    text = text.encode("ascii", "replace").decode()  # Hershey fonts have no glyphs beyond ASCII
    size = _text_size(text, canvas.shape[1], size)
    (_, ascent), baseline = cv2.getTextSize(text, _FONT, size, 1)
    band = ascent + baseline + 8
    canvas[-band:] = canvas[-band:] // 4
    cv2.putText(canvas, text, (6, canvas.shape[0] - baseline - 4), _FONT, size, _TEXT, 1, cv2.LINE_AA)
