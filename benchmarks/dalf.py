"""DALF and non-rigid RANSAC against their straightforward formulations: time, memory, and how far outputs differ.

``python -m benchmarks.dalf --help`` has the options.

The straightforward extraction builds normalised grids and N x 1024 x 64 spline kernels for every keypoint, describes
all patches at once, and runs the networks layer by layer. Memory is measured in a process of its own for each: the peak
of one extraction, and what of it was added to the process with the network loaded. Published weights are used where
they are found; otherwise random ones of the same shape stand in, and the output says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import status_mib
from benchmarks.models import textured_pair
from benchmarks.reference_dalf import extract, plain_network
from benchmarks.reference_nonrigid import plain_nonrigid_inliers
from benchmarks.timing import Timing, machine_description, time_interleaved
from semantic_matcher_core.errors import WeightsNotFoundError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.dalf import Dalf
from semantic_matcher_core.geometry.thin_plate import ThinPlateSpline
from semantic_matcher_core.inputs import as_image_batch
from semantic_matcher_core.matching.nonrigid import nonrigid_inliers

CPU = torch.device("cpu")
FORMULATIONS = ("ours", "straightforward")


@dataclass(frozen=True)
class Peak:
    """Megabytes of resident memory: the most the process held, and what one extraction added."""

    total_mb: float
    added_mb: float


@dataclass(frozen=True)
class Correspondences:
    """Matches of a bent sheet, outliers among them.

    Attributes:
        points0, points1: ``N x 2`` pixels.
        truth: ``N`` bool.
    """

    points0: Tensor
    points1: Tensor
    truth: Tensor

    @classmethod
    def generate(cls, inliers: int, outliers: int, bend: float, noise_px: float, seed: int) -> Correspondences:
        """Return random points of a 640 x 480 image moved by a random spline, and random pairs."""
        generator = torch.Generator().manual_seed(seed)
        extent = torch.tensor([640.0, 480.0])
        y, x = torch.meshgrid(torch.linspace(0, 1, 5), torch.linspace(0, 1, 5), indexing="ij")
        control = torch.stack([x, y], dim=-1).reshape(-1, 2) * extent
        moved = control + torch.randn(control.shape, generator=generator) * bend * extent
        points0 = torch.rand(inliers + outliers, 2, generator=generator) * extent
        points1 = ThinPlateSpline.fit(control, moved)(points0)
        points1 = points1 + torch.randn(points1.shape, generator=generator) * noise_px
        points1[inliers:] = torch.rand(outliers, 2, generator=generator) * extent
        return cls(points0, points1, torch.arange(inliers + outliers) < inliers)

    def quality(self, find: Callable[[int], Tensor], seeds: int = 5) -> tuple[float, float]:
        """Return mean precision and recall of what ``find(seed)`` finds."""
        precision, recall = 0.0, 0.0
        for seed in range(seeds):
            found = find(seed)
            right = float((found & self.truth).sum())
            precision += right / max(1.0, float(found.sum())) / seeds
            recall += right / float(self.truth.sum()) / seeds
        return precision, recall


CASES = {
    "mild": Correspondences.generate(600, 200, 0.03, 0.5, seed=1),
    "strong": Correspondences.generate(600, 400, 0.06, 0.5, seed=2),
    "hard": Correspondences.generate(400, 600, 0.06, 1.0, seed=3),
}


def build(keypoints: int) -> tuple[Dalf, str]:
    """Build DALF that finds as many keypoints as asked for, and say where its weights are from."""
    try:
        dalf = create_extractor("dalf", keypoints, device=CPU, threshold=-1e9, max_side=None)
        assert isinstance(dalf, Dalf)
        return dalf.requires_grad_(False), "published"
    except WeightsNotFoundError:
        torch.manual_seed(0)
        return Dalf(keypoints, threshold=-1e9, max_side=None).eval().requires_grad_(False), "random"


def extraction(dalf: Dalf, images: Tensor, formulation: str) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return the call to measure: keypoints and descriptors of one image."""
    if formulation == "straightforward":
        plain = plain_network(dalf)
        return lambda: extract(plain, images)

    def ours() -> tuple[Tensor, Tensor]:
        features = dalf(images)
        return features.keypoints[0], features.descriptors[0]

    return ours


