"""Networks by ``torch.compile``: with its own compiler, or with TensorRT."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from semantic_matcher_core.device import resolve_precision
from semantic_matcher_core.errors import ConfigError, DeviceError
from semantic_matcher_core.extractors.dense import DenseExtractor
from semantic_matcher_core.inference import view
from semantic_matcher_core.networks.networks import Networks, eager_networks
from semantic_matcher_core.networks.parts import Parts
from semantic_matcher_core.semantics.encoder import NetworkEncoder


def compiled_networks(parts: Parts) -> Networks:
    """Return networks by ``torch.compile``; the first image of each size waits for the compiler.

    Raises:
        ConfigError: what the compiler needs is not installed.
    """
    _require_compiler(parts.device)
    return _networks(parts, "compile", {})


def tensorrt_networks(parts: Parts, precision: str) -> Networks:
    """Return networks by torch-tensorrt.

    Raises:
        ConfigError: torch-tensorrt is not installed.
        DeviceError: the parts are on no GPU.
    """
    if importlib.util.find_spec("torch_tensorrt") is None:
        raise ConfigError(
            "backend 'tensorrt' needs torch_tensorrt, not installed here: pip install torch-tensorrt (of torch's own "
            "version); without it use 'compile' or 'eager'"
        )
    if parts.device.type != "cuda":
        raise DeviceError(f"backend 'tensorrt' needs a GPU, but the matcher is on {parts.device}")
    importlib.import_module("torch_tensorrt")  # registers the backend
    dtype = resolve_precision(precision, parts.device)
    # Weights say the type of each layer (see `precision`); TensorRT must not choose others.
    types = {torch.float32} if dtype is torch.float32 else {torch.float32, dtype}
    options = {"backend": "torch_tensorrt", "options": {"enabled_precisions": types, "use_python_runtime": False}}
    return _networks(parts, "tensorrt", options)


class Compiled:
    """A method of a network, compiled; a copy compiles anew.

    Args:
        network: a view, whose mode nothing else sets: the compiler would follow it.
        method: its name.
        prepare: name of the network's method that makes the inputs of ``method``; ``None`` where they are given.
        dynamic, options: of ``torch.compile``.
    """

    def __init__(
        self, network: nn.Module, method: str, prepare: str | None, dynamic: bool | None, options: Mapping[str, Any]
    ) -> None:
        self._arguments = (network, method, prepare, dynamic, options)
        self._prepare = None if prepare is None else getattr(network, prepare)
        self._call: Any = torch.compile(getattr(network, method), dynamic=dynamic, **options)

    def __call__(self, *given: Tensor | None) -> Any:
        return self._call(*(given if self._prepare is None else self._prepare(*given)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Compiled, self._arguments


def _require_compiler(device: torch.device) -> None:
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ConfigError("backend 'compile' on a GPU needs triton, not installed here: pip install triton")
        return
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name]
    if not any(shutil.which(name) for name in names):
        raise ConfigError(
            "backend 'compile' needs a C++ compiler, and none is on the PATH: install g++ (Debian: apt-get install g++)"
        )


def _networks(parts: Parts, backend: str, options: Mapping[str, Any]) -> Networks:
    networks = eager_networks(parts)
    extractor, encoder, reasoner = parts.extractor, parts.semantic_encoder, parts.reasoner
    if isinstance(extractor, DenseExtractor):
        networks = replace(networks, dense=Compiled(view(extractor), "dense", "dense_inputs", None, options))
    if isinstance(encoder, NetworkEncoder):
        networks = replace(networks, encode=Compiled(view(encoder), "encode", "encode_inputs", None, options))
    if reasoner is not None:
        # The number of keypoints is another one in nearly every image.
        networks = replace(networks, reason=Compiled(view(reasoner), "forward", None, True, options))
    return replace(networks, backend=backend)
