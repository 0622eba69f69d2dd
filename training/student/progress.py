"""How a run of training goes on: its schedule by steps or by the clock, the rate, and what is said of it."""

from __future__ import annotations

import math
import time

from semantic_matcher_core.errors import ConfigError
from training.errors import DataError

# Before the end of a time budget: for the last checkpoint and the weights.
_CLOSING_SECONDS = 5.0


class Schedule:
    """The share of a run that is done; with a time budget it follows the clock, or the steps where they are ahead.

    What is left of the budget is divided into the steps that are left.

    Args:
        steps: of the whole run.
        share: that was done before, from 0 to 1.
        began: when the budget began, of ``time.monotonic``.
        minutes: the budget; ``None``: the steps alone.

    Raises:
        ConfigError: the budget is over before the first step.
    """

    def __init__(self, steps: int, share: float, began: float, minutes: float | None) -> None:
        self._steps, self._first = steps, share
        self._started = time.monotonic()
        self._deadline = None if minutes is None else began + 60 * minutes - _CLOSING_SECONDS
        if self._deadline is not None and self._deadline <= self._started and share < 1:
            raise ConfigError(
                f"{minutes:g} minutes are over before the first step ({self._started - began:.0f} s of loading, and "
                f"{_CLOSING_SECONDS:.0f} s for closing): nothing would be learnt; give more --minutes"
            )

    def goes_on(self, step: int) -> bool:
        """Return whether there is another step."""
        return step < self._steps and (self._deadline is None or time.monotonic() < self._deadline)

    def share(self, step: int) -> float:
        """Return the share that is done before a step."""
        share = step / self._steps
        if self._deadline is not None:
            clock = (time.monotonic() - self._started) / max(1e-6, self._deadline - self._started)
            share = max(share, self._first + (1 - self._first) * clock)
        return min(1.0, share)


def learning_rate(peak: float, share: float, step: int) -> float:
    """Return the rate: up over the first 200 steps, or 2 %, whichever is over first; down along a cosine."""
    warm = min(1.0, max(share / 0.02, (step + 1) / 200))
    return peak * warm * 0.5 * (1 + math.cos(math.pi * share))


def check_finite(means: dict[str, float], name: str, step: int) -> None:
    """Check mean losses.

    Raises:
        DataError: one is not finite.
    """
    if not all(math.isfinite(value) for value in means.values()):
        raise DataError(f"the loss of {name} is not finite at step {step}: {means}; lower lr")


def words(values: dict[str, float]) -> str:
    """Return figures as a line of a report."""
    return " ".join(f"{name} {value:.3f}" for name, value in values.items())
