"""How well the frames of a video were registered, in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True)
class FrameFigures:
    """One frame; a row of the CSV file. NaN (an empty field) where the frame could not be registered.

    Attributes:
        frame, stamp_s: index, and seconds from the start of the video.
        registered: whether it was.
        matches, inliers: how many, and how many of them the map agrees with.
        residual_px, bending_energy: see :class:`~semantic_matcher_core.registration.pair.Fit`.
        error, error_before, correlation, coverage: see :class:`~semantic_matcher_core.registration.pair.Agreement`.
    """

    frame: int
    stamp_s: float
    registered: bool
    matches: float = math.nan
    inliers: float = math.nan
    residual_px: float = math.nan
    error: float = math.nan
    error_before: float = math.nan
    correlation: float = math.nan
    coverage: float = math.nan
    bending_energy: float = math.nan

    def row(self) -> list[str]:
        """Return the values as text, in the order of :data:`CSV_COLUMNS`."""
        return [_text(value) for value in astuple(self)]


CSV_COLUMNS = tuple(field.name for field in fields(FrameFigures))


@dataclass(frozen=True)
class VideoSummary:
    """Means over the registered frames of a video; NaN where there is none.

    Attributes:
        frames, registered: how many there are, the template itself left out, and how many of them were registered.
        inliers, coverage, error, error_before, correlation: means, see :class:`FrameFigures`.
    """

    frames: int
    registered: int
    inliers: float
    coverage: float
    error: float
    error_before: float
    correlation: float

    @property
    def factor(self) -> float:
        """By how much registration lowers the mean photometric error."""
        return self.error_before / self.error if self.error > 0 else math.nan

    @classmethod
    def of(cls, frames: Iterable[FrameFigures]) -> VideoSummary:
        """Return the summary of some frames."""
        every = list(frames)
        registered = [figures for figures in every if figures.registered]
        means = {}
        for name in ("inliers", "coverage", "error", "error_before", "correlation"):
            finite = [value for figures in registered if math.isfinite(value := getattr(figures, name))]
            means[name] = sum(finite) / len(finite) if finite else math.nan
        return cls(len(every), len(registered), **means)


def _text(value: float) -> str:
    if isinstance(value, (bool, int)):
        return str(int(value))
    return f"{value:.6g}" if math.isfinite(value) else ""
