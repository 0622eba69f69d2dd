"""What a GPU gives: ``python -m benchmarks.gpu --output FOLDER``, most wanted figures first.

Each section is written to ``FOLDER/gpu.md`` as soon as it is measured, and one that fails leaves its error there and
costs itself alone. ``--sections`` chooses; ``--tiny`` goes through the motions with small sizes, on a CPU too.

- ``temporal``: frames per second of a stream (upload, extraction, matching with the frame before, matches on the
  host), by variant and precision, with peak memory.
- ``beside``: milliseconds of a new frame and of an isolated pair beside the published formulation in eager fp32,
  LightGlue on the same keypoints, and the floor of this card.
- ``parity``: share of plain fp32's matches that each precision finds, with every switch of the GPU and with each off.
- ``switches``: what each switch of the GPU gains, and ``torch.compile(mode="reduce-overhead")`` beside recorded graphs.
- ``stages``: where the time of a frame goes.
- ``profile``: the kernels that take the most time.
- ``memory``: memory in use over a long stream, and how often a frame waits for the card.
- ``growth``: a new frame over keypoints, image sizes and batches.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.floor import Ceilings, measure_ceilings, stage_work, whole
from benchmarks.models import Case, build_matcher, textured_pair
from benchmarks.stages import lightglue_pair, our_stages, reference_pair, shared_matches
from benchmarks.timing import disabled, machine_description, time_interleaved
from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.device import PRECISIONS, resolve_device
from semantic_matcher_core.optimisations import NAMES
from semantic_matcher_core.streams import TemporalStream

SWITCHES = tuple(name for name, what in NAMES.items() if what.startswith("CUDA"))


@dataclass(frozen=True)
class Setting:
    """What all sections share.

    Attributes:
        frames: of the streams that are timed; ``long`` of the one whose memory is watched.
        wanted: precisions to measure, where not all.
    """

    device: torch.device
    case: Case
    weights: str | None
    frames: int
    long: int
    repeats: int
    tiny: bool = False
    wanted: tuple[str, ...] = ()

    def matcher(self, precision: str, **changes: Any) -> SemanticMatcher:
        """Return the default case (XFeat, DINOv2-S, five layers) in a precision."""
        return build_matcher(self.case.with_(precision=precision, **changes), self.device, self.weights)[0]

    def named(self, variant: str, precision: str) -> SemanticMatcher:
        """Return a variant of the catalogue."""
        return SemanticMatcher.from_pretrained(
            variant,
            device=self.device,
            precision=precision,
            max_keypoints=self.case.keypoints,
            weights=self.weights,
        )

    @property
    def warmup(self) -> int:
        """Calls before those that count."""
        return 1 if self.tiny else 5

    @property
    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """Two views, uint8 RGB."""
        return textured_pair(*self.case.size)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the device computes in, the one that is wanted most first; of these, those that were asked for."""
        has = ("fp16", "bf16", "fp32") if self.device.type == "cuda" else ("bf16", "fp32")
        return tuple(p for p in has if p in self.wanted) or has

    @property
    def half(self) -> str:
        """The precision of the headline."""
        return self.precisions[0]

    def wait(self) -> None:
        """Wait until the card has done all it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def stream(matcher: SemanticMatcher, images: tuple[np.ndarray, np.ndarray]) -> Callable[[], Any]:
    """Return a call that takes the next frame, as the nodes do: upload, extract, match with the frame before,
    matches to the host.
    """
    frames, taken = TemporalStream(matcher), itertools.cycle(images)
    frames.process(next(taken))

    def step() -> Any:
        pair = frames.process(next(taken))[1]
        assert pair is not None
        return pair.matches.to("cpu")

    return step


def frames_per_second(matcher: SemanticMatcher, setting: Setting) -> tuple[float, float, int]:
    """Return frames per second, peak memory that the stream adds in MB, and matches of the last frame."""
    on_gpu = setting.device.type == "cuda"
    step = stream(matcher, setting.images)
    for _ in range(12):
        step()
    setting.wait()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(setting.device)
    start = time.perf_counter()
    for _ in range(setting.frames):
        matches = step()
    setting.wait()
    rate = setting.frames / (time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated(setting.device) / 2**20 if on_gpu else float("nan")
    return rate, peak, len(matches)


def temporal(setting: Setting) -> Iterator[str]:
    """Yield frames per second by variant and precision."""
    yield "| variant | precision | frames/s | memory, MB | matches |"
    yield "|---|---|---:|---:|---:|"
    makers: list[tuple[str, Callable[[str], SemanticMatcher]]] = [
        ("default case", setting.matcher),
        ("plain:compact", lambda precision: setting.named("plain:compact", precision)),
        ("compact", lambda precision: setting.named("compact", precision)),
        ("plain:xfeat", lambda precision: setting.named("plain:xfeat", precision)),
        ("plain:aliked-n16", lambda precision: setting.named("plain:aliked-n16", precision)),
    ]
    for precision in setting.precisions[-1:] if setting.tiny else setting.precisions:
        for name, make in makers[:2] if setting.tiny else makers:
            try:
                rate, peak, matches = frames_per_second(make(precision), setting)
                yield f"| {name} | {precision} | {rate:.0f} | {peak:.0f} | {matches} |"
            except Exception as error:  # noqa: BLE001 - one row's failure is that row's result
                yield f"| {name} | {precision} | {type(error).__name__}: {str(error).splitlines()[0][:80]} | | |"


def beside(setting: Setting) -> Iterator[str]:
    """Time a new frame and an isolated pair beside the published formulation, LightGlue and the floor."""
    ceilings = ceilings_of(setting)
    rates = ", ".join(f"{name} {rate / 1e12:.0f} TFLOP/s" for name, rate in ceilings.flops.items())
    yield f"Ceilings measured: {rates}, copies {ceilings.bandwidth / 1e9:.0f} GB/s.\n"
    exact, images, case = setting.matcher("fp32"), setting.images, setting.case
    with disabled("all"):
        published = reference_pair(exact, case, images)
    calls: dict[str, Callable[[], Any]] = {"published, fp32": published}
    glue = lightglue_pair(exact, case, images)
    calls["LightGlue, fp32: new frame"] = glue["new frame of a stream"]
    floors: dict[str, float] = {}
    shares: dict[str, float] = {}
    theirs = published()
    for precision in setting.precisions:
        matcher = setting.matcher(precision)
        frame = stream(matcher, images)
        calls[f"ours, {precision}: new frame"] = frame
        calls[f"ours, {precision}: isolated pair"] = lambda m=matcher: m.match_images(*images).to("cpu")  # type: ignore[misc]
        count = case.keypoints
        floor = {
            n: ceilings.milliseconds(w) for n, w in stage_work(matcher, case.with_(precision=precision), count).items()
        }
        both = whole(floor)
        floors[f"ours, {precision}: new frame"] = both["new frame of a stream"]
        floors[f"ours, {precision}: isolated pair"] = both["isolated pair"]
        shares[f"ours, {precision}: isolated pair"] = shared_matches(matcher.match_images(*images), theirs)
    timings = time_interleaved(calls, repeats=setting.repeats, warmup=setting.warmup, device=setting.device)
    base = timings["published, fp32"].median_ms
    yield "| what | ms, median (p95) | of the published way | of the floor | its matches found |"
    yield "|---|---:|---:|---:|---:|"
    for name, timing in timings.items():
        floor_text = f"{timing.median_ms / floors[name]:.1f}×" if name in floors else ""
        share = f"{shares[name]:.2%}" if name in shares else ""
        yield (
            f"| {name} | {timing.median_ms:.2f} ({timing.p95_ms:.2f}) | {base / timing.median_ms:.1f}× faster | "
            f"{floor_text} | {share} |"
        )


def parity(setting: Setting) -> Iterator[str]:
    """Measure agreement with plain fp32 by precision and by what is turned off, then of whole variants by precision."""
    images = setting.images

    def found(make: Callable[[], SemanticMatcher], names: str) -> set[tuple[int, ...]]:
        with disabled(names):
            matcher = make()
            for _ in range(3):  # recorded, then replayed
                matches = matcher.match_images(*images)
        points = torch.cat([matches.keypoints0, matches.keypoints1], dim=1)
        return {tuple(row) for row in points.round().int().tolist()}

    plain = found(lambda: setting.matcher("fp32"), "all")
    yield f"{len(plain)} matches of plain fp32.\n"
    yield "| turned off | " + " | ".join(setting.precisions) + " |"
    yield "|---|" + "---:|" * len(setting.precisions)
    for names in ["", "all"] if setting.tiny else ["", *SWITCHES, "all"]:
        shares = [
            len(plain & found(lambda p=precision: setting.matcher(p), names)) / max(1, len(plain))  # type: ignore[misc]
            for precision in setting.precisions
        ]
        yield f"| {names or 'nothing'} | " + " | ".join(f"{share:.2%}" for share in shares) + " |"
    yield "\n| variant | matches in plain fp32 | " + " | ".join(setting.precisions) + " |"
    yield "|---|---:|" + "---:|" * len(setting.precisions)
    for name in ("plain:compact", "compact", "plain:xfeat", "plain:aliked-n16"):
        try:
            plain = found(lambda n=name: setting.named(n, "fp32"), "all")  # type: ignore[misc]
            shares = [
                len(plain & found(lambda n=name, p=precision: setting.named(n, p), "")) / max(1, len(plain))  # type: ignore[misc]
                for precision in setting.precisions
            ]
            yield f"| {name} | {len(plain)} | " + " | ".join(f"{share:.2%}" for share in shares) + " |"
        except Exception as error:  # noqa: BLE001 - one row's failure is that row's result
            yield f"| {name} | {type(error).__name__}: {str(error).splitlines()[0][:80]} |" + " |" * 3


def switches(setting: Setting) -> Iterator[str]:
    """Yield what each switch gains for a new frame, and torch.compile beside recorded graphs."""
    half = setting.half
    yield f"| turned off | default case, {half}, ms | its gain | plain:compact, {half}, ms | its gain |"
    yield "|---|---:|---:|---:|---:|"
    columns = []
    for make in (lambda: setting.matcher(half), lambda: setting.named("plain:compact", half)):
        calls = {}
        for names in ("", *SWITCHES, "all"):
            with disabled(names):
                step = stream(make(), setting.images)
                step()
            calls[names] = _within(names, step)
        columns.append(time_interleaved(calls, repeats=setting.repeats, warmup=setting.warmup, device=setting.device))
    for names in ("", *SWITCHES, "all"):
        cells = []
        for timings in columns:
            gain = timings[names].median_ms / timings[""].median_ms
            cells += [f"{timings[names].median_ms:.2f}", f"{gain:.2f}×"]
        yield f"| {names or 'nothing'} | " + " | ".join(cells) + " |"


def compiled(setting: Setting) -> Iterator[str]:
    """Compare DINOv2 and the reasoner: eager, recorded, and through torch.compile with its own graphs."""
    matcher = setting.matcher(setting.half)
    encoder, reasoner = matcher.semantic_encoder, matcher.reasoner
    assert encoder is not None and reasoner is not None
    height, width = setting.case.size
    side = setting.case.semantic_size
    resized = torch.rand(
        1, 3, side * height // width // 14 * 14, side // 14 * 14, device=setting.device, dtype=PRECISIONS[setting.half]
    )
    mode: dict[str, Any] = {"mode": "reduce-overhead"} if setting.device.type == "cuda" else {}
    fast = torch.compile(encoder, dynamic=False, **mode)
    calls: dict[str, Callable[[], Any]] = {"eager": lambda: encoder(resized), "compiled": lambda: fast(resized)}
    if setting.device.type == "cuda":
        from semantic_matcher_core.networks.graphs import record_cuda_graph

        _, replay = record_cuda_graph(lambda: {"map": encoder(resized)})
        calls["recorded"] = replay
    timings = time_interleaved(calls, repeats=setting.repeats, warmup=setting.warmup, device=setting.device)
    for name, timing in timings.items():
        yield f"DINOv2-S {setting.half} {name}: {timing.median_ms:.2f} ms\n"


def stages(setting: Setting) -> Iterator[str]:
    """Yield milliseconds of each stage alone."""
    for precision in setting.precisions[:1] if setting.tiny else setting.precisions:
        matcher = setting.matcher(precision)
        calls = our_stages(matcher, setting.case.with_(precision=precision), setting.images)
        yield f"\n{precision}:\n"
        yield "| stage | ms, median (p95) |"
        yield "|---|---:|"
        for name, candidates in calls.items():
            timing = time_interleaved(
                candidates, repeats=setting.repeats, warmup=setting.warmup, device=setting.device
            )["ours"]
            yield f"| {name} | {timing.median_ms:.3f} ({timing.p95_ms:.3f}) |"


def profile(setting: Setting) -> Iterator[str]:
    """Yield the kernels of twenty frames that take the most time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if setting.device.type == "cuda" else [])
    key = "self_cuda_time_total" if setting.device.type == "cuda" else "self_cpu_time_total"
    for name, make in (
        (f"default case, {setting.half}", lambda: setting.matcher(setting.half)),
        (f"plain:compact, {setting.half}", lambda: setting.named("plain:compact", setting.half)),
    ):
        step = stream(make(), setting.images)
        for _ in range(6):
            step()
        setting.wait()
        start = time.perf_counter()
        with profiled(activities=activities) as recorded:
            for _ in range(20):
                step()
            setting.wait()
        took = (time.perf_counter() - start) / 20 * 1e3
        rows = recorded.key_averages()
        yield f"\n{name}: {took:.2f} ms a frame under the profiler\n"
        yield "```"
        yield rows.table(sort_by=key, row_limit=40, max_name_column_width=70)
        yield "```"


