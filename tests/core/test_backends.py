"""Backends: the same matches as torch as it is, and clear words where one cannot run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.networks import compiled
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.dinov2 import DinoV2

Render = Callable[..., np.ndarray]


def build(backend: str = "eager", precision: str = "fp32") -> SemanticMatcher:
    torch.manual_seed(0)
    encoder = DinoV2().requires_grad_(False)
    encoder.blocks = encoder.blocks[:1]
    reasoner = Reasoner(ReasonerConfig(64, 384, features_dim=64, n_attention_layers=1, num_heads=1)).eval()
    extractor = XFeat(150, detection_threshold=0.0)
    return SemanticMatcher.from_parts(
        extractor,
        encoder,
        reasoner.requires_grad_(False),
        device="cpu",
        precision=precision,
        backend=backend,
        semantic_size=140,
    )


def assert_same_result(ours: SemanticMatcher, plain: SemanticMatcher, image: np.ndarray, tolerance: float) -> None:
    found, expected = ours.extract(image), plain.extract(image)
    torch.testing.assert_close(found.keypoints, expected.keypoints, atol=1e-4, rtol=0)
    for name in ("descriptors", "reasoned", "semantic"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=tolerance, rtol=0)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_compiled_is_as_eager(textured: Render, precision: str, tolerance: float) -> None:
    ours, plain = build("compile", precision), build("eager", precision)
    assert (ours.backend, plain.backend) == ("compile", "eager")
    for size in ((96, 128), (64, 96)):
        assert_same_result(ours, plain, textured(*size, seed=2), tolerance)


def test_tensorrt_is_as_eager(textured: Render) -> None:
    pytest.importorskip("torch_tensorrt", reason="torch-tensorrt is not installed")
    if not torch.cuda.is_available():
        pytest.skip("TensorRT needs a GPU")
    matcher, plain = (build().to("cuda").with_backend(backend) for backend in ("tensorrt", "eager"))
    assert_same_result(matcher, plain, textured(96, 128, seed=2), 1e-3)


def test_tensorrt_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install torch-tensorrt"):
        build("tensorrt")


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=r"install g\+\+"):
        build("compile")


def test_unknown_backends_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="unknown backend 'torchscript'; use one of eager, compile, onnx, tensorrt"):
        SemanticMatcher.from_pretrained("no such variant", backend="torchscript")


def test_onnx_of_a_variant_without_graphs_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="semantic-matcher export"):
        build().with_backend("onnx", onnx_folder=tmp_path)
