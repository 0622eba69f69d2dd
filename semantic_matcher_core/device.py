"""Which device and which precision to run in; nothing falls back silently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from semantic_matcher_core.errors import DeviceError, UnknownDeviceError, check_choice

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the torch device for a user's choice.

    Args:
        device: ``"auto"`` (CUDA where available, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"`` …

    Raises:
        DeviceError: the device is a CUDA device that is not there.
        UnknownDeviceError: it is none of these; nothing here was made for other kinds of device.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise _unknown(device) from error
    if resolved.type not in ("cpu", "cuda"):
        raise _unknown(device)
    if resolved.type == "cuda":
        available = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (resolved.index or 0) >= available:
            raise DeviceError(
                f"device {str(device)!r} requested, but torch sees {available} CUDA device(s); "
                "use device 'cpu' or 'auto', or install a CUDA build of torch and check nvidia-smi"
            )
    return resolved


def _unknown(device: object) -> UnknownDeviceError:
    return UnknownDeviceError(f"unknown device {str(device)!r}; use 'auto', 'cpu', 'cuda' or 'cuda:<index>'")


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype the networks compute in.

    Raises:
        ConfigError: not one of ``fp32``, ``fp16``, ``bf16``.
        DeviceError: ``fp16`` on the CPU, where torch's kernels for it are slow or missing.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "fp16" and device.type == "cpu":
        raise DeviceError("precision 'fp16' needs a GPU; on the CPU use 'bf16' or 'fp32'")
    return PRECISIONS[precision]


def is_slow(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether a type is known to be slower than float32 on a device: bfloat16, on x86 CPUs without instructions
    for it.

    There every product converts: 1.8 to 3.4 times float32's time was measured. Of other CPUs torch does not say.
    """
    if dtype is not torch.bfloat16 or device.type != "cpu":
        return False
    capabilities: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # not in older torch
    found = capabilities()
    return found.get("architecture") == "x86_64" and not (found.get("avx512_bf16") or found.get("amx_bf16"))


def moved(tensors: Mapping[str, torch.Tensor], device: torch.device | str) -> dict[str, torch.Tensor]:
    """Copy tensors to a device; from a GPU to the host all together, with a single wait.

    Args:
        tensors: by name, of any device.
        device: where they are wanted.

    Returns:
        The same names; what was on that device already is not copied.
    """
    target = torch.device(device)
    waiting = {name: t for name, t in tensors.items() if t.device.type == "cuda"} if target.type == "cpu" else {}
    if not waiting:
        return {name: t.to(target) for name, t in tensors.items()}
    found = {name: t if name in waiting else t.to(target) for name, t in tensors.items()}
    for name, t in waiting.items():
        # A copy to memory that is not pinned would wait by itself.
        found[name] = torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
    for source in {t.device for t in waiting.values()}:
        torch.cuda.current_stream(source).synchronize()
    return found
