"""Stops a training whose numbers are no longer finite, and keeps what is needed to see why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from semantic_matcher_core.errors import SemanticMatcherError
from semantic_matcher_core.io.atomic import atomic_output, make_folder
from training.reasoner.batch import Batch


class TrainingDiverged(SemanticMatcherError, ArithmeticError):
    """Loss or gradients are not finite; the message names the file with the batch and the state that led there."""


def stop_with_repro(
    folder: Path, what: str, step: int, rank: int, batch: Batch, state: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Write ``nonfinite-step<N>-rank<R>.pt`` and raise.

    The file holds plain containers and tensors alone: ``what``, ``step``, ``names``, ``places`` and ``size`` of the
    batch, ``batch`` (its tensors by name), ``state_dict`` of the reasoner, and ``config``.

    Raises:
        TrainingDiverged: always.
    """
    make_folder(folder)
    path = folder / f"nonfinite-step{step}-rank{rank}.pt"
    content = {
        "what": what,
        "step": step,
        "names": batch.names,
        "places": [list(place) for place in batch.places],
        "size": list(batch.size),
        "batch": {name: tensor.detach().cpu() for name, tensor in batch.tensors().items()},
        "state_dict": {name: tensor.detach().cpu() for name, tensor in state.items()},
        "config": dict(config),
    }
    with atomic_output(path) as temporary:
        torch.save(content, temporary)
    raise TrainingDiverged(
        f"the {what} is not finite at step {step} (pairs {', '.join(batch.names)}); batch and weights are in {path}. "
        "Look for bad values in its `batch` first; then lower optimizer.lr, set optimizer.gradient_clip, or use "
        "run.precision 32-true"
    )
