"""The GPU's way of extracting features, with stand-ins for what only a GPU has."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.constants import constant
from semantic_matcher_core.cuda.extraction import CudaExtraction
from semantic_matcher_core.cuda.graphs import CudaRecorder, GraphCache
from semantic_matcher_core.cuda.upload import PinnedUpload
from semantic_matcher_core.extractors.sift import Sift
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.inputs import as_image_batch
from semantic_matcher_core.optimisations import VARIABLE
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.types import Features

Render = Callable[..., np.ndarray]
CPU = torch.device("cpu")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class ReplayOnCpu:
    """Does what a recorded graph does: the same work on the same memory, results in the same place."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def record(self, work: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], Callable[[], object]]:
        self.recorded += 1
        outputs = {name: torch.full_like(value, -1) for name, value in work().items()}

        def replay() -> None:
            self.replayed += 1
            for name, value in work().items():
                outputs[name].copy_(value)

        return outputs, replay


def build(precision: str = "fp32", max_keypoints: int = 300) -> SemanticMatcher:
    torch.manual_seed(0)
    encoder = DinoV2().requires_grad_(False)
    encoder.blocks = encoder.blocks[:2]
    reasoner = Reasoner(ReasonerConfig(64, 384, features_dim=64, n_attention_layers=2)).eval().requires_grad_(False)
    extractor = XFeat(max_keypoints, detection_threshold=0.0).requires_grad_(False)
    return SemanticMatcher.from_parts(
        extractor, encoder, reasoner, device="cpu", precision=precision, semantic_size=140
    )


def assert_same_features(fixed: Features, plain: Features, tolerance: float = 1e-5) -> None:
    """``fixed`` has rows of padding that ``plain`` lacks."""
    assert fixed.valid is not None
    fixed = fixed[0]
    assert fixed.image_size == plain.image_size
    for name in ("keypoints", "scores", "descriptors", "reasoned", "semantic"):
        torch.testing.assert_close(getattr(fixed, name), getattr(plain, name), atol=tolerance, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("max_keypoints", [50, 5000])
def test_replayed_features_are_the_plain_ones(textured: Render, precision: str, max_keypoints: int) -> None:
    matcher, recorder = build(precision, max_keypoints), ReplayOnCpu()
    extraction = CudaExtraction(CPU, recorder)
    images = [textured(96, 128, seed=seed) for seed in (1, 2)] + [textured(64, 96, seed=3)]
    found = [extraction.replayed(matcher, as_image_batch(image)) for image in images]
    for fixed, image in zip(found, images, strict=True):
        assert fixed.keypoints.shape[1] == max_keypoints
        assert_same_features(fixed, matcher.extract(image), 1e-5 if precision == "fp32" else 2e-2)
    assert (recorder.recorded, recorder.replayed) == (2, 3)
    assert matcher.extractor.fixed_size is False


def test_padding_of_fixed_counts_changes_no_match(textured: Render) -> None:
    matcher, extraction = build(max_keypoints=4000), CudaExtraction(CPU, ReplayOnCpu())
    images = [textured(96, 128, seed=1), textured(96, 128, seed=1)[3:, 5:].copy()]
    plain = matcher.match_images(*images)
    fixed = matcher.match(*(extraction.replayed(matcher, as_image_batch(image)) for image in images))
    assert len(plain) > 20
    assert torch.equal(plain.indices, fixed.indices)


def test_what_changes_at_run_time_is_recorded_anew(textured: Render) -> None:
    matcher, recorder = build(), ReplayOnCpu()
    extraction = CudaExtraction(CPU, recorder)
    image = as_image_batch(textured(96, 128, seed=1))
    for change in ({}, {"semantic_size": 98}, {"registration": "published"}, {}):
        for name, value in change.items():
            setattr(matcher, name, value)
        assert_same_features(extraction.replayed(matcher, image), matcher.extract(textured(96, 128, seed=1)))
    matcher.extractor.max_keypoints = 20
    assert extraction.replayed(matcher, image).keypoints.shape[1] == 20
    assert recorder.recorded == 4


def test_what_can_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    extraction, matcher = CudaExtraction(CPU, ReplayOnCpu()), build()
    assert extraction.can_replay(matcher, None)
    assert not extraction.can_replay(matcher, torch.ones(1, 4, 4, dtype=torch.bool))
    assert not extraction.can_replay(SemanticMatcher.from_parts(Sift(10), device="cpu"), None)
    monkeypatch.setenv(VARIABLE, "cuda_graphs")
    assert not extraction.can_replay(matcher, None)


def test_results_keep_their_numbers_when_the_graph_runs_again() -> None:
    cache = GraphCache(ReplayOnCpu())
    twice = [cache("k", lambda given: {"x": given * 2}, torch.full((3,), float(i)), list)["x"] for i in (1, 2)]
    assert [t.tolist() for t in twice] == [[2, 2, 2], [4, 4, 4]]


def test_only_the_last_few_graphs_are_kept() -> None:
    recorder = ReplayOnCpu()
    cache = GraphCache(recorder)
    for size in [*range(1, 10), 9, 1]:
        cache("k", lambda given: {"x": given + 1}, torch.zeros(size), list)
    assert recorder.recorded == 10  # 1 was dropped, 9 was not


def test_copies_of_an_extraction_start_empty() -> None:
    extraction = CudaExtraction(CPU)
    assert copy.deepcopy(extraction).device == CPU
    assert pickle.loads(pickle.dumps(extraction)).device == CPU
    assert copy.deepcopy(build()).extract(np.full((64, 64, 3), 9, np.uint8)).reasoned is not None


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (2, 5, 7, 3), (5, 7, 1)])
def test_uploaded_images_are_those_of_the_plain_way(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    extraction = CudaExtraction(CPU)
    images = [np.random.default_rng(seed).integers(0, 256, shape, np.uint8) for seed in range(4)]
    for image, uploaded in zip(images, [extraction.uploaded(image) for image in images], strict=True):
        assert uploaded is not None
        torch.testing.assert_close(uploaded, as_image_batch(image), atol=0, rtol=0)
    monkeypatch.setenv(VARIABLE, "pinned_upload")
    assert extraction.uploaded(images[0]) is None


@pytest.mark.parametrize(
    "image", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32), torch.zeros(3, 4, 4)]
)
def test_other_images_are_left_to_the_plain_way(image: object) -> None:
    assert CudaExtraction(CPU).uploaded(image) is None


