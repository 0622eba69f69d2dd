"""Milliseconds per stage, per new frame of a stream and per pair.

``python -m benchmarks.pipeline`` times one case beside the same work done the straightforward way, with the ratio of
the two, and beside the least time this machine could take. ``--compare`` adds LightGlue on the same keypoints,
``--alone`` leaves out all but ours. ``--sweep`` goes over image sizes, keypoints, batches and precisions, and
``--plots FOLDER`` draws how the time grows. ``--quick`` is for small machines. Weights are the published ones where
they are found, else random ones of the same shape: time does not depend on their values, agreement does. Images are
two views of one rendered texture, or yours (``--images A B``).
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.floor import Ceilings, measure_ceilings, stage_work, whole
from benchmarks.memory import status_mib
from benchmarks.models import Case, build_matcher, textured_pair
from benchmarks.stages import lightglue_pair, our_stages, reference_pair, reference_stages, shared_matches
from benchmarks.timing import Timing, machine_description, time_interleaved
from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.inputs import as_image_batch

WHOLE = ("new frame of a stream", "isolated pair")
SIZES = ((240, 320), (480, 640), (720, 1280))
KEYPOINTS = (512, 1024, 2048, 4096)
_CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


def measure_case(
    case: Case,
    args: argparse.Namespace,
    device: torch.device,
    ceilings: Ceilings,
    *,
    stages: bool,
    beside: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure a case: times by stage and by who did it, floors, the share of the reference's matches that ours has."""
    matcher, origin = build_matcher(case, device, args.weights)
    images = _images(case, args)
    calls = our_stages(matcher, case, images)
    if not stages:
        calls = {name: calls[name] for name in WHOLE}
    agreement = None
    if beside:
        exact = build_matcher(case.with_(precision="fp32", backend="eager"), device, args.weights)[0]
        if "reference" in beside:
            for name, call in reference_stages(exact, case, images).items():
                calls[name]["reference"] = call
        if "lightglue" in beside:
            for name, call in lightglue_pair(exact, case, images).items():
                calls[name]["lightglue"] = call
    if args.only:
        calls = {name: calls[name] for name in calls if name in args.only}
    # One call is both: the published code extracts both images every time.
    once = all("reference" in calls.get(name, {}) for name in WHOLE)
    last: list[Any] = []
    if once:
        del calls[WHOLE[0]]["reference"]
        straightforward = calls[WHOLE[1]]["reference"]
        calls[WHOLE[1]]["reference"] = lambda: last.__setitem__(slice(None), [straightforward()])
    count = matcher.extractor(as_image_batch(images[0], device)).keypoints.shape[1]
    timings = {}
    for name, candidates in calls.items():
        print(f"measuring: {case}: {name} …", file=sys.stderr)
        timings[name] = time_interleaved(
            candidates, repeats=args.repeats, warmup=args.warmup, device=device, clock=_CLOCKS[args.clock]
        )
    if once:
        timings[WHOLE[0]]["reference"] = timings[WHOLE[1]]["reference"]
        agreement = shared_matches(matcher.match_images(*images), last[0])
    floors = {name: ceilings.milliseconds(work) for name, work in stage_work(matcher, case, count).items()}
    return {
        "case": asdict(case),
        "weights": origin,
        "timings": timings,
        "floors_ms": {**floors, **whole(floors)},
        "agreement": agreement,
    }


