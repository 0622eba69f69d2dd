"""Checks of the options that several extractors share."""

from __future__ import annotations

from semantic_matcher_core.errors import ConfigError


def check_detection_threshold(value: float) -> float:
    """Return a detection threshold as given, a score in [0, 1).

    Raises:
        ConfigError: it lies outside.
    """
    if not 0 <= value < 1:
        raise ConfigError(f"detection_threshold must be in [0, 1), got {value!r}")
    return value


def check_nms_radius(value: int, *, least: int = 0) -> int:
    """Return a radius of non-maximum suppression as given, whole pixels from ``least`` up.

    Raises:
        ConfigError: it is no such number.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"nms_radius must be a whole number of pixels from {least} up, got {value!r}")
    return value


def check_max_side(value: int | None) -> int | None:
    """Return a bound on the long side that a network sees as given, pixels, or ``None``.

    Raises:
        ConfigError: it is no such number.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigError(f"max_side must be a whole number of pixels from 1 up, or None for no bound, got {value!r}")
    return value