def test_buffers_of_few_shapes_are_kept() -> None:
    upload = PinnedUpload(CPU)
    for size in range(1, 9):
        image = np.full((size, 2), size, np.uint8)
        assert (upload(image) == size).all()
    assert len(upload._rings) == 4


def test_constants_are_made_once_and_may_meet_gradients() -> None:
    like = torch.zeros(2, dtype=torch.float64)
    with torch.inference_mode():
        made = constant((3.0, 4.0), like)
    assert constant((3.0, 4.0), like) is made and made.dtype == torch.float64
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    (x * made).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [3, 4]


@gpu
@pytest.mark.parametrize("disabled", ["", "cuda_graphs", "cuda_graphs,streams", "pinned_upload", "all"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu_each_switch_leaves_the_matches(
    textured: Render, monkeypatch: pytest.MonkeyPatch, precision: str, disabled: str
) -> None:
    parts = build()
    assert parts.semantic_encoder is not None and parts.reasoner is not None
    images = textured(96, 128, seed=1), textured(96, 128, seed=1)[3:, 5:].copy()
    monkeypatch.setenv(VARIABLE, "all")
    options = {"device": "cuda", "precision": precision, "semantic_size": 140}
    matcher = SemanticMatcher.from_parts(parts.extractor, parts.semantic_encoder, parts.reasoner, **options)
    plain = {tuple(row) for row in matcher.match_images(*images).indices.tolist()}
    monkeypatch.setenv(VARIABLE, disabled)
    for _ in range(3):  # recorded, then replayed
        found = {tuple(row) for row in matcher.match_images(*images).indices.tolist()}
    assert len(plain & found) >= 0.98 * len(plain) > 20


@gpu
def test_recorded_graphs_compute() -> None:
    memory = torch.ones(4, device="cuda")
    outputs, replay = CudaRecorder().record(lambda: {"x": memory * 3})
    replay()
    assert outputs["x"].tolist() == [3, 3, 3, 3]
