"""SHA-256 of files and of networks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def sha256_of(path: Path) -> str:
    """Compute the lower-case hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_weights(module: nn.Module) -> str:
    """Compute the lower-case hexadecimal SHA-256 of a network's parameters and buffers; "" for one that has none.

    It depends on their names, shapes, types and values alone: not on the file they came from, nor on the device.
    """
    import torch

    state = {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    if not state:
        return ""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
