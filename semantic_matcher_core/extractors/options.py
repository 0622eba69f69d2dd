"""Checks of the options that several extractors share."""

from __future__ import annotations

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.settings import check_whole

_OR_NONE = ", or None for no bound"


def check_detection_threshold(value: float) -> float:
    """Return a detection threshold as given, a score in [0, 1).

    Raises:
        ConfigError: it lies outside.
    """
    if not 0 <= value < 1:
        raise ConfigError(f"detection_threshold must be in [0, 1), got {value!r}")
    return value


def check_nms_radius(value: int, *, least: int = 0) -> int:
    """Return a radius of non-maximum suppression as given, or raise ConfigError; whole pixels from ``least`` up."""
    return check_whole("nms_radius", value, least, unit=" of pixels")


def check_max_side(value: int | None) -> int | None:
    """Return a bound on the long side that a network sees as given, or raise ConfigError; pixels, or ``None``."""
    return value if value is None else check_whole("max_side", value, unit=" of pixels", otherwise=_OR_NONE)
