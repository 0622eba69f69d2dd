"""Weights that a student begins with: of another run's checkpoint, or of an extractor as it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from semantic_matcher_core.errors import CheckpointError
from semantic_matcher_core.extractors.compact_network import CompactNetwork, architecture_of
from semantic_matcher_core.weights.loading import read_state_dict, read_torch
from semantic_matcher_core.weights.places import BUNDLED

# In place of a file: the extractor that comes with the package.
_BUNDLED = "bundled"


def load(network: CompactNetwork, source: str) -> CompactNetwork | None:
    """Load weights into a network with batch normalisation.

    Args:
        source: a run's ``checkpoint.pt``, of which the average is taken, or weights; ``bundled`` for the extractor that
            comes with the package.

    Returns:
        ``None``; or, where the weights have their batch normalisation folded in, the network that they are of, for
        :func:`unfold`.

    Raises:
        CheckpointError: the file is of another network.
    """
    path, state = _read(source)
    plain = None if any(name.endswith("running_mean") for name in state) else CompactNetwork(network.architecture)
    try:
        (plain or network).load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path} is of another network: {str(error).splitlines()[1].strip()}") from error
    return plain


def network_in_use(source: str) -> CompactNetwork:
    """Return the network of weights as they are used, with batch normalisation folded in.

    Args:
        source: see :func:`load`.

    Raises:
        CheckpointError: these are weights of something else, or not yet folded.
    """
    path, state = _read(source)
    architecture = architecture_of(state)
    if architecture is None or any(name.endswith("running_mean") for name in state):
        raise CheckpointError(
            f"{path} has no weights of the compact extractor as it is used (final.safetensors of a run)"
        )
    network = CompactNetwork(architecture)
    network.load_state_dict(state)
    return network.eval()


def _read(source: str) -> tuple[Path, dict[str, Tensor]]:
    path = BUNDLED / "compact_extractor.safetensors" if source == _BUNDLED else Path(source)
    content = read_torch(path) if path.suffix == ".pt" and path.is_file() else None
    return path, content["average"] if isinstance(content, dict) and "average" in content else read_state_dict(path)


@torch.no_grad()
def unfold(plain: CompactNetwork, network: CompactNetwork, images: Tensor) -> None:
    """Set a network with batch normalisation to one that has it folded in.

    It is put back with the statistics that some images give: the network is the same function, and learns at the rates
    of one that always had it.

    Args:
        images: ``B x 3 x S x S``, zero mean and unit variance, on the networks' device.
    """
    parts = dict(plain.named_modules())
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def measured(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
            found[name] = torch.var_mean(out.float(), dim=(0, 2, 3), correction=0)

        return hook

    folded_in = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d)
    ]
    hooks = [parts[f"{name}.0"].register_forward_hook(measured(name)) for name in folded_in]
    plain(images)
    for hook in hooks:
        hook.remove()
    state = plain.state_dict()
    for name in folded_in:
        (spread, mean), bias = found[name], state.pop(f"{name}.0.bias")
        state |= {
            f"{name}.1.running_mean": mean - bias,
            f"{name}.1.running_var": spread,
            f"{name}.1.weight": (spread + network.get_submodule(f"{name}.1").eps).sqrt(),  # type: ignore[operator]
            f"{name}.1.bias": mean,
            f"{name}.1.num_batches_tracked": torch.tensor(0),
        }
    network.load_state_dict(state)
