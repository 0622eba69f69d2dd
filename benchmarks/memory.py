"""Peak memory and time of each extractor on one large image: ``python -m benchmarks.memory``.

Prints a Markdown table; on the CPU, and on Linux only. Every extractor runs in a process of its own, with its default
options. Without its published weights it gets random ones, and a detection threshold of 0, where it has one, so that it
finds keypoints; neither time nor memory depends on the values. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import textured_pair
from benchmarks.timing import machine_description
from semantic_matcher_core.errors import WeightsNotFoundError
from semantic_matcher_core.extractors import Extractor, create_extractor
from semantic_matcher_core.extractors.registry import BUILT_IN, accepted_options
from semantic_matcher_core.types import Features

_TILE = 500


@dataclass(frozen=True)
class Peak:
    """What one extractor needs for one image.

    Attributes:
        peak_mib: largest memory of the process while it works on the image.
        extra_mib: how much of it was not there before: without interpreter, libraries, weights and the image.
        seconds: for the image, the first of its size.
        keypoints: found.
        weights: ``published`` or ``random``; ``none`` where there are none.
    """

    peak_mib: float
    extra_mib: float
    seconds: float
    keypoints: int
    weights: str


def measure(extractor: Extractor, image: np.ndarray, weights: str) -> tuple[Peak, Features]:
    """Return peak memory of this process for one image, and what it has found; Linux only.

    Args:
        image: ``H x W x 3`` uint8.
        weights: where the extractor's are from.
    """
    extractor.extract(image[:64, :64])  # what is made once, whatever the image
    # Forgets the peak of loading the weights; from here on it is that of the image.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = status_mib("VmRSS"), time.perf_counter()
    features = extractor.extract(image)
    seconds, peak = time.perf_counter() - start, status_mib("VmHWM")
    return Peak(peak, peak - before, seconds, int(features.counts.sum()), weights), features


def status_mib(field: str) -> float:
    """Return a size that Linux keeps of this process, e.g. ``VmHWM``, the largest that it had in memory so far."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"error: /proc/self/status has no {field}; memory is measured on Linux only")


def build(name: str, keypoints: int, weights: Path | None, options: dict[str, Any]) -> tuple[Extractor, str]:
    """Return an extractor, and where its weights are from."""
    entry = BUILT_IN[name]
    try:
        extractor = create_extractor(name, keypoints, weights=weights, device="cpu", **options)
        return extractor, "none" if entry.weights is None else "published"
    except WeightsNotFoundError:
        torch.manual_seed(0)
        factory = getattr(import_module(f"semantic_matcher_core.extractors.{entry.module}"), entry.factory)
        every = {"detection_threshold": 0.0} if "detection_threshold" in accepted_options(name) else {}
        return factory(max_keypoints=keypoints, **{**entry.options, **every, **options}).eval(), "random"


def large_image(width: int, height: int) -> np.ndarray:
    """Return ``height x width x 3`` uint8 with as much texture everywhere."""
    tile = textured_pair(_TILE, _TILE)[0]
    return np.tile(tile, (-(-height // _TILE), -(-width // _TILE), 1))[:height, :width].copy()


def in_own_process(name: str, args: argparse.Namespace) -> Peak | str:
    """Measure one extractor in a process of its own, or return why there are no figures."""
    command = [sys.executable, "-m", "benchmarks.memory", "--here", "--extractors", name, "--size", args.size]
    command += ["--keypoints", str(args.keypoints), "--threads", str(args.threads)]
    command += [] if args.weights is None else ["--weights", str(args.weights)]
    command += [] if args.max_side is None else ["--max-side", str(args.max_side)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=args.timeout)
    except subprocess.TimeoutExpired:
        return f"more than {args.timeout} s"
    if done.returncode:
        return f"killed by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return Peak(**json.loads(done.stdout))


def row(name: str, result: Peak | str) -> str:
    """Return a line of the table."""
    if isinstance(result, str):
        return f"| {name} | {result} | – | – | – | – |"
    sizes = f"{result.peak_mib / 1024:.1f} | {result.extra_mib / 1024:.1f}"
    return f"| {name} | {sizes} | {result.seconds:.1f} | {result.keypoints} | {result.weights} |"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extractors", nargs="+", choices=[*BUILT_IN], default=[*BUILT_IN], metavar="NAME")
    parser.add_argument("--size", default="4000x3000", help="WIDTHxHEIGHT of the image (default: %(default)s)")
    parser.add_argument("--weights", type=Path, help="folder to search for weights first")
    parser.add_argument("--keypoints", type=int, default=2048)
    parser.add_argument(
        "--max-side", type=int, help="bound of those that have one, in place of their default; 0 for no bound"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for each (default: %(default)s)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        args.width, args.height = (int(side) for side in args.size.split("x"))
    except ValueError:
        args.width = args.height = 0
    if min(args.width, args.height) < 1:
        parser.error(f"--size must be WIDTHxHEIGHT in pixels, such as 4000x3000, got {args.size!r}")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    torch.set_num_threads(args.threads)
    if args.here:
        name = args.extractors[0]
        bound = args.max_side is not None and "max_side" in accepted_options(name)
        extractor, weights = build(
            name, args.keypoints, args.weights, {"max_side": args.max_side or None} if bound else {}
        )
        print(json.dumps(asdict(measure(extractor, large_image(args.width, args.height), weights)[0])))
        return 0
    machine = machine_description(torch.device("cpu"))
    print(f"One {args.width} × {args.height} image, at most {args.keypoints} keypoints; {machine}.")
    print("\n| extractor | peak of the process, GiB | for the image, GiB | seconds | keypoints | weights |")
    print("|---|---:|---:|---:|---:|---|")
    failed = False
    for name in args.extractors:
        print(f"measuring: {name} …", file=sys.stderr)
        result = in_own_process(name, args)
        failed |= isinstance(result, str)
        print(row(name, result), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
