"""All figures of a GPU in one command: ``python -m benchmarks.gpu --output FOLDER``.

Writes, with the card's name: whether each precision with all optimisations, and with each of them off, finds the
matches of plain fp32; the stages of the default case in each precision beside the straightforward way, LightGlue and
the floor; the sweep over sizes, keypoints and batches with plots; frames per second of a stream; peak memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.models import Case, build_matcher, textured_pair
from benchmarks.timing import machine_description
from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.optimisations import NAMES, VARIABLE

_PRECISIONS = ("fp32", "fp16", "bf16")
_ON_A_GPU = [name for name, what in NAMES.items() if what.startswith("CUDA")]
_STREAM_FRAMES = 200


def parity(case: Case, device: torch.device, weights: str | None) -> list[str]:
    """Rows of a table: agreement with plain fp32 by precision and by what is turned off."""
    images = textured_pair(*case.size)

    def found(precision: str, disabled: str) -> set[tuple[int, ...]]:
        os.environ[VARIABLE] = disabled
        matcher, _ = build_matcher(case.with_(precision=precision), device, weights)
        for _ in range(3):  # recorded, then replayed
            matches = matcher.match_images(*images)
        points = torch.cat([matches.keypoints0, matches.keypoints1], dim=1)
        return {tuple(row) for row in points.round().int().tolist()}

    plain = found("fp32", "all")
    lines = ["| turned off | " + " | ".join(_PRECISIONS) + " |", "|---|" + "---:|" * len(_PRECISIONS)]
    for disabled in ["", *_ON_A_GPU, "all"]:
        shares = [len(plain & found(precision, disabled)) / max(1, len(plain)) for precision in _PRECISIONS]
        lines.append(f"| {disabled or 'nothing'} | " + " | ".join(f"{share:.2%}" for share in shares) + " |")
    os.environ.pop(VARIABLE, None)
    return lines


def frames_per_second(case: Case, device: torch.device, weights: str | None) -> float:
    """Of a stream: each frame uploaded, extracted and matched with the one before; matches brought to the host."""
    matcher, _ = build_matcher(case, device, weights)
    images = textured_pair(*case.size)
    before = matcher.extract(images[0])
    start = 0.0
    for index in range(_STREAM_FRAMES + 10):
        if index == 10:
            torch.cuda.synchronize(device)
            start = time.perf_counter()
        features = matcher.extract(images[index % 2])
        matcher.match(before, features).to("cpu")
        before = features
    torch.cuda.synchronize(device)
    return _STREAM_FRAMES / (time.perf_counter() - start)


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for gpu.md, JSON files and plots")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--weights", help="folder to look for weights in first")
    args = parser.parse_args(argv)
    device, case = resolve_device(args.device), Case()
    args.output.mkdir(parents=True, exist_ok=True)
    text = [f"# {machine_description(device)}", "## Matches of plain fp32 found identically"]
    text.append("\n".join(parity(case, device, args.weights)))
    text.append("## Frames per second of a stream")
    for precision in _PRECISIONS:
        rate = frames_per_second(case.with_(precision=precision), device, args.weights)
        text.append(f"{case.with_(precision=precision)}: {rate:.0f} frames/s")
    common = ["--device", args.device, *(["--weights", args.weights] if args.weights else [])]
    for precision in _PRECISIONS:
        text += [f"## Stages, {precision}", _pipeline(args.output, precision, *common, "--compare", "--memory")]
    sweep = _pipeline(args.output, "sweep", *common, "--sweep", "--plots", str(args.output))
    text += ["## Growth", sweep]
    (args.output / "gpu.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")
    print(f"wrote {args.output / 'gpu.md'}")
    return 0


def _pipeline(folder: Path, name: str, *arguments: str) -> str:
    precision = [] if name == "sweep" else ["--precision", name]
    command = [sys.executable, "-m", "benchmarks.pipeline", *precision, "--repeats", "20", "--warmup", "5", *arguments]
    command += ["--json", str(folder / f"{name}.json")]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
