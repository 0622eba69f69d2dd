"""What a training writes to go on from where it was stopped."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from semantic_matcher_core.errors import CheckpointError
from semantic_matcher_core.weights.loading import read_torch


def read_state(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """Return the state of a training, its tensors on the CPU.

    Args:
        path: written by ``torch.save``.
        keys: that it has to have.

    Raises:
        CheckpointError: it is damaged, or no such state.
    """
    try:
        content = read_torch(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; remove it to begin anew") from error
    lacking = [key for key in keys if not isinstance(content, dict) or key not in content]
    if lacking:
        raise CheckpointError(
            f"{path} is no state of such a training, it lacks {lacking[0]!r}; remove it to begin anew"
        )
    return content
