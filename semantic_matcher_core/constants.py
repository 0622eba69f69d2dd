"""Small constant tensors that are made once for each device."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return ``like.new_tensor(values)``, kept: a copy from the host would make a GPU wait, and no CUDA graph may
    hold one.
    """
    if isinstance(like, FakeTensor):
        # Of a trace (export, compile): it is worth nothing after that, and a real one nothing in it.
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    return _made(values, like.dtype, like.device)


# Without a limit: a few bytes each, and a recorded CUDA graph goes on reading them.
@functools.cache
def _made(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # A tensor of inference mode could not be used where gradients are wanted.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
