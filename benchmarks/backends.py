"""The same networks in each backend that is installed, side by side: eager torch, torch.compile, onnxruntime.

``python -m benchmarks.backends`` times extractor, DINOv2, reasoner and a new frame of a stream, and says how many
matches of eager fp32 are found identically. 640 x 480, 2048 keypoints, DINOv2-S, a reasoner of 5 layers. onnxruntime
runs in fp32, and with DINOv2 and the reasoner in int8 (``semantic-matcher export --int8``).
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.models import Case, add_common_options, build_matcher, common_setting
from benchmarks.timing import machine_description, time_interleaved
from semantic_matcher_core import Matches, SemanticMatcher, extraction
from semantic_matcher_core.export import export_onnx
from semantic_matcher_core.inputs import as_image_batch
from semantic_matcher_core.semantics import resize_for_encoder

_STAGES = ("extract", "encode", "reason", "new frame")


@dataclass(frozen=True)
class Way:
    """A backend and what it computes in."""

    backend: str
    precision: str = "fp32"
    int8: bool = False

    def __str__(self) -> str:
        return f"{self.backend}, {'int8' if self.int8 else self.precision}"


def ways(device: torch.device) -> list[Way]:
    """Return ways to run, eager fp32 first."""
    half = "fp16" if device.type == "cuda" else "bf16"
    found = [Way("eager"), Way("eager", half), Way("compile"), Way("compile", half)]
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        found += [Way("onnx"), Way("onnx", int8=True)]
    if importlib.util.find_spec("torch_tensorrt") and device.type == "cuda":
        found.append(Way("tensorrt", half))
    return found


def build(way: Way, case: Case, device: torch.device, weights: str | None, folder: Path) -> SemanticMatcher:
    """Return a matcher whose networks run this way; graphs are exported to ``folder`` where they are not there yet."""
    matcher, _ = build_matcher(case.with_(precision=way.precision), device, weights)
    if way.backend != "onnx":
        return matcher.with_backend(way.backend)
    graphs = folder / str(way)
    if not graphs.exists():
        export_onnx(build_matcher(case, torch.device("cpu"), weights)[0], graphs, int8=way.int8)
    return matcher.with_backend("onnx", onnx_folder=graphs)


def calls(matcher: SemanticMatcher, images: tuple[np.ndarray, np.ndarray]) -> dict[str, Callable[[], object]]:
    """Return what is timed, by stage; intermediate results are made beforehand."""
    encoder, encode, reason = matcher.semantic_encoder, matcher.networks.encode, matcher.networks.reason
    assert encoder is not None and encode is not None and reason is not None
    batch = as_image_batch(images[0], matcher.device)
    resized, _ = resize_for_encoder(batch, matcher.semantic_size, encoder.patch_size, registration="published")
    features = extraction.local_features(matcher.networks, matcher.settings, batch)
    semantic = matcher.semantic_features(batch, features)
    before = matcher.extract(images[0])
    return {
        "extract": lambda: extraction.local_features(matcher.networks, matcher.settings, batch),
        "encode": lambda: encode(resized),
        "reason": lambda: reason(features.descriptors, semantic, None),
        "new frame": lambda: matcher.match(before, matcher.extract(images[1])),
    }


def _places(matches: Matches) -> set[tuple[int, ...]]:
    return {tuple(row) for row in torch.cat([matches.keypoints0, matches.keypoints1], dim=1).round().int().tolist()}


def rows(
    case: Case, device: torch.device, weights: str | None, images: tuple[np.ndarray, np.ndarray], repeats: int
) -> Iterator[str]:
    """Yield the table, row by row: one way at a time, each stage a median."""
    yield "| backend | " + " | ".join(f"{stage}, ms" for stage in _STAGES) + " | gain | identical matches |"
    yield "|---|" + "---:|" * (len(_STAGES) + 2)
    plain: set[tuple[int, ...]] = set()
    plain_ms = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for way in ways(device):
            print(f"measuring: {case}: {way} …", file=sys.stderr)
            matcher = build(way, case, device, weights, Path(folder))
            found = _places(matcher.match_images(*images).to("cpu"))
            timings = time_interleaved(calls(matcher, images), repeats=repeats, warmup=2, device=device)
            medians = [timings[stage].median_ms for stage in _STAGES]
            if not plain:
                plain, plain_ms = found, medians[-1]
            shared = len(plain & found) / max(1, len(plain))
            row = " | ".join(f"{ms:.0f}" for ms in medians)
            yield f"| {way} | {row} | {plain_ms / medians[-1]:.2f}× | {shared:.2%} |"


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backends", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--semantic-sizes", nargs="+", type=int, default=[896, 448], help="long sides DINOv2 sees")
    parser.add_argument("--keypoints", type=int, default=2048)
    add_common_options(parser, repeats=5)
    args = parser.parse_args(argv)
    device, images = common_setting(args)
    print(f"{machine_description(device)}; medians of {args.repeats} calls.")
    for semantic_size in args.semantic_sizes:
        case = Case(size=images[0].shape[:2], keypoints=args.keypoints, semantic_size=semantic_size)
        print(f"\nDINOv2-S at {semantic_size}:\n")
        for row in rows(case, device, args.weights, images, args.repeats):
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
