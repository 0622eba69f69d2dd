"""What every use of a network goes through: no gradients, evaluation mode, and no process forked behind torch's back.

Several threads may use one network. Nothing here, and nothing that runs under it, changes a network or a setting of
torch.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from semantic_matcher_core.errors import ForkError

P = ParamSpec("P")
R = TypeVar("R")
Network = TypeVar("Network", bound=nn.Module)

# The process in which torch first computed for this library.
_home: int | None = None


def check_process() -> None:
    """Remember the process that computes here first, and refuse the children that are forked from it.

    The threads that torch computes with do not survive a fork: the child would wait for them for good.

    Raises:
        ForkError: this process was forked from one that had built or used a network, and computes with several threads.
    """
    global _home
    if _home is None:
        _home = os.getpid()
    elif _home != os.getpid() and torch.get_num_threads() > 1:
        raise ForkError(
            "this process was forked from one that had used the model already, and torch's threads do not survive a "
            "fork; start it with multiprocessing.get_context('spawn'), or call torch.set_num_threads(1) in it first"
        )


def inference(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function run without gradients, in a process where it can; see :func:`check_process`.

    What it gives are tensors like others, to be changed in place or learned from, which those of torch's inference mode
    are not; that mode was not measurably faster. Within ``torch.compile`` it runs as it is: what is worth compiling,
    backend ``"compile"`` does.
    """

    def prepared(*args: P.args, **kwargs: P.kwargs) -> R:
        check_process()
        # For callers in that mode, too: what is kept between calls (the memory of CUDA graphs) serves the next one.
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(prepared)(*args, **kwargs)
        return prepared(*args, **kwargs)

    return run


def evaluating(network: Network) -> Network:
    """Return a network as it is for inference: itself, or a view in evaluation mode where something in it trains.

    The view shares weights and buffers, and the network's own modes stay as they are: batch norms of a network that is
    being trained move by its training alone, also while another thread looks at what it gives.
    """
    return view(network) if any(module.training for module in network.modules()) else network


def view(network: Network, made: dict[int, Any] | None = None) -> Network:
    """Return a network with modules of its own, in evaluation mode, on the same weights and buffers.

    Args:
        network: the network.
        made: views of modules by their identity: one that is used in two places stays one.
    """
    made = {} if made is None else made
    if id(network) not in made:
        made[id(network)] = other = copy.copy(network)
        other.training = False
        children = network._modules.items()
        other._modules = {name: child if child is None else view(child, made) for name, child in children}
    return made[id(network)]