def memory(setting: Setting) -> Iterator[str]:
    """Measure memory over a long stream, and waits a frame."""
    matcher = setting.named("plain:compact", setting.half)
    step = stream(matcher, setting.images)
    for _ in range(20):
        step()
    if setting.device.type != "cuda":
        yield "no card: nothing to measure"
        return
    setting.wait()
    before = torch.cuda.memory_allocated(setting.device), torch.cuda.memory_reserved(setting.device)
    for _ in range(setting.long):
        step()
    setting.wait()
    after = torch.cuda.memory_allocated(setting.device), torch.cuda.memory_reserved(setting.device)
    yield (
        f"{setting.long} frames: allocated {before[0] / 2**20:.1f} → {after[0] / 2**20:.1f} MB, "
        f"reserved {before[1] / 2**20:.0f} → {after[1] / 2**20:.0f} MB.\n"
    )
    for name, make in (("plain:compact", lambda: matcher), ("default case", lambda: setting.matcher(setting.half))):
        watched = stream(make(), setting.images)
        for _ in range(6):
            watched()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                for _ in range(10):
                    watched()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places: dict[str, int] = {}
        for warning in caught:
            if "synchroniz" in str(warning.message):
                place = f"{Path(warning.filename).name}:{warning.lineno}"
                places[place] = places.get(place, 0) + 1
        yield f"{name}: {sum(places.values()) / 10:.1f} waits a frame: {places}\n"


