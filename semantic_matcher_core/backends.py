"""What runs a matcher's networks: torch as it is, torch.compile, onnxruntime, or TensorRT.

Each takes the place of the same three calls: the extractor's ``dense``, the semantic encoder's ``encode`` and the
reasoner's ``forward``. Everything around them is the same code.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from semantic_matcher_core.device import resolve_precision
from semantic_matcher_core.errors import ConfigError, DeviceError
from semantic_matcher_core.extractors.dense import DenseExtractor

if TYPE_CHECKING:
    from semantic_matcher_core.pipeline import SemanticMatcher

BACKENDS = ("eager", "compile", "onnx", "tensorrt")


def check_backend(backend: str) -> str:
    """The backend as given.

    Raises:
        ConfigError: there is none of that name.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend {backend!r}; use one of {', '.join(BACKENDS)}")
    return backend


def apply_backend(matcher: SemanticMatcher, backend: str, *, onnx_folder: str | Path | None = None) -> SemanticMatcher:
    """Let a backend run a matcher's networks.

    Args:
        matcher: is changed in place.
        backend: ``"eager"`` (torch as it is), ``"compile"`` (``torch.compile``; the first image of each size waits for
            the compiler), ``"onnx"`` (onnxruntime, on graphs that ``semantic-matcher export`` made) or ``"tensorrt"``
            (torch-tensorrt, GPU).
        onnx_folder: with ``"onnx"``, where the graphs are; ``None`` for where ``export`` puts those of the variant.

    Returns:
        The matcher.

    Raises:
        ConfigError: no such backend, or what it needs is not installed.
        DeviceError: ``"tensorrt"`` without a GPU.
        CheckpointError: the graphs are of other weights.
    """
    check_backend(backend)
    if backend == "compile":
        _require_compiler(matcher.device)
        return _compiled(matcher, {})
    if backend == "tensorrt":
        return _compiled(matcher, _tensorrt_options(matcher))
    if backend == "onnx":
        from semantic_matcher_core.export import onnx_folder as usual_folder
        from semantic_matcher_core.export import use_onnx

        return use_onnx(matcher, onnx_folder or usual_folder(matcher.variant))
    return matcher


def _compiled(matcher: SemanticMatcher, options: dict[str, Any]) -> SemanticMatcher:
    """``torch.compile`` in the place of each network. Set on the instances: the classes stay as they are."""

    def compiled(call: Callable[..., Any], *, dynamic: bool | None = None) -> Any:
        return torch.compile(call, dynamic=dynamic, **options)

    if isinstance(matcher.extractor, DenseExtractor):
        matcher.extractor.dense = compiled(matcher.extractor.dense)  # type: ignore[method-assign]
    encoder: Any = matcher.semantic_encoder
    reasoner = matcher.reasoner
    if encoder is not None and reasoner is not None:
        if hasattr(encoder, "encode"):
            encoder.encode = compiled(encoder.encode)
        # The number of keypoints is another one in nearly every image.
        reasoner.forward = compiled(reasoner.forward, dynamic=True)  # type: ignore[method-assign]
    return matcher


def _tensorrt_options(matcher: SemanticMatcher) -> dict[str, Any]:
    if importlib.util.find_spec("torch_tensorrt") is None:
        raise ConfigError(
            "backend 'tensorrt' needs torch_tensorrt, not installed here: pip install torch-tensorrt (of torch's own "
            "version); without it use 'compile' or 'eager'"
        )
    if matcher.device.type != "cuda":
        raise DeviceError(f"backend 'tensorrt' needs a GPU, but the matcher is on {matcher.device}")
    importlib.import_module("torch_tensorrt")  # registers the backend
    dtype = resolve_precision(matcher.precision, matcher.device)
    # Weights say the type of each layer (see `precision`); TensorRT must not choose others.
    types = {torch.float32} if dtype is torch.float32 else {torch.float32, dtype}
    return {"backend": "torch_tensorrt", "options": {"enabled_precisions": types, "use_python_runtime": False}}


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
