"""Steadier maps over time: the 1€ filter (Casiez, Roussel and Vogel, CHI 2012) on every point of a lattice."""

from __future__ import annotations

import math

import numpy as np

# Cut-off of points that stand still, by how many hertz it rises for a pixel a second, and that of the speed itself.
_LEAST_CUTOFF_HZ, _RISE, _SPEED_CUTOFF_HZ = 1.0, 0.3, 1.0


class OneEuroFilter:
    """A low-pass filter whose cut-off rises with speed: still points stop trembling, moving ones hardly lag."""

    def __init__(self) -> None:
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
        self._speed = self._speed + _weight(_SPEED_CUTOFF_HZ, elapsed) * (speed - self._speed)
        cutoff = _LEAST_CUTOFF_HZ + _RISE * np.linalg.norm(self._speed, axis=-1, keepdims=True)
        self._value = self._value + _weight(cutoff, elapsed) * (lattice - self._value)
        return self._value.astype(np.float32)


def _weight(cutoff_hz: np.ndarray | float, elapsed: float) -> np.ndarray | float:
    """Return the weight of the new value, for a first-order low-pass filter sampled every ``elapsed`` seconds."""
    return 1.0 / (1.0 + 1.0 / (2 * math.pi * cutoff_hz * elapsed))