def growth(setting: Setting) -> Iterator[str]:
    """Yield a new frame over keypoints, sizes and batches."""
    precision = setting.half
    yield "| image | keypoints | batch | new frame, ms |"
    yield "|---|---:|---:|---:|"
    cases = [setting.case] if setting.tiny else [
        *(setting.case.with_(keypoints=n) for n in (512, 1024, 2048, 4096, 8192)),
        *(setting.case.with_(size=size) for size in ((240, 320), (720, 1280), (1080, 1920))),
        *(setting.case.with_(batch=n) for n in (2, 4, 8)),
    ]  # fmt: skip
    for case in cases:
        case = case.with_(precision=precision)
        matcher = build_matcher(case, setting.device, setting.weights)[0]
        calls = our_stages(matcher, case, textured_pair(*case.size))["new frame of a stream"]
        timing = time_interleaved(calls, repeats=setting.repeats, warmup=setting.warmup, device=setting.device)["ours"]
        yield f"| {case.size[1]}×{case.size[0]} | {case.keypoints} | {case.batch} | {timing.median_ms:.2f} |"


SECTIONS: dict[str, Callable[[Setting], Iterator[str]]] = {
    "temporal": temporal,
    "beside": beside,
    "parity": parity,
    "switches": switches,
    "memory": memory,
    "stages": stages,
    "profile": profile,
    "compiled": compiled,
    "growth": growth,
}


