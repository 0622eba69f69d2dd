"""Steadier maps over time: the 1€ filter (Casiez, Roussel and Vogel, CHI 2012) on every point of a lattice."""

from __future__ import annotations

import math

import numpy as np

from semantic_matcher_core.errors import ConfigError


class OneEuroFilter:
    """A low-pass filter whose cut-off rises with speed: still points stop trembling, moving ones hardly lag.

    Args:
        min_cutoff_hz: cut-off for points that stand still; lower is steadier.
        beta: by how many hertz the cut-off rises for a pixel a second.
        derivative_cutoff_hz: of the low-pass filter of the speed itself.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(self, min_cutoff_hz: float = 1.0, beta: float = 0.3, derivative_cutoff_hz: float = 1.0) -> None:
        if not (min_cutoff_hz > 0 and beta >= 0 and derivative_cutoff_hz > 0):
            raise ConfigError(
                "min_cutoff_hz and derivative_cutoff_hz must be above 0 and beta 0 or more, "
                f"got {min_cutoff_hz}, {derivative_cutoff_hz} and {beta}"
            )
        self.min_cutoff_hz = min_cutoff_hz
        self.beta = beta
        self.derivative_cutoff_hz = derivative_cutoff_hz
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next lattice passes unchanged. For when the object was lost."""
        self._value: np.ndarray | None = None
        self._speed: np.ndarray | None = None
        self._stamp_ns = 0

    def __call__(self, lattice: np.ndarray, stamp_ns: int) -> np.ndarray:
        """Return the smoothed ``R x C x 2`` lattice at a time in nanoseconds; time that does not advance starts
        anew.
        """
        elapsed = (stamp_ns - self._stamp_ns) * 1e-9
        self._stamp_ns = stamp_ns
        if self._value is None or self._speed is None or elapsed <= 0 or self._value.shape != lattice.shape:
            self._value, self._speed = lattice.astype(np.float64), np.zeros(lattice.shape)
            return lattice
        speed = (lattice - self._value) / elapsed
        self._speed = self._speed + _weight(self.derivative_cutoff_hz, elapsed) * (speed - self._speed)
        cutoff = self.min_cutoff_hz + self.beta * np.linalg.norm(self._speed, axis=-1, keepdims=True)
        self._value = self._value + _weight(cutoff, elapsed) * (lattice - self._value)
        return self._value.astype(np.float32)


def _weight(cutoff_hz: np.ndarray | float, elapsed: float) -> np.ndarray | float:
    """Return the weight of the new value, for a first-order low-pass filter sampled every ``elapsed`` seconds."""
    return 1.0 / (1.0 + 1.0 / (2 * math.pi * cutoff_hz * elapsed))
