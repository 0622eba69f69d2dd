"""Networks whose large weights are bfloat16 or float16, cast once.

Only the weights of matrix products and convolutions become narrow, and with them what goes into those products. What
runs through the residual connections, norms, positions and the output stay float32: a sum of many layers keeps its
last digits, and the casts of autocast, of every weight in every call, do not exist.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def narrowed(module: Network, dtype: torch.dtype) -> Network:
    """Return a copy of a network with narrow weights; the original is untouched, and what stays float32 is shared with
    it.

    Args:
        module: names, as ``narrow_weights``, the parameters that may become narrow (see :func:`has_narrow_weights`).
        dtype: of those parameters; with float32 the module itself is returned. A network that says ``wide_range`` gets
            bfloat16 for float16: what it adds up need not stay below 65504.
    """
    if dtype is torch.float16 and getattr(module, "wide_range", False):
        dtype = torch.bfloat16
    if dtype is torch.float32:
        return module
    narrow = {
        id(parameter)
        for child in module.modules()
        for parameter in child.parameters(recurse=False)
        if (isinstance(child, (nn.Linear, nn.Conv2d)) and not isinstance(child, FullPrecisionConv1x1))
        or getattr(child, "narrow_weights", None) == "own"
    }
    # What a deep copy finds in its memo it takes as it is: no weight is copied before it is cast.
    memo = {
        id(p): nn.Parameter(p.detach().to(dtype), requires_grad=p.requires_grad) if id(p) in narrow else p
        for p in module.parameters()
    }
    return copy.deepcopy(module, memo)


class FullPrecisionConv1x1(nn.Conv2d):
    """A 1 x 1 convolution that stays float32 in a narrow network: whose outputs are compared with each other, as scores
    are.

    Rounded to 11 bits, neighbouring scores would be equal, and each of them a maximum. It gives whole planes, whatever
    the layout of its input: on a CPU those of a few channels take a third of the time, and shuffling them another.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        planes = self.weight.flatten(1) @ x.to(self.weight.dtype).flatten(2) + self.bias[:, None]
        return planes.unflatten(-1, x.shape[-2:])


def has_narrow_weights(module: nn.Module) -> bool:
    """Return whether a network's forward pass casts what goes into its products to the type of their weights.

    Such a class says ``narrow_weights = "all"``; a submodule with product weights that are no ``nn.Linear`` or
    ``nn.Conv2d`` says ``narrow_weights = "own"``. Other networks run under autocast.
    """
    return getattr(module, "narrow_weights", None) == "all"


def to_weight(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x`` in the type of a narrow weight. Beside a float32 weight it stays as it is: under autocast,
    narrow.
    """
    return x if weight.dtype is torch.float32 else x.to(weight.dtype)


def to_stream(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x`` in float32 where the network's weights are narrow; else as it is."""
    return x if weight.dtype is torch.float32 else x.float()
