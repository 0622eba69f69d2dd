"""Backends: the same matches as torch as it is, and clear words where one cannot run."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.dense import DenseExtractor, Found
from semantic_matcher_core.extractors.selection import select_keypoints
from semantic_matcher_core.networks import compiled
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.dinov2 import DinoV2

Render = Callable[..., np.ndarray]


class Small(DenseExtractor):
    """Two convolutions: a compiler takes seconds for each layer, and what is tested is that all go through it."""

    name = "small"
    descriptor_dim = 64
    dense_step = 8

    def __init__(self) -> None:
        super().__init__(150)
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.GELU(), nn.Conv2d(16, 65, 5, 4, 2))

    def dense(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.net(inputs[0]),)

    def finish(self, maps: Sequence[Tensor], size: tuple[int, int], masks: Tensor | None, limits: Limits) -> Found:
        keypoints, scores, valid = select_keypoints(
            maps[0][:, 0], limits.max_keypoints, nms_radius=1, threshold=-1e6, border="clipped"
        )
        x, y = keypoints.long().unbind(-1)
        descriptors = torch.stack([m[1:, v, u].T for m, u, v in zip(maps[0], x, y, strict=True)])
        return Found(keypoints * 8, scores, nn.functional.normalize(descriptors, dim=-1), valid)


def build(backend: str = "eager", precision: str = "fp32", *, least: bool = False) -> SemanticMatcher:
    torch.manual_seed(0)
    encoder = DinoV2().requires_grad_(False)
    encoder.blocks = encoder.blocks[: 0 if least else 1]
    sizes = {"features_dim": 64, "n_attention_layers": 1, "num_heads": 1, "semantic_conditioning": not least}
    reasoner = Reasoner(ReasonerConfig(64, 384, **sizes)).eval()
    return SemanticMatcher.from_parts(
        Small().requires_grad_(False),
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
def test_compiled_is_as_eager(textured: Render) -> None:
    # The C++ compiler takes two seconds a kernel; that larger networks are traced is tested below.
    ours, plain = build("compile", least=True), build(least=True)
    assert (ours.backend, plain.backend) == ("compile", "eager")
    assert_same_result(ours, plain, textured(96, 128, seed=2), 1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_what_is_traced_for_one_size_fits_the_next(textured: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced as ever; the C++ compiler takes seconds for each layer at each size.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    ours, plain = build("compile", "bf16"), build("eager", "bf16")
    for size in ((96, 128), (64, 96)):
        assert_same_result(ours, plain, textured(*size, seed=2), 2e-2)


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