def largest_difference(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> tuple[int, float]:
    """Return keypoints that both have, and the largest difference of their descriptors."""
    rows = {tuple(xy): row for row, xy in enumerate(theirs[0].int().tolist())}
    pairs = [(i, rows[tuple(xy)]) for i, xy in enumerate(ours[0].int().tolist()) if tuple(xy) in rows]
    mine, others = zip(*pairs, strict=True)
    return len(pairs), float((ours[1][list(mine)] - theirs[1][list(others)]).abs().max())


def peak_of(formulation: str, args: argparse.Namespace) -> Peak:
    """Return peak memory of one extraction in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.dalf", "--measure-memory", formulation]
    command += ["--size", args.size, "--keypoints", str(args.keypoints), "--threads", str(args.threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Peak(**json.loads(done.stdout))


def measure_memory(args: argparse.Namespace, images: Tensor) -> Peak:
    call = extraction(build(args.keypoints)[0], images, args.measure_memory)
    extraction(build(16)[0], images[..., :64, :64], "ours")()  # what torch allocates once
    before = status_mib("VmRSS")
    call()
    peak = status_mib("VmHWM")
    return Peak(round(peak, 1), round(peak - before, 1))


def compare_extraction(args: argparse.Namespace, images: Tensor) -> dict[str, Any]:
    dalf, origin = build(args.keypoints)
    calls = {formulation: extraction(dalf, images, formulation) for formulation in FORMULATIONS}
    common, difference = largest_difference(calls["ours"](), calls["straightforward"]())
    return {
        "weights": origin,
        "time": time_interleaved(calls, repeats=args.repeats, warmup=0, device=CPU),
        "peak": {formulation: peak_of(formulation, args) for formulation in FORMULATIONS},
        "common_keypoints": common,
        "largest_descriptor_difference": difference,
    }


def compare_nonrigid(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for name, case in CASES.items():

        def ours(seed: int = 0, case: Correspondences = case) -> Tensor:
            return nonrigid_inliers(case.points0, case.points1, threshold=0.1, seed=seed)

        def plain(seed: int = 0, case: Correspondences = case) -> Tensor:
            return plain_nonrigid_inliers(case.points0, case.points1, 0.1, seed=seed)

        results[name] = {
            "time": time_interleaved(
                {"ours": ours, "straightforward": plain}, repeats=3 * args.repeats, warmup=1, device=CPU
            ),
            "quality": {"ours": case.quality(ours), "straightforward": case.quality(plain)},
        }
    return results


def markdown(extraction: dict[str, Any], nonrigid: dict[str, dict[str, Any]]) -> str:
    """Return two tables: extraction, and non-rigid RANSAC."""
    lines = ["| DALF extraction | ours | straightforward | ratio |", "|---|---:|---:|---:|"]
    time: dict[str, Timing] = extraction["time"]
    peak: dict[str, Peak] = extraction["peak"]
    for field, what in (("best_ms", "time (best), ms"), ("median_ms", "time (median), ms")):
        a, b = getattr(time["ours"], field), getattr(time["straightforward"], field)
        lines.append(f"| {what} | {a:.0f} | {b:.0f} | {b / a:.1f}× |")
    for field, what in (("added_mb", "memory added, MB"), ("total_mb", "peak of the process, MB")):
        a, b = getattr(peak["ours"], field), getattr(peak["straightforward"], field)
        lines.append(f"| {what} | {a:.0f} | {b:.0f} | {b / a:.1f}× |")
    difference = extraction["largest_descriptor_difference"]
    agreement = f"{extraction['common_keypoints']} keypoints in common; descriptors differ by at most {difference:.1e}."
    lines += [
        "",
        agreement,
        "",
        "| non-rigid RANSAC | ours, ms | straightforward, ms | ratio | precision / recall | straightforward's |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, result in nonrigid.items():
        a, b = (result["time"][which].best_ms for which in FORMULATIONS)
        quality = [" / ".join(f"{value:.3f}" for value in result["quality"][which]) for which in FORMULATIONS]
        lines.append(f"| {name} | {a:.1f} | {b:.1f} | {b / a:.1f}× | {quality[0]} | {quality[1]} |")
    return "\n".join(lines)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dalf", description=__doc__)
    parser.add_argument("--size", default="640x480", help="image WIDTHxHEIGHT")
    parser.add_argument("--keypoints", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--measure-memory", choices=FORMULATIONS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    width, height = (int(v) for v in args.size.split("x"))
    images = as_image_batch(textured_pair(height, width)[0])
    if args.measure_memory:
        print(json.dumps(asdict(measure_memory(args, images))))
        return 0
    measured, nonrigid = compare_extraction(args, images), compare_nonrigid(args)
    print(f"{machine_description(CPU)}; {args.keypoints} keypoints in {args.size}; weights: {measured['weights']}\n")
    print(markdown(measured, nonrigid))
    if args.json:
        plain = {"extraction": measured, "nonrigid": nonrigid}
        args.json.write_text(json.dumps(plain, indent=2, default=asdict))
    return 0


if __name__ == "__main__":
    sys.exit(main())
