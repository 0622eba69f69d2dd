"""The steps of ``benchmarks/bare_gpu.sh``, each in a process of its own, with a time limit and its output kept.

A step that fails or runs out of time costs itself alone; ``summary.md`` in the output folder has a line for each as
soon as it ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What both stages of training write (training.train_compact); it is not imported, so that nothing loads torch here.
FILE = "compact_extractor.safetensors"
_TAIL = 40


@dataclass(frozen=True)
class Step:
    """A command and how long it may take.

    Attributes:
        seconds: limit; 0 for all the time that is left.
        keep: seconds of the whole time that this step leaves to those after it.
        rehearsal: the arguments that take the place of ``arguments`` in a rehearsal.
    """

    name: str
    arguments: tuple[str, ...]
    rehearsal: tuple[str, ...]
    seconds: float = 0
    keep: float = 0
    environment: dict[str, str] = field(default_factory=dict)


def steps(out: Path, data: Path, weights: Path) -> list[Step]:
    """Return what is run, in order; the figures wanted most come first.

    Args:
        out: where results go.
        data: has ``photos/`` and ``pairs.h5``, for training.
        weights: of the published extractors, and of the teacher.
    """
    bench = ("-m", "benchmarks.gpu", "--output", str(out), "--weights", str(weights))
    tests = ("-m", "pytest", "-q", "--maxfail=25", "-p", "no:cacheprovider", "tests/gpu", "-rf", "--tb=short")
    present = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests" / "core").glob("test_cuda_*.py")))
    stage = (f"data.photos={data / 'photos'}", f"folder={out / 'runs'}", "--output", str(out), "--minutes", "{minutes}")
    train = ("-m", "training.train_compact", "training/configs/compact-further.yaml", *stage)
    tune = ("-m", "training.tune_compact", "training/configs/compact-tune.yaml", *stage, "start_from={trained}")
    labels = f"data.labels=[{data / 'pairs.h5'}]"
    views = ("data.labels=[]", "data.shares=[1,0,0]", "data.view=64", "data.pool=8", "data.chunk=2", "data.holdout=2")
    small = (*views, "batch=2", "steps=2", "--device", "cpu")
    teacher = ("teacher.extractor=compact", "teacher.keypoints=32")
    return [
        Step(
            "headline",
            (*bench, "--sections", "temporal", "beside"),
            (*bench, "--sections", "temporal", "--tiny", "--device", "cpu"),
            90,
        ),
        Step("tests", (*tests, *present), (*tests, *present), 100),
        Step(
            "parity",
            (*bench, "--sections", "parity", "switches", "memory", "stages"),
            (*bench, "--sections", "parity", "--tiny", "--device", "cpu"),
            90,
        ),
        Step(
            "detail",
            (*bench, "--sections", "profile", "compiled", "growth"),
            (*bench, "--sections", "growth", "--tiny", "--device", "cpu"),
            80,
        ),
        Step("train", (*train, labels, f"teacher.weights={weights}"), (*train, *small, *teacher), keep=100),
        Step("tune", (*tune, labels), (*tune, *small, "keypoints=32")),
    ]


def run(step: Step, arguments: Sequence[str], limit: float, log: Path) -> str:
    """Run one step; what became of it, in a few words."""
    start = time.monotonic()
    with open(log, "wb") as file:
        process = subprocess.Popen(
            # Training is told to end a little earlier than it would be stopped.
            [sys.executable, *(a.replace("{minutes}", f"{max(limit - 20, 5) / 60:.2f}") for a in arguments)],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, **step.environment},
        )
        try:
            code = process.wait(limit)
            what = "done" if code == 0 else f"failed (exit code {code})"
        except subprocess.TimeoutExpired:
            what = f"out of time ({limit:.0f} s)"
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return f"{what}, {time.monotonic() - start:.0f} s"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks/bare_gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together")
    parser.add_argument("--only", help="steps to run, separated by commas; by default all")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights", help="folder of published weights")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder of training data")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on a CPU too")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    every = steps(out, args.data.resolve(), args.weights.resolve())
    wanted = args.only.split(",") if args.only else [step.name for step in every]
    if unknown := set(wanted) - {step.name for step in every}:
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(step.name for step in every)}")
    deadline = time.monotonic() + 60 * args.minutes
    failed = False
    with open(out / "summary.md", "a", encoding="utf-8") as summary:
        for step in every:
            if step.name not in wanted:
                continue
            left = deadline - time.monotonic() - step.keep
            if left < 5:
                line = f"- {step.name}: not started, no time left"
                failed = True
            else:
                limit = min(left, step.seconds or left)
                log = out / f"{step.name}.log"
                trained = str(out / FILE) if (out / FILE).is_file() else "bundled"
                arguments = step.rehearsal if args.rehearse else step.arguments
                what = run(step, [a.replace("{trained}", trained) for a in arguments], limit, log)
                failed |= not what.startswith("done")
                line = f"- {step.name}: {what}"
                print(*log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:], sep="\n")
            print(line, file=summary, flush=True)
            print(line, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