def _images(case: Case, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    height, width = case.size
    if not args.images:
        return textured_pair(height, width)
    import cv2

    from semantic_matcher_core.io.images import read_image

    first, second = (
        cv2.resize(read_image(path), (width, height), interpolation=cv2.INTER_AREA) for path in args.images
    )
    return first, second


def stage_table(result: dict[str, Any]) -> str:
    """Return one row a stage: median (95th percentile; best) in ms, and ratios of the medians."""
    present = {way for timings in result["timings"].values() for way in timings}
    head = ["stage", "ours, ms"]
    if "reference" in present:
        head += ["straightforward, ms", "ratio"]
    if "lightglue" in present:
        head += ["LightGlue, ms"]
    head += ["floor, ms", "of the floor"]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for name, timings in result["timings"].items():
        ours, floor = timings["ours"], result["floors_ms"].get(name)
        row = [name, _text(ours)]
        if "reference" in present:
            theirs = timings.get("reference")
            row += [_text(theirs), f"{theirs.median_ms / ours.median_ms:.2f}×" if theirs else ""]
        if "lightglue" in present:
            row.append(_text(timings.get("lightglue")))
        row += [f"{floor:.2f}", f"{ours.median_ms / floor:.1f}×"] if floor else ["", ""]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def sweep_table(results: list[dict[str, Any]]) -> str:
    """Return one row a case: a new frame of a stream and an isolated pair."""
    lines = [
        "| image | keypoints | batch | precision | new frame, ms (p95) | floor, ms | pair, ms (p95) |",
        "|---|---:|---:|---|---:|---:|---:|",
    ]
    for result in results:
        case = result["case"]
        frame, pair = (result["timings"][name]["ours"] for name in WHOLE)
        lines.append(
            f"| {case['size'][1]}×{case['size'][0]} | {case['keypoints']} | {case['batch']} | {case['precision']} | "
            f"{frame.median_ms:.0f} ({frame.p95_ms:.0f}) | {result['floors_ms'][WHOLE[0]]:.0f} | "
            f"{pair.median_ms:.0f} ({pair.p95_ms:.0f}) |"
        )
    return "\n".join(lines)


def sweep_cases(base: Case, precisions: tuple[str, ...], quick: bool) -> Iterator[Case]:
    """Yield keypoints at the base size, sizes at the base keypoints, batch 2 at the base; in each precision."""
    sizes = SIZES[:2] if quick else SIZES
    keypoints = (512, 2048) if quick else KEYPOINTS
    for precision in precisions:
        case = base.with_(precision=precision)
        seen = {case}
        yield case
        others = [case.with_(keypoints=count) for count in keypoints] + [case.with_(size=size) for size in sizes]
        for other in [*others, *([] if quick else [case.with_(batch=2)])]:
            if other not in seen:
                seen.add(other)
                yield other


def peak_memory(case: Case, args: argparse.Namespace, device: torch.device, way: str) -> float:
    """Measure the peak megabytes of one pair, in a process of its own: resident on the CPU, else the GPU's."""
    command = [sys.executable, "-m", "benchmarks.pipeline", "--peak-of", way, "--device", str(device)]
    command += ["--size", f"{case.size[1]}x{case.size[0]}", "--keypoints", str(case.keypoints), "--dino", case.dino]
    command += ["--semantic-size", str(case.semantic_size), "--precision", case.precision, "--batch", str(case.batch)]
    command += ["--threads", str(torch.get_num_threads())] + (["--weights", args.weights] if args.weights else [])
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(output.stdout.strip().splitlines()[-1])


def _report_peak(case: Case, args: argparse.Namespace, device: torch.device) -> float:
    ours = args.peak_of == "ours"
    matcher, _ = build_matcher(case if ours else case.with_(precision="fp32"), device, args.weights)
    images = _images(case, args)
    call = (lambda: matcher.match_images(*images)) if ours else reference_pair(matcher, case, images)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    gc.collect()
    # Building the networks took more than they hold: the high-water mark begins anew here.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    resident = status_mib("VmRSS")
    call()
    return status_mib("VmHWM") - resident


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="640x480", help="image WIDTHxHEIGHT")
    parser.add_argument("--keypoints", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dino", default="dinov2_vits14", choices=["dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14"])
    parser.add_argument("--semantic-size", type=int, default=896, help="long side the semantic encoder sees")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--backend", default="eager", choices=["eager", "compile", "onnx", "tensorrt"])
    parser.add_argument("--weights", help="folder to look for weights in first")
    parser.add_argument("--images", nargs=2, type=Path, help="two images instead of the rendered ones")
    beside = parser.add_mutually_exclusive_group()
    beside.add_argument(
        "--beside",
        nargs="+",
        default=["reference"],
        choices=["reference", "lightglue"],
        help="what to time besides ours; by default reference, which is the straightforward way",
    )
    beside.add_argument(
        "--compare",
        dest="beside",
        action="store_const",
        const=["reference", "lightglue"],
        help="short for --beside reference lightglue",
    )
    beside.add_argument("--alone", dest="beside", action="store_const", const=[], help="ours, and nothing besides")
    parser.add_argument(
        "--only", nargs="+", help="stages to measure, e.g. encode match 'isolated pair'; by default all"
    )
    parser.add_argument("--sweep", action="store_true", help="over sizes, keypoints, batches and --precisions")
    parser.add_argument("--precisions", nargs="+", help="with --sweep; by default fp32 and bf16, on a GPU fp16 too")
    parser.add_argument("--quick", action="store_true", help="fewer cases and repeats")
    parser.add_argument("--memory", action="store_true", help="peak memory of a pair, in processes of their own")
    parser.add_argument(
        "--plots", type=Path, help="with --sweep: folder for SVGs of time over keypoints and image size"
    )
    parser.add_argument("--repeats", type=int, default=0, help="of each measurement; by default 5, with --quick 3")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument(
        "--clock",
        default="wall",
        choices=list(_CLOCKS),
        help="cpu: what one thread computes, without what it waits for; for machines that do other things as well",
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--markdown", type=Path, help="also write the tables here")
    parser.add_argument("--peak-of", choices=["ours", "reference"], help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.repeats = args.repeats or (3 if args.quick else 5)
    if args.clock == "cpu":
        if args.threads > 1:
            parser.error("--clock cpu counts one thread; leave out --threads, or give --threads 1")
        args.threads = 1
    return args


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    width, height = (int(v) for v in args.size.split("x"))
    base = Case(
        (height, width), args.keypoints, args.batch, args.precision, args.semantic_size, args.dino, args.backend
    )
    if args.peak_of:
        print(f"{_report_peak(base, args, device):.1f}")
        return 0
    usual = ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")
    precisions = tuple(args.precisions or usual) if args.sweep else (args.precision,)
    ceilings = measure_ceilings(device, precisions, _CLOCKS[args.clock])
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in ceilings.flops.items())
    text = [
        f"{machine_description(device)}. Ceilings measured: {rates}, copies {ceilings.bandwidth / 1e9:.0f} GB/s.",
        f"Times are median (95th percentile; best) of {args.repeats} interleaved calls after {args.warmup} to warm up.",
    ]
    results, memory = [], {}
    if args.sweep:
        for case in sweep_cases(base, precisions, args.quick):
            results.append(measure_case(case, args, device, ceilings, stages=False))
        text.append(sweep_table(results))
        if args.plots:
            from benchmarks.plots import draw_growth

            draw_growth(results, base, args.plots)
    else:
        results.append(measure_case(base, args, device, ceilings, stages=True, beside=args.beside))
        sources = ", ".join(f"{part} {source}" for part, source in sorted(results[0]["weights"].items()))
        text += [f"{base}; weights: {sources}.", stage_table(results[0])]
        if results[0]["agreement"] is not None:
            text.append(f"Matches of the straightforward way (fp32) found identically: {results[0]['agreement']:.2%}.")
    if args.memory:
        memory = {way: peak_memory(base, args, device, way) for way in ("ours", "reference")}
        text.append(
            f"A pair adds {memory['ours']:.0f} MB at its peak, the straightforward way {memory['reference']:.0f} MB."
        )
    report = "\n\n".join(text)
    print(report)
    if args.markdown:
        _write(args.markdown, report + "\n")
    if args.json:
        payload = {
            "machine": machine_description(device),
            "ceilings": asdict(ceilings),
            "repeats": args.repeats,
            "results": [
                {**r, "timings": {n: {k: asdict(t) for k, t in c.items()} for n, c in r["timings"].items()}}
                for r in results
            ],
            "peak_memory_mb": memory,
        }
        _write(args.json, json.dumps(payload, indent=2) + "\n")
    return 0


def _text(timing: Timing | None) -> str:
    return "" if timing is None else f"{timing.median_ms:.1f} ({timing.p95_ms:.1f}; {timing.best_ms:.1f})"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
