"""Timing two or more ways of doing the same work, interleaved so that a noisy machine is unfair to none of them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from semantic_matcher_core.optimisations import VARIABLE


@dataclass(frozen=True)
class Timing:
    """Milliseconds of repeated calls; what else a machine does only ever adds to the best of them."""

    median_ms: float
    p95_ms: float
    runs: int
    best_ms: float

    def scaled(self, factor: float) -> Timing:
        """Return what work ``factor`` times as long would have taken."""
        return Timing(self.median_ms * factor, self.p95_ms * factor, self.runs, self.best_ms * factor)


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Return the time of each candidate: one call of each in turn, ``repeats`` times after a warm-up.

    ``time.thread_time`` as the clock counts what one thread computes, and not what it waits for the processor.
    """
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for round_index in range(warmup + repeats):
        for name, call in candidates.items():
            _synchronize(device)
            start = clock()
            call()
            _synchronize(device)
            if round_index >= warmup:
                samples[name].append((clock() - start) * 1e3)
    return {
        name: Timing(statistics.median(s), sorted(s)[min(len(s) - 1, int(0.95 * len(s)))], len(s), min(s))
        for name, s in samples.items()
    }


def machine_description(device: torch.device) -> str:
    """Return one line that says what the figures were measured on."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass  # not Linux: the generic name stands
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def disabled(names: str) -> Iterator[None]:
    """Turn optimisations off within the block.

    Args:
        names: of ``semantic_matcher_core.optimisations``, with commas between, or ``all``.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = names
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
