"""The strip above a picture: title, counts, and what its colours mean, in words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from semantic_matcher_core.viz.canvas import crosses, dots, text, text_width
from semantic_matcher_core.viz.palette import Colour, Theme, amount_colours


@dataclass(frozen=True)
class Legend:
    """What the colours of a picture mean.

    Attributes:
        marks: (colour, "dot", "cross" or "" for none, word) of each.
        amount: what the scale from dark blue to yellow shows, or "" for none.
        scale: what stands at its ends.
    """

    marks: tuple[tuple[Colour, str, str], ...] = ()
    amount: str = ""
    scale: tuple[str, str] = ("", "")

    def also(self, mark: tuple[Colour, str, str]) -> Legend:
        """Return the same with one mark more, once."""
        return self if mark in self.marks else replace(self, marks=(*self.marks, mark))


def draw_strip(strip: np.ndarray, title: str, summary: str, legend: Legend, theme: Theme) -> None:
    """Fill a strip, which is one row or, where it is more than a tenth as high as wide and 60 px, two.

    Args:
        strip: ``h x W x 3`` uint8, changed in place; it has the theme's background already.
        title, summary: what stands on the left.
        legend: what stands on the right, or in the second row; left out where there is no room.
        theme: colours of text.
    """
    height, width = strip.shape[:2]
    rows = 2 if height >= 60 and width < 20 * height else 1
    row = height // rows
    size, margin = row / 62, row // 3
    right = width - margin
    if rows == 2:
        _legend(strip, margin, right, row + row // 2, size, legend, theme)
    else:
        needed = _legend_width(legend, size, row)
        if needed and width - needed > 24 * row // 2:
            _legend(strip, right - needed, right, row // 2, size, legend, theme)
            right -= needed + row // 2
    left = margin
    if title:
        left = text(strip, title, left, right, row // 2, size, theme.text) + row // 2
    text(strip, summary, left, right, row // 2, size, theme.faint if title else theme.text)


def _legend_width(legend: Legend, size: float, row: int) -> int:
    small = size * 0.85
    width = sum(row // 2 + text_width(word, small) + row // 3 for _, _, word in legend.marks)
    if legend.amount:
        labels = [legend.amount, *legend.scale]
        width += sum(text_width(label, small) for label in labels) + 3 * row + row
    return width


def _legend(strip: np.ndarray, left: int, right: int, middle: int, size: float, legend: Legend, theme: Theme) -> None:
    row, small = round(size * 62), size * 0.85
    if legend.amount:
        left = text(strip, legend.amount, left, right, middle, small, theme.faint) + row // 4
        left = text(strip, legend.scale[0], left, right, middle, small, theme.faint) + row // 5
        length, thick = 3 * row, max(4, row // 5)
        length = max(0, min(length, right - left))
        bar = strip[middle - thick // 2 : middle - thick // 2 + thick, left : left + length]
        bar[:] = amount_colours(np.linspace(0, 1, bar.shape[1]))[None]
        left = text(strip, legend.scale[1], left + length + row // 5, right, middle, small, theme.faint)
        left += row // 3
    for colour, kind, word in legend.marks:
        centre, radius = np.array([[left + row / 5, middle]]), row / 8
        if kind == "cross":
            crosses(strip, centre, colour, radius=radius, thickness=max(1, row // 18))
        elif kind:
            dots(strip, centre, np.array([colour]), radius=radius)
        left = text(strip, word, left + row // 2, right, middle, small, theme.faint) + row // 3