def ceilings_of(setting: Setting) -> Ceilings:
    """Return the rates that this machine reaches."""
    return measure_ceilings(setting.device, setting.precisions)


def _within(names: str, call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with disabled(names):
            return call()

    return run


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for gpu.md")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--weights", help="folder to look for weights in first")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=[], help="some alone; else all")
    parser.add_argument("--tiny", action="store_true", help="small sizes and few repeats: a rehearsal")
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    setting = Setting(device, Case(), args.weights, frames=300, long=2000, repeats=30, wanted=tuple(args.precisions))
    if args.tiny:
        small = Case(size=(96, 128), keypoints=100, semantic_size=56)
        setting = Setting(device, small, args.weights, frames=2, long=4, repeats=1, tiny=True)
    args.output.mkdir(parents=True, exist_ok=True)
    failed = []
    with open(args.output / "gpu.md", "a", encoding="utf-8") as file:

        def write(line: str) -> None:
            print(line, file=file, flush=True)
            print(line, flush=True)

        write(f"# {machine_description(device)}\n\n{setting.case}\n")
        for name in args.sections:
            write(f"\n## {name}\n")
            start = time.perf_counter()
            try:
                for line in SECTIONS[name](setting):
                    write(line)
            except Exception:  # noqa: BLE001 - the sections after it are wanted all the same
                failed.append(name)
                write("```\n" + traceback.format_exc() + "```")
            write(f"\n({name}: {time.perf_counter() - start:.0f} s)")
            if device.type == "cuda":
                torch.cuda.empty_cache()
    print(f"wrote {args.output / 'gpu.md'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
