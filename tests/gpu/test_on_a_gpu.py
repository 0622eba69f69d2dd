"""What only a GPU can show: the same results as on the CPU, by every extractor, precision and path; memory that stays.

Skipped where there is no CUDA device. ``benchmarks/bare_gpu.sh`` runs these on a machine that has nothing else.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.extractors import Extractor
from semantic_matcher_core.extractors.registry import BUILT_IN
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.streams import StereoStream, TemporalStream
from semantic_matcher_core.types import Features
from tests.core.extractor_checks import as_tensor
from tests.core.test_extractor_contract import build

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

Render = Callable[..., np.ndarray]
SIZE = (120, 160)
# Their networks are large and slow to build with random weights, and their parts are tested by the smaller ones.
LEFT_OUT = {"dedode-G"}


def reasoning_parts() -> tuple[Extractor, DinoV2, Reasoner]:
    torch.manual_seed(0)
    encoder = DinoV2().requires_grad_(False)
    encoder.blocks = encoder.blocks[:2]
    reasoner = Reasoner(ReasonerConfig(64, 384, features_dim=64, n_attention_layers=2)).eval().requires_grad_(False)
    return XFeat(300, detection_threshold=0.0).requires_grad_(False), encoder, reasoner


def reasoning_matcher(device: str, precision: str = "fp32") -> SemanticMatcher:
    extractor, encoder, reasoner = reasoning_parts()
    return SemanticMatcher.from_parts(
        extractor, encoder, reasoner, device=device, precision=precision, semantic_size=140
    )


def shared_rows(found: Features, expected: Features, pixels: float = 0.05) -> tuple[float, float]:
    """Share of the expected keypoints that were found, and the worst cosine of their descriptors."""
    distance = torch.cdist(expected.keypoints[0].double().cpu(), found.keypoints[0].double().cpu())
    close = distance <= pixels
    ours, theirs = (torch.nn.functional.normalize(f.descriptors[0].cpu(), dim=-1) for f in (found, expected))
    # Several may lie in one place (SIFT's, with their orientations): the most similar of them counts.
    best = (theirs @ ours.T).masked_fill(~close, -1.0).max(dim=1).values
    have = close.any(dim=1)
    return float(have.float().mean()), float(best[have].quantile(0.02)) if have.any() else 0.0


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name not in LEFT_OUT])
def test_every_extractor_gives_what_it_gives_on_the_cpu(name: str, textured: Render) -> None:
    extractor = copy.deepcopy(build(name))
    images = as_tensor(textured(*SIZE, seed=1), textured(*SIZE, seed=2))
    expected = [extractor(image[None]) for image in images]
    on_gpu = extractor.to("cuda")
    together = on_gpu(images.to("cuda"))
    assert together.keypoints.device.type == "cuda"
    for index, wanted in enumerate(expected):
        share, cosine = shared_rows(together[index].to("cpu"), wanted)
        assert share >= 0.97, f"{share:.3f} of the keypoints found"
        assert cosine >= 0.998


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name not in LEFT_OUT])
def test_extract_has_one_contract(name: str, textured: Render) -> None:
    """A batch of one has no padding, wherever it was computed; nothing to find is no row."""
    picture = textured(*SIZE, seed=1)
    plain = SemanticMatcher.from_parts(copy.deepcopy(build(name)), device="cpu").extract(picture)
    matcher = SemanticMatcher.from_parts(copy.deepcopy(build(name)), device="cuda")
    for _ in range(3):  # recorded, then replayed
        features = matcher.extract(picture)
        assert features.valid is None
        assert abs(features.keypoints.shape[1] - plain.keypoints.shape[1]) <= 0.03 * plain.keypoints.shape[1]
    mask = np.zeros(SIZE, np.uint8)
    assert matcher.extract(picture, mask).keypoints.shape[1] == 0
    mask[:, 80:] = 1
    masked = matcher.extract(picture, mask)
    assert len(masked.keypoints[0]) == 0 or float(masked.keypoints[0, :, 0].min()) >= 79


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_matches_are_those_of_the_cpu(precision: str, textured: Render) -> None:
    canvas = textured(260, 350, seed=3)
    images = canvas[:240, :320].copy(), canvas[7:247, 12:332].copy()
    expected = reasoning_matcher("cpu").match_images(*images)
    matcher = reasoning_matcher("cuda", precision)
    wanted = set(map(tuple, torch.cat([expected.keypoints0, expected.keypoints1], 1).round().int().tolist()))
    assert len(wanted) >= 15
    for _ in range(3):
        matches = matcher.match_images(*images)
        assert matches.keypoints0.device.type == "cuda"
        found = set(map(tuple, torch.cat([matches.keypoints0, matches.keypoints1], 1).round().int().tolist()))
        # Networks with random weights decide by little: benchmarks.gpu measures published ones.
        assert len(wanted & found) >= (0.99 if precision == "fp32" else 0.75) * len(wanted)


def test_batches_paths_and_odd_sizes(textured: Render) -> None:
    matcher = reasoning_matcher("cuda")
    batch = np.stack([textured(97, 131, seed=seed) for seed in (1, 2, 3)])
    together = matcher.extract(batch)
    for index, image in enumerate(batch):
        alone = matcher.extract(image)
        ours = together[index]
        assert ours.keypoints.shape == alone.keypoints.shape
        assert alone.reasoned is not None and ours.reasoned is not None
        torch.testing.assert_close(ours.keypoints, alone.keypoints, atol=1e-3, rtol=0)
        torch.testing.assert_close(ours.reasoned, alone.reasoned, atol=1e-3, rtol=0)


def test_nothing_to_find_is_no_error() -> None:
    matcher = SemanticMatcher.from_pretrained("plain:compact", device="cuda", max_keypoints=256)
    nothing = matcher.extract(np.full((96, 128, 3), 128, np.uint8), np.zeros((96, 128), np.uint8))
    assert nothing.keypoints.shape == (1, 0, 2)
    assert len(matcher.match(nothing, nothing).to("cpu")) == 0


def test_half_precision_holds_what_the_bundled_reasoner_adds_up(textured: Render) -> None:
    matcher = SemanticMatcher.from_pretrained("compact", device="cuda", precision="fp16", max_keypoints=512)
    features = matcher.extract(textured(240, 320, seed=1))
    assert features.semantic is not None and features.semantic.isfinite().all()
    assert len(matcher.match(features, features)) >= 0.9 * features.keypoints.shape[1]


def test_streams(textured: Render) -> None:
    canvas = textured(140, 260, seed=4)
    frames = [canvas[:120, 4 * step : 4 * step + 160].copy() for step in range(6)]
    counts = {}
    for device in ("cpu", "cuda"):
        stream = TemporalStream(reasoning_matcher(device), semantic_every=2)
        pairs = [stream.process(frame, stamp)[1] for stamp, frame in enumerate(frames, 1)]
        assert pairs[0] is None
        counts[device] = [len(pair.matches) for pair in pairs[1:] if pair is not None]
        counts[device].append(len(StereoStream(reasoning_matcher(device)).process(frames[0], frames[1]).matches))
    assert len(counts["cpu"]) == 6
    np.testing.assert_allclose(counts["cuda"], counts["cpu"], rtol=0.05, atol=3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("reasoning", [True, False])
def test_a_frame_of_a_stream_waits_once(textured: Render, precision: str, reasoning: bool) -> None:
    """And its matches are those of extracting and matching."""
    matcher = (
        reasoning_matcher("cuda", precision)
        if reasoning
        else SemanticMatcher.from_pretrained("plain:compact", device="cuda", precision=precision, max_keypoints=512)
    )
    canvas = textured(140, 260, seed=4)
    frames = [canvas[:120, 4 * step : 4 * step + 160].copy() for step in range(12)]
    stream = TemporalStream(matcher)
    pairs = [stream.process(frame, stamp)[1] for stamp, frame in enumerate(frames[:8], 1)]
    for index, pair in enumerate(pairs):
        assert (pair is None) == (index == 0)
        if pair is not None:
            expected = matcher.match(matcher.extract(frames[index - 1]), matcher.extract(frames[index])).to("cpu")
            found, wanted = (set(map(tuple, m.indices.tolist())) for m in (pair.matches, expected))
            assert pair.matches.indices.device.type == "cpu" and pair.current.features.device.type == "cuda"
            assert len(found & wanted) >= 0.98 * len(wanted) > 20
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for stamp, frame in enumerate(frames[8:], 9):
                stream.process(frame, stamp)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    # Switching the mode on says one itself.
    assert len([place for place in waits if "torch/cuda/__init__" not in place]) == len(frames[8:]), waits


def test_compact_runs_in_half_precision(textured: Render) -> None:
    matcher = SemanticMatcher.from_pretrained("plain:compact", device="cuda", precision="fp16", max_keypoints=512)
    assert {p.dtype for p in matcher.extractor.parameters()} == {torch.float16, torch.float32}
    expected = SemanticMatcher.from_pretrained("plain:compact", device="cpu", max_keypoints=512)
    canvas = textured(260, 350, seed=3)
    images = canvas[:240, :320].copy(), canvas[7:247, 12:332].copy()
    found, wanted = (
        set(map(tuple, torch.cat([m.keypoints0, m.keypoints1], 1).round().int().tolist()))
        for m in (matcher.match_images(*images), expected.match_images(*images))
    )
    assert len(found & wanted) >= 0.97 * len(wanted) > 50


def test_memory_stays(textured: Render) -> None:
    matcher = SemanticMatcher.from_pretrained("plain:compact", device="cuda", max_keypoints=512)
    images = [textured(240, 320, seed=seed) for seed in (1, 2)]
    before = matcher.extract(images[0])

    def run(frames: int) -> None:
        nonlocal before
        for index in range(frames):
            features = matcher.extract(images[index % 2])
            matcher.match(before, features).to("cpu")
            before = features

    run(20)
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    run(300)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= held[0] + 2**20
    assert torch.cuda.memory_reserved() <= held[1] + 2**25


def test_threads_share_a_matcher(textured: Render) -> None:
    matcher = SemanticMatcher.from_pretrained("plain:compact", device="cuda", max_keypoints=256)
    images = [textured(*SIZE, seed=seed) for seed in range(4)]
    expected = [matcher.extract(image).keypoints.cpu() for image in images]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(10):
            found = matcher.extract(images[index]).keypoints.cpu()
            if found.shape != expected[index].shape or not torch.allclose(found, expected[index], atol=1e-3):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_gradients_are_those_of_the_cpu() -> None:
    """One backward pass of the reasoner."""
    reasoner = Reasoner(ReasonerConfig(64, 384, features_dim=64, n_attention_layers=2)).train()
    descriptors, semantic = torch.rand(2, 50, 64), torch.rand(2, 50, 384)
    losses = []
    for device in ("cpu", "cuda"):
        network = copy.deepcopy(reasoner).to(device)
        texture, meaning = network(descriptors.to(device), semantic.to(device), None)
        loss = texture.square().mean() + meaning.square().mean()
        loss.backward()
        losses.append((float(loss.detach()), float(network.dino_reprojection.weight.grad.norm())))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
