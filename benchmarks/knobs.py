"""What each knob of speed costs: time of a new frame, and how many matches of the plain way are still found.

``python -m benchmarks.knobs --frames FOLDER`` runs a temporal stream over the pictures of a folder, in the order of
their names, once as it is (fp32, semantic size 896, a map for every frame) and once with each knob turned. Agreement is
the share of the plain way's matches that are found identically. With random weights (the published ones of DINOv2 and
the reasoner are used where they are found) it says how much a knob changes, and not how much worse that is; geometric
inliers (fundamental matrix) say a little of the latter. ``--variant compact`` measures a trained variant instead.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import Case, build_matcher
from benchmarks.timing import machine_description
from semantic_matcher_core import Matches, SemanticMatcher
from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.io.images import IMAGE_SUFFIXES, read_image
from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.streams import TemporalStream


@dataclass(frozen=True)
class Knob:
    """A setting of what a user can turn."""

    name: str
    precision: str = "fp32"
    semantic_size: int = 896
    semantic_every: int = 1
    keypoints: int = 2048


def knobs(device: torch.device) -> list[Knob]:
    """List what is compared, the plain way first."""
    half = "fp16" if device.type == "cuda" else "bf16"
    return [
        Knob("plain: fp32, semantic size 896"),
        Knob(f"{half}", half),
        *(Knob(f"semantic size {size}", semantic_size=size) for size in (672, 448, 336, 224)),
        *(Knob(f"semantic map every {n} frames", semantic_every=n) for n in (2, 4)),
        Knob("1024 keypoints", keypoints=1024),
        Knob(f"{half}, size 448", half, 448),
        Knob(f"{half}, size 448, every 4", half, 448, 4),
    ]


def run(matcher: SemanticMatcher, knob: Knob, frames: list[np.ndarray], clock: Any) -> tuple[list[Matches], float]:
    """Return matches of each frame with the one before, and the median time of a frame in ms."""
    stream = TemporalStream(matcher, semantic_every=knob.semantic_every)
    matches, times = [], []
    matcher.match_images(frames[0], frames[0])  # warm
    for frame in frames:
        start = clock()
        _, pair = stream.process(frame)
        if matcher.device.type == "cuda":
            torch.cuda.synchronize()
        times.append((clock() - start) * 1e3)
        if pair is not None:
            matches.append(pair.matches.to("cpu"))
    # A mean: of every n-th frame with a map of its own and those without.
    return matches, statistics.fmean(times[1:])


def places(matches: Matches) -> set[tuple[int, ...]]:
    """Return matches as pairs of whole pixels."""
    return {tuple(row) for row in torch.cat([matches.keypoints0, matches.keypoints1], dim=1).round().int().tolist()}


def build(args: argparse.Namespace, knob: Knob, device: torch.device) -> SemanticMatcher:
    if args.variant:
        return SemanticMatcher.from_pretrained(
            args.variant,
            device=device,
            precision=knob.precision,
            max_keypoints=knob.keypoints,
            semantic_size=knob.semantic_size,
            weights=args.weights,
        )
    case = Case(keypoints=knob.keypoints, precision=knob.precision, semantic_size=knob.semantic_size)
    return build_matcher(case, device, args.weights)[0]


def rows(args: argparse.Namespace, frames: list[np.ndarray], device: torch.device) -> Iterator[str]:
    """Yield the table, row by row."""
    clock = time.thread_time if args.clock == "cpu" else time.perf_counter
    plain: list[set[tuple[int, ...]]] = []
    plain_time = 0.0
    yield "| knob | new frame, ms | gain | matches | agreement | epipolar inliers |"
    yield "|---|---:|---:|---:|---:|---:|"
    for knob in knobs(device):
        print(f"measuring: {knob.name} …", file=sys.stderr)
        matches, milliseconds = run(build(args, knob, device), knob, frames, clock)
        found = [places(m) for m in matches]
        if not plain:
            plain, plain_time = found, milliseconds
        shared = sum(len(a & b) for a, b in zip(plain, found, strict=True)) / max(1, sum(map(len, plain)))
        inliers = [int(v.inlier.sum()) for m in matches if (v := verify(m, "fundamental")).inlier is not None]
        yield (
            f"| {knob.name} | {milliseconds:.0f} | {plain_time / milliseconds:.2f}× | "
            f"{statistics.fmean(map(len, found)):.0f} | {shared:.1%} | {statistics.fmean(inliers or [0]):.0f} |"
        )


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.knobs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=Path, required=True, help="folder of pictures of one size")
    parser.add_argument("--count", type=int, default=6, help="of its first pictures")
    parser.add_argument("--variant", help="a variant instead of the published default architecture")
    parser.add_argument("--weights", help="folder to look for weights in first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"], help="as for benchmarks.pipeline")
    args = parser.parse_args(argv)
    if args.threads or args.clock == "cpu":
        torch.set_num_threads(1 if args.clock == "cpu" else args.threads)
    device = resolve_device(args.device)
    files = sorted(path for path in args.frames.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)[: args.count]
    frames = [read_image(path) for path in files]
    if len(frames) < 2:
        parser.error(f"{args.frames} has fewer than two pictures")
    height, width = frames[0].shape[:2]
    what = args.variant or "XFeat, DINOv2-S and a reasoner, random weights where none were found"
    print(f"{machine_description(device)}; {len(frames)} frames of {width}×{height}; {what}.\n")
    for row in rows(args, frames, device):
        print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
