"""What changes over a run: published steps, batch sizes, rates, difficulty and penalties of each mode."""

from __future__ import annotations

from dataclasses import dataclass

KEYPOINT_PENALTY = -7e-5
DESCRIPTOR_WEIGHT = 0.005
ACCUMULATE = 4
# Stages that go on from another mode's weights, with encoder and descriptor head frozen.
SECOND_STAGE = ("ts2", "ts-fl")
_DIFFICULTY = ((0.1, 0.10), (0.2, 0.15), (0.6, 0.25), (1.0, 0.30))


@dataclass(frozen=True)
class ModeSettings:
    """Published figures of a mode."""

    steps: int
    batch_size: int
    learning_rate: float


def mode_settings(mode: str) -> ModeSettings:
    """Return the published steps, batch size and learning rate."""
    if mode in ("ts1", "end2end-backbone"):
        return ModeSettings(80_000, 12, 1e-3)
    return ModeSettings(95_001, 6, 2e-4)


def difficulty(step: int, steps: int) -> float:
    """Return how strongly views differ: 0.10, 0.15, 0.25 and 0.30 from 0, 10, 20 and 60 % of the run."""
    return next((value for until, value in _DIFFICULTY if step < until * steps), _DIFFICULTY[-1][1])


def penalty_ramp(step: int, steps: int) -> float:
    """Return 0 … 1 over the first third of the run: detections cost nothing at first."""
    return min(1.0, 3.0 * step / steps)


def mismatch_penalty(mode: str, step: int, steps: int) -> float:
    """Charge on keypoints whose descriptors mismatch: in the last quarter, and never in ``ts1``."""
    return 10 * KEYPOINT_PENALTY if step > 0.75 * steps and mode != "ts1" else 0.0
