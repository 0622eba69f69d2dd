"""Reading weights without running code, and loading them strictly."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from semantic_matcher_core.errors import CheckpointError

# Under which a training checkpoint keeps its parameters; "extractor" is DISK's (cvlab-epfl/disk).
_WRAPPERS = ("state_dict", "extractor", "model")
_SHOWN = 4
# What layers fill their first weights with, and what that is made of. The second kind is not left out: who draws again
# until a value is in bounds, as `nn.init.trunc_normal_` does, would never end.
_FILLED = {nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_}
_DRAWN = {Tensor.uniform_, Tensor.normal_}


class Undrawn(TorchFunctionMode):
    """Leaves the random weights undrawn of networks that are built in it, in this thread: others are loaded at once.

    It is most of the time that a large network takes to be built, four seconds for DeDoDe. What little is drawn takes
    none of the caller's random numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self._generator = torch.Generator()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLED:
            return args[0] if args else kwargs["tensor"]
        if func in _DRAWN and args[0].device == self._generator.device and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self._generator}
        return func(*args, **kwargs)


def read_state_dict(path: str | Path, *, suffix: str | None = None) -> dict[str, Tensor]:
    """Return the parameters in a weights file, on the CPU; optimizer state and counters are left out.

    Args:
        path: ``.safetensors``, or a ``.pt``/``.pth`` that is a state dict or holds one under ``state_dict``. Pickles
            are read with torch's restricted unpickler, which refuses anything but tensors and plain containers.
        suffix: what to read it as, where its name does not say.

    Raises:
        CheckpointError: missing, truncated, unsafe, or without a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    content: Any = _read_safetensors(path) if (suffix or path.suffix) == ".safetensors" else read_torch(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a state dict (names to tensors)")
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    wrong = [k for k, v in content.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if wrong or not content:
        what = f"{wrong[0]!r} is no named tensor" if wrong else "it is empty"
        raise CheckpointError(f"{path} holds no state dict (names to tensors): {what}")
    return dict(content)


def load_state_dict_strictly(module: nn.Module, path: str | Path) -> None:
    """Load a weights file into a module; every name and shape must fit, or nothing is loaded.

    A module may define ``convert_state_dict(state) -> state``, which turns published names into its own.

    Args:
        module: what is loaded into.
        path: see :func:`read_state_dict`.

    Raises:
        CheckpointError: as :func:`read_state_dict`, or names or shapes differ; the message has the first few.
    """
    state = read_state_dict(path)
    convert = getattr(module, "convert_state_dict", None)
    if convert is not None:
        try:
            state = convert(state)
        except KeyError as error:
            raise CheckpointError(f"{path} does not fit {type(module).__name__}: lacks {error}") from error
    load_strictly(module, state, str(path))


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict into a module; every name and shape must fit, or nothing is loaded.

    Raises:
        CheckpointError: names or shapes differ; the message names ``origin`` and the first few.
    """
    # Whatever torch.set_default_dtype says: weights are not rounded on their way, and images are float32.
    module.float()
    own = module.state_dict()
    # Counters that torch itself fills in for files older than their introduction.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    misshapen = [
        f"{k} ({'x'.join(map(str, v.shape))}, expected {'x'.join(map(str, own[k].shape))})"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{' …' if len(names) > _SHOWN else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise CheckpointError(f"{origin} does not fit {type(module).__name__}: {'; '.join(problems)}")
    broken = [k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if broken:
        raise CheckpointError(
            f"{origin} holds NaN or infinity in {len(broken)} of {len(state)} tensors ({broken[0]} …): it is damaged, "
            "or of a training that diverged"
        )
    # A plain dict has no version metadata, so torch supplies missing counters of normalisation layers.
    module.load_state_dict(dict(state), strict=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or is truncated: {error}") from error


# What torch makes of bytes that are not as they should be.
_DAMAGE = (
    RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, AssertionError,
    zipfile.BadZipFile,
)  # fmt: skip


def read_torch(path: Path) -> Any:
    """Return what a file of ``torch.save`` holds, tensors and plain containers alone, on the CPU.

    Raises:
        CheckpointError: it is damaged, or holds more than that.
    """
    try:
        # Only the zip format of torch.save can be mapped; mapping keeps optimizer state out of memory.
        mappable = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not loaded: it holds more than tensors (a pickle that could run code), or is damaged; "
            "if you trust where it comes from, save its state dict alone, or as safetensors"
        ) from error
    except _DAMAGE as error:
        # Some of torch's messages advise to switch its protection off; they stay in the traceback.
        raise CheckpointError(f"{path} is damaged, truncated or no torch checkpoint") from error
