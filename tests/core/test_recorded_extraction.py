"""An extraction that is recorded and replayed, with a stand-in for what only a GPU has."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semantic_matcher_core import SemanticMatcher, create_extractor, extraction
from semantic_matcher_core.constants import constant
from semantic_matcher_core.extractors.sift import Sift
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.inputs import as_image_batch
from semantic_matcher_core.networks import graphs
from semantic_matcher_core.networks.graphs import GraphCache, RecordedExtraction, can_be_recorded, record_cuda_graph
from semantic_matcher_core.optimisations import VARIABLE
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.settings import MatcherConfig
from semantic_matcher_core.types import Features
from tests.core.test_extractor_contract import NAMES, marked
from tests.core.test_extractor_contract import build as build_extractor

Render = Callable[..., np.ndarray]
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


class Recorded:
    """A matcher that extracts as one on a GPU does."""

    def __init__(self) -> None:
        self.recorder = ReplayOnCpu()
        self._run = RecordedExtraction(extraction.extract, lambda work: self.recorder.record(work))

    @torch.inference_mode()
    def __call__(self, matcher: SemanticMatcher, *images: np.ndarray) -> Features:
        batch = torch.cat([as_image_batch(image) for image in images])
        return self._run(matcher.networks, matcher.settings, batch)

    @torch.inference_mode()
    def step(self, matcher: SemanticMatcher, image: np.ndarray, references: list[Features]) -> Any:
        return self._run.step(matcher.networks, matcher.settings, as_image_batch(image), references)


def assert_same_features(ours: Features, expected: Features, tolerance: float = 1e-5) -> None:
    assert (ours.image_size, ours.made_by) == (expected.image_size, expected.made_by)
    assert (ours.valid is None) == (expected.valid is None)
    if expected.valid is not None:
        assert torch.equal(ours.valid, expected.valid)
    for name in ("keypoints", "scores", "descriptors", "reasoned", "semantic"):
        found, wanted = getattr(ours, name), getattr(expected, name)
        assert (found is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(found, wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("max_keypoints", [50, 1500])
def test_replayed_features_are_the_plain_ones(textured: Render, precision: str, max_keypoints: int) -> None:
    matcher, run = build(precision, max_keypoints), Recorded()
    for image in [textured(96, 128, seed=seed) for seed in (1, 2)] + [textured(64, 96, seed=3)]:
        found = run(matcher, image)
        assert found.valid is None and 0 < found.keypoints.shape[1] <= max_keypoints
        assert_same_features(found, matcher.extract(image), 1e-5 if precision == "fp32" else 2e-2)
    assert (run.recorder.recorded, run.recorder.replayed) == (2, 3)


@pytest.mark.parametrize("name", marked(name for name in NAMES if name not in ("sift", "dalf")))
def test_the_contract_is_one_for_every_extractor(name: str, textured: Render) -> None:
    """A batch of one comes back without padding, a batch padded to its longest, whatever ran it."""
    matcher = SemanticMatcher.from_parts(build_extractor(name), device="cpu", max_keypoints=1000)
    assert can_be_recorded(matcher.networks)
    run = Recorded()
    image, flat = textured(61, 93, seed=4), np.full((61, 93, 3), 90, np.uint8)
    flat[:40, :60] = image[:40, :60]
    for images in ((image,), (flat,), (image, flat), (image, image)):
        assert_same_features(run(matcher, *images), matcher.extract(np.stack(images)))


def test_a_flat_image_has_no_keypoints_when_replayed() -> None:
    matcher = SemanticMatcher.from_parts(create_extractor("compact", device="cpu"), device="cpu")
    flat = np.full((64, 96, 3), 128, np.uint8)
    found, expected = Recorded()(matcher.with_settings(detection_threshold=0.3), flat), matcher.extract(flat)
    assert found.valid is None and found.keypoints.shape == (1, 0, 2)
    assert expected.image_size == found.image_size


def test_replayed_features_match_as_the_plain_ones(textured: Render) -> None:
    matcher, run = build(max_keypoints=1500), Recorded()
    images = [textured(96, 128, seed=1), textured(96, 128, seed=1)[3:, 5:].copy()]
    plain = matcher.match_images(*images)
    replayed = matcher.match(*(run(matcher, image) for image in images))
    assert len(plain) > 20
    assert torch.equal(plain.indices, replayed.indices)


def test_other_settings_are_recorded_anew(textured: Render) -> None:
    matcher, run = build(), Recorded()
    image = textured(96, 128, seed=1)
    for change in ({}, {"semantic_size": 98}, {"registration": "published"}, {}):
        matcher = matcher.with_settings(**change)
        assert_same_features(run(matcher, image), matcher.extract(image))
    assert run(matcher.with_settings(max_keypoints=20), image).keypoints.shape[1] == 20
    assert run.recorder.recorded == 4
    # What matching alone depends on is no part of it.
    run(matcher.with_settings(matching=MatcherConfig(ratio=0.8)), image)
    assert run.recorder.recorded == 4


def test_what_can_be_recorded(monkeypatch: pytest.MonkeyPatch, textured: Render) -> None:
    matcher, run = build(), Recorded()
    assert can_be_recorded(matcher.networks)
    assert not can_be_recorded(SemanticMatcher.from_parts(Sift(10), device="cpu").networks)
    image = as_image_batch(textured(64, 96, seed=1))
    masks = torch.ones(1, 64, 96, dtype=torch.bool)
    masks[:, :, 50:] = False
    with torch.inference_mode():
        masked = run._run(matcher.networks, matcher.settings, image, masks)
    assert_same_features(masked, matcher.extract(image, masks))
    assert run.recorder.recorded == 0
    monkeypatch.setenv(VARIABLE, "cuda_graphs")
    assert not can_be_recorded(matcher.networks)


def test_threads_take_turns_at_a_recorded_graph(textured: Render) -> None:
    matcher, run = build(max_keypoints=60), Recorded()
    images = [textured(64, 96, seed=seed) for seed in range(4)]
    expected = [matcher.extract(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for found, wanted in zip(pool.map(lambda image: run(matcher, image), images), expected, strict=True):
                assert_same_features(found, wanted)
    assert run.recorder.recorded == 1


def test_weights_that_were_moved_are_recorded_anew(textured: Render) -> None:
    """A graph reads memory: after a move it would read what is no longer there."""
    matcher, run = build(max_keypoints=60), Recorded()
    image = textured(64, 96, seed=1)
    run(matcher, image)
    for module in (matcher.extractor, matcher.semantic_encoder, matcher.reasoner):
        weight = list(module.parameters())[-1]
        weight.data = weight.data.clone() * 1.5 + 0.1
        assert_same_features(run(matcher.with_settings(), image), matcher.extract(image))
    assert run.recorder.recorded == 4
    run(matcher, image)
    assert run.recorder.recorded == 4


def test_copies_of_a_recorded_extraction_start_empty(textured: Render) -> None:
    matcher, run = build(), Recorded()
    run(matcher, textured(64, 96, seed=1))
    for other in (copy.deepcopy(run._run), pickle.loads(pickle.dumps(run._run))):
        assert not other._graphs._recorded
    assert copy.deepcopy(build()).extract(np.full((64, 64, 3), 9, np.uint8)).reasoned is not None


def test_results_keep_their_numbers_when_the_graph_runs_again() -> None:
    cache = GraphCache(ReplayOnCpu().record)
    given = [{"x": torch.full((3,), float(i)), "n": torch.tensor([i])} for i in (1, 2)]
    twice = [cache("k", lambda g: {"x": g["x"] * 2 * g["n"] / g["n"]}, values)["x"] for values in given]
    assert [t.tolist() for t in twice] == [[2, 2, 2], [4, 4, 4]]


def test_what_cannot_be_recorded_runs_as_it_is(
    textured: Render, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    matcher, run = build(max_keypoints=60), Recorded()
    images = [textured(64, 96, seed=seed) for seed in (1, 2)]

    def refuse(work: Callable[[], dict[str, Tensor]]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(run.recorder, "record", refuse)
    for image in images:
        assert_same_features(run(matcher, image), matcher.extract(image))
    assert run.step(matcher, images[0], []) is None
    assert [r.message for r in caplog.records if "not permitted when stream is capturing" in r.message] == [
        r.message for r in caplog.records
    ]
    assert len(caplog.records) == 1, "said once"


@pytest.mark.parametrize(
    "matching",
    [MatcherConfig(), MatcherConfig(ratio=0.95, band_px=9.0), MatcherConfig(mutual=False, min_similarity=0.5)],
)
@pytest.mark.parametrize("semantics", [True, False])
def test_a_step_gives_what_extracting_and_matching_give(
    textured: Render, matching: MatcherConfig, semantics: bool
) -> None:
    matcher = build(max_keypoints=400) if semantics else SemanticMatcher.from_pretrained("plain:compact", device="cpu")
    matcher, run = matcher.with_settings(matching=matching), Recorded()
    canvas = textured(110, 140, seed=1)
    images = [canvas[2 * i : 2 * i + 96, 3 * i : 3 * i + 128].copy() for i in range(3)]
    flat = np.full((96, 128, 3), 128, np.uint8)
    flat[30:50, 40:70] = images[0][30:50, 40:70]
    known: list[Features] = []
    total = 0
    for image in (*images, flat, images[1]):
        found = run.step(matcher, image, known)
        assert found is not None
        expected, matches = matcher.extract_and_match(image, known)
        assert_same_features(found[0], expected)
        for ours, wanted in zip(found[1], matches, strict=True):
            assert torch.equal(ours.indices, wanted.indices)
            assert torch.equal(ours.keypoints0, wanted.keypoints0) and torch.equal(ours.keypoints1, wanted.keypoints1)
            torch.testing.assert_close(ours.confidence, wanted.confidence, atol=1e-5, rtol=0)
        known = [*known[-1:], found[0]]
        total += sum(map(len, matches))
    assert total > 10


def test_a_step_brings_everything_to_the_host_at_once(textured: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    matcher, run = build(max_keypoints=60), Recorded()
    image = textured(64, 96, seed=1)
    copies: list[int] = []
    monkeypatch.setattr(graphs, "moved", lambda tensors, device: copies.append(len(tensors)) or dict(tensors))
    features, _ = run.step(matcher, image, [])
    assert len(run.step(matcher, image, [features, features])[1]) == 2
    assert copies == [1, 1]


def test_what_a_step_leaves_to_others(textured: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    matcher, run = build(max_keypoints=60), Recorded()
    image = textured(64, 96, seed=1)
    turned = matcher.extract_turned(image)
    assert run.step(matcher, image, [turned]) is None
    assert len(matcher.extract_and_match(image, [turned])[1][0]) > 20
    monkeypatch.setenv(VARIABLE, "single_wait")
    assert run.step(matcher, image, []) is None


def test_a_broken_descriptor_in_a_recorded_extraction_is_lost_alone(
    textured: Render, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = SemanticMatcher.from_pretrained("plain:compact", device="cpu", max_keypoints=60)
    network, image = matcher.extractor.net, textured(64, 96, seed=1)
    describe = network.describe

    def broken(*given: Tensor) -> Tensor:
        descriptors = describe(*given).clone()
        descriptors[:, 4, 7] = torch.nan
        return descriptors

    monkeypatch.setattr(network, "describe", broken)
    run = Recorded()
    found = run(matcher, image)
    assert found.keypoints.shape[1] == 59 and found.descriptors.isfinite().all()
    assert_same_features(found, matcher.extract(image))
    assert run.step(matcher, image, []) is None
    assert len(matcher.extract_and_match(image, [found])[1][0]) == 59


def test_only_the_last_few_graphs_are_kept() -> None:
    recorder = ReplayOnCpu()
    cache = GraphCache(recorder.record)
    for size in [*range(1, 10), 9, 1]:
        cache("k", lambda given: {"x": given["x"] + 1}, {"x": torch.zeros(size)})
    assert recorder.recorded == 10  # 1 was dropped, 9 was not


def test_constants_are_made_once_and_may_meet_gradients() -> None:
    like = torch.zeros(2, dtype=torch.float64)
    with torch.inference_mode():
        made = constant((3.0, 4.0), like)
    assert constant((3.0, 4.0), like) is made and made.dtype == torch.float64
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    (x * made).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [3, 4]


@gpu
@pytest.mark.parametrize("disabled", ["", "cuda_graphs", "cuda_graphs,streams", "all"])
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
    outputs, replay = record_cuda_graph(lambda: {"x": memory * 3})
    replay()
    assert outputs["x"].tolist() == [3, 3, 3, 3]
