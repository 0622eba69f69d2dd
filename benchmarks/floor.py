"""The least time that a stage can take: its arithmetic and its bytes, at the rates this machine was seen to reach.

Two ceilings are measured: the rate of a large matrix product in each precision, and the bandwidth of a copy. A stage's
floor is the larger of operations over the one and bytes over the other. Bytes are counted once: weights, what goes in
and what comes out; what a stage keeps in between is taken to stay in the caches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import Case
from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.device import PRECISIONS
from semantic_matcher_core.extractors.dense import DenseExtractor
from semantic_matcher_core.semantics import resize_for_encoder


@dataclass(frozen=True)
class Work:
    """Operations (an addition and a multiplication are two), in which precision, and bytes moved."""

    flops: float
    bytes: float
    precision: str = "fp32"


@dataclass(frozen=True)
class Ceilings:
    """Operations per second by precision, and bytes per second."""

    flops: dict[str, float]
    bandwidth: float

    def milliseconds(self, work: Work) -> float:
        """Return the floor of some work."""
        return 1e3 * max(work.flops / self.flops[work.precision], work.bytes / self.bandwidth)


def measure_ceilings(
    device: torch.device, precisions: tuple[str, ...], clock: Callable[[], float] = time.perf_counter
) -> Ceilings:
    """Measure the best of several products of 2048 × 2048 matrices (8192 on a GPU) and of several copies."""
    side, elements = (8192, 1 << 28) if device.type == "cuda" else (2048, 1 << 25)
    flops = {}
    for precision in dict.fromkeys(("fp32", *precisions)):
        a = torch.randn(side, side, device=device).to(PRECISIONS[precision])
        b = torch.randn(side, side, device=device).to(PRECISIONS[precision])
        flops[precision] = 2 * side**3 / _best(lambda a=a, b=b: torch.mm(a, b), device, clock)  # type: ignore[misc]
    source = torch.zeros(elements, device=device)
    target = torch.zeros_like(source)
    return Ceilings(flops, 2 * 4 * elements / _best(lambda: target.copy_(source), device, clock))


def stage_work(matcher: SemanticMatcher, case: Case, count: int) -> dict[str, Work]:
    """Return the work of each stage for one batch of images with ``count`` keypoints each, by the stage's name."""
    height, width = case.size
    encoder, reasoner, extractor = matcher.semantic_encoder, matcher.reasoner, matcher.extractor
    assert encoder is not None and reasoner is not None
    images = torch.zeros(1, 3, height, width, device=matcher.device)
    narrow = case.precision
    size = 4 if narrow == "fp32" else 2
    n, dim = count, reasoner.config.features_dim

    with torch.inference_mode():
        resized, _ = resize_for_encoder(images, case.semantic_size, encoder.patch_size, registration="published")
        assert isinstance(extractor, DenseExtractor)
        step = extractor.dense_step
        fitting = images[..., : height // step * step, : width // step * step]
        with FlopCounterMode(display=False) as counter:
            extractor.dense(fitting)
    dense_flops = float(counter.get_total_flops())

    tokens = 1 + resized.shape[-2] * resized.shape[-1] // encoder.patch_size**2
    channels = encoder.feature_dim
    depth = len(encoder.blocks)  # type: ignore[arg-type]
    encode = depth * (24 * tokens * channels**2 + 4 * tokens**2 * channels) + 2 * tokens * channels * 588
    branches = 2 if reasoner.config.semantic_conditioning else 1
    layers = reasoner.config.n_attention_layers * branches
    reason = layers * (30 * n * dim**2 + 4 * n**2 * dim) + 2 * n * dim * (channels + extractor.descriptor_dim)
    work = {
        "decode": Work(0, 15 * height * width),
        "extract": Work(dense_flops, 4 * (3 * height * width + 130 * height * width / 64)),
        "encode": Work(encode, 8 * tokens * channels, narrow),
        "sample": Work(32 * n * channels, 4 * n * channels * 17),
        "reason": Work(reason, 4 * n * (channels + 64 + branches * dim), narrow),
        "match": Work(2 * n * n * dim * branches, 8 * n * dim * branches, narrow),
    }
    work = {name: Work(w.flops * case.batch, w.bytes * case.batch, w.precision) for name, w in work.items()}
    for name, part in (("extract", extractor), ("encode", encoder), ("reason", reasoner)):
        weights = sum(p.numel() for p in part.parameters()) * (4 if name == "extract" else size)
        work[name] = Work(work[name].flops, work[name].bytes + weights, work[name].precision)
    return work


def whole(floors: dict[str, float]) -> dict[str, float]:
    """Return floors of a new frame of a stream and of an isolated pair, from those of the stages."""
    frame = sum(floors.values())
    return {"new frame of a stream": frame, "isolated pair": 2 * frame - floors["match"]}


def _best(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    samples = []
    for _ in range(8):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        samples.append(clock() - start)
    return min(samples[1:])
