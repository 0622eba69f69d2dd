"""From 16-bit and float samples to 8 bits: one rule for image messages and image files.

``floor(256 * (value - low) / (high - low))``, clipped to 0 … 255. With a given full scale, and where the usual scale
of the encoding shows enough of the image, low is 0 and high is that scale: a constant, so that a stream does not
flicker. Sensors that fill fewer bits than their encoding has (10, 12 or 14 in mono16), and those whose counts lie in a
small part of it (thermal cameras), would become nearly flat pictures, in which nothing is found. Their range is taken
from the image, in steps so coarse that it seldom changes within a stream, and a warning says so once.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.notices import say_once

FULL_SCALE_16 = 65536.0
# Grey values that an image must spread over at the usual scale: 14 bits in mono16 have 64.
_LEAST_SPREAD = 80.0
# Share of samples that may be white or below black at the usual scale, and share at either end that says nothing of
# the range.
_MOST_OUTSIDE, _TAIL = 0.5, 0.001
# Samples that are looked at, and the number below which they say nothing of a range.
_SAMPLES, _FEW_SAMPLES = 40_000, 256


def to_8_bit(
    samples: np.ndarray, usual_scale: float, full_scale: float | None = None, what: str = "images"
) -> np.ndarray:
    """Convert uint16 or float samples to uint8.

    Args:
        samples: of any shape. NaN and -inf become 0, +inf becomes 255.
        usual_scale: the value that becomes white where the image shows enough at that scale.
        full_scale: the value that becomes white, whatever the image shows; ``None`` for the rule above.
        what: how a warning calls the images.

    Raises:
        ConfigError: ``full_scale`` is not a positive number.
    """
    if full_scale is not None and not (math.isfinite(full_scale) and full_scale > 0):
        raise ConfigError(f"full_scale must be a positive number, got {full_scale!r}")
    low, high = (0.0, full_scale) if full_scale else _range(samples, usual_scale, what)
    if samples.dtype == np.uint16:
        if (low, high) == (0.0, FULL_SCALE_16):
            return (samples >> 8).astype(np.uint8)
        return _lookup_table(low, high)[samples]
    # float32 -> float64, so that whole multiples of the scale do not fall below their step.
    with np.errstate(invalid="ignore", over="ignore"):  # a signalling NaN is one like any other
        wide = (samples.astype(np.float64) - low) * (256.0 / (high - low))
    scaled = np.nan_to_num(wide, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(scaled, 0.0, 255.0).astype(np.uint8)


def _range(samples: np.ndarray, usual_scale: float, what: str) -> tuple[float, float]:
    flat = samples.reshape(-1)
    with np.errstate(invalid="ignore"):
        some = flat[:: max(1, flat.size // _SAMPLES)].astype(np.float64)
    some = some[np.isfinite(some)]
    if some.size < _FEW_SAMPLES:
        return 0.0, usual_scale
    low, high = (float(value) for value in np.quantile(some, (_TAIL, 1.0 - _TAIL)))
    spread = 256.0 * (min(high, usual_scale) - max(low, 0.0)) / usual_scale
    outside = float(((some >= usual_scale) | (some < 0)).mean())
    if high <= low or (spread >= _LEAST_SPREAD and outside <= _MOST_OUTSIDE):
        return 0.0, usual_scale
    if low < 0 or low >= high / 4:
        # Counts with an offset, or temperatures: to the next eighths of what they span, as a power of two.
        step = 2.0 ** math.floor(math.log2((high - low) / 4))
        below, high = math.floor(low / step - 1) * step, math.ceil(high / step + 1) * step
        low = below if low < 0 else max(below, 0.0)
        span = f"from about {low:g} to {high:g} only: this range is taken"
        say_once(f"{what} hold values {span} (image_full_scale fixes it)")
        return low, high
    top = 2.0 ** math.ceil(
        math.log2(np.nextafter(high, math.inf) if high < 1 else high + (samples.dtype != np.float32))
    )
    say_once(f"{what} hold values below {top:g} only: that is taken as white (image_full_scale fixes it)")
    return 0.0, top


@lru_cache(maxsize=16)
def _lookup_table(low: float, high: float) -> np.ndarray:
    """Return 8-bit value of every 16-bit one."""
    values = (np.arange(65536, dtype=np.float64) - low) * (256.0 / (high - low))
    return np.clip(values, 0.0, 255.0).astype(np.uint8)
