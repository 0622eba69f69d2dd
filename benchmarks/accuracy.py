"""How well each extractor, and each variant whose weights are here, matches real pictures.

``python -m benchmarks.accuracy`` prints Markdown, for the pictures in the folder that ``--data`` names; without it, in
``data`` of ``$SEMANTIC_MATCHER_SHARED`` or of the folder ``shared`` beside the checkout. It has any of: ``pairs/``
(``fox1.png`` and ``fox2.png``, ``x_ref.png`` and ``x_tgt.png``, …), ``sequences/<name>/`` (frames in the order of their
names) and ``stereo/`` (``left.png``, ``right.png``, rectified). No ground truth is asked for;
``training/evaluation/consistency.py`` says what is measured.

``plain:<extractor>+lightglue`` matches with LightGlue instead of nearest neighbours. A last table has what each method
costs: milliseconds of this process's CPU (of the wall on a GPU) for an image and for a pair, medians.

All methods get the same number of keypoints: the threshold of detection is 0 where an extractor has one. Nothing is
downloaded; weights are looked for in ``--weights`` and the usual places.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypeVar

import torch

from benchmarks.timing import machine_description
from semantic_matcher_core import SemanticMatcher, list_extractors, list_variants
from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.errors import WeightsNotFoundError
from semantic_matcher_core.io.images import read_image
from semantic_matcher_core.matching.learned import PUBLISHED
from semantic_matcher_core.types import Features, Matches
from training.evaluation.consistency import chain_share, pair_figures, rectified_figures
from training.evaluation.layouts import find_pairs, find_sequences, find_stereo
from training.evaluation.methods import LIGHTGLUE, load_matcher

_PLAIN = "plain:"
T = TypeVar("T")
_SHARED = "SEMANTIC_MATCHER_SHARED"


@dataclass
class Result:
    """Figures of one method.

    Attributes:
        pairs: figures by pair, see ``consistency.pair_figures``, and ``keypoints`` of the first image.
        unrelated: figures of matching pictures of different scenes: what chance gives.
        stereo: figures of the rectified pair.
        sequences: by sequence and distance of the frames: means over all pairs of frames, and ``chained``.
        cost: ``extract_ms`` of an image and ``match_ms`` of a pair, medians.
    """

    pairs: dict[str, dict[str, float]] = field(default_factory=dict)
    unrelated: dict[str, float] = field(default_factory=dict)
    stereo: dict[str, float] = field(default_factory=dict)
    sequences: dict[str, dict[str, float]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)


class Timed:
    """A matcher whose calls are timed.

    Attributes:
        extract_ms, match_ms: of each call.
    """

    def __init__(self, matcher: SemanticMatcher) -> None:
        self.matcher = matcher
        self.extract_ms: list[float] = []
        self.match_ms: list[float] = []

    def extract(self, image: Any) -> Features:
        return self._timed(self.extract_ms, self.matcher.extract, image)

    def match(self, features0: Features, features1: Features) -> Matches:
        return self._timed(self.match_ms, self.matcher.match, features0, features1)

    def _timed(self, times: list[float], call: Callable[..., T], *arguments: Any) -> T:
        gpu = self.matcher.device.type == "cuda"
        clock = time.perf_counter if gpu else time.process_time
        started = clock()
        result = call(*arguments)
        if gpu:
            torch.cuda.synchronize()
        times.append(1e3 * (clock() - started))
        return result


@torch.inference_mode()
def evaluate(model: SemanticMatcher, data: Path, gaps: list[int], frames: int | None) -> Result:
    """Return all figures of one method; every image is looked at once."""
    result = Result()
    matcher = Timed(model)
    pairs = {
        name: tuple(_features(matcher, path) for path in paths) for name, paths in find_pairs(data / "pairs").items()
    }
    for name, (first, second) in pairs.items():
        result.pairs[name] = {"keypoints": float(first.counts), **pair_figures(matcher.match(first, second))}
    scenes = list(pairs.values())
    chance = [
        pair_figures(matcher.match(scenes[i][0], scenes[(i + 1) % len(scenes)][1]))
        for i in range(len(scenes) if len(scenes) > 1 else 0)
    ]
    result.unrelated = _means(chance)
    if (stereo := find_stereo(data / "stereo")) is not None:
        left, right = (_features(matcher, path) for path in stereo)
        result.stereo = {"keypoints": float(left.counts), **rectified_figures(matcher.match(left, right))}
    for name, paths in find_sequences(data / "sequences").items():
        features = [_features(matcher, path) for path in paths[:frames]]
        for gap in gaps:
            if gap < len(features):
                result.sequences[f"{name} +{gap}"] = _sequence_figures(matcher, features, gap)
    times = {"extract_ms": matcher.extract_ms, "match_ms": matcher.match_ms}
    result.cost = {name: median(values) for name, values in times.items() if values}
    return result


def _sequence_figures(matcher: Timed, features: list[Features], gap: int) -> dict[str, float]:
    steps = {i: matcher.match(features[i], features[i + gap]) for i in range(len(features) - gap)}
    figures = _means([pair_figures(matches) for matches in steps.values()])
    figures["keypoints"] = fmean(float(f.counts) for f in features)
    chained = []
    for i in steps:
        if i + gap in steps:
            share = chain_share(steps[i], steps[i + gap], matcher.match(features[i], features[i + 2 * gap]))
            chained += [] if share is None else [share]
    return figures | ({"chained": fmean(chained)} if chained else {})


def _features(matcher: Timed, path: Path) -> Features:
    return matcher.extract(read_image(path))


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: fmean(row[key] for row in rows) for key in rows[0]} if rows else {}


def markdown(results: dict[str, Result]) -> str:
    """Return tables: one for each pair, the stereo pair and each sequence; methods are rows."""
    return "\n\n".join(_tables(results))


def _tables(results: dict[str, Result]) -> Iterator[str]:
    first = next(iter(results.values()))
    columns = ("keypoints", "matches", "homography", "epipolar", "held_out", "deformation")
    inliers = ("inliers: homography ≤ 3 px", "inliers: epipolar ≤ 1 px")
    heads = ("keypoints", "mutual matches", *inliers, "held-out epipolar", "inliers: smooth deformation")
    for name in first.pairs:
        rows = {method: result.pairs[name] for method, result in results.items()}
        yield _table(f"pair {name}", heads, columns, rows)
    if first.unrelated:
        rows = {method: result.unrelated for method, result in results.items()}
        yield _table("unrelated pictures: what chance gives", heads[1:], columns[1:], rows)
    if first.stereo:
        rows = {method: result.stereo for method, result in results.items()}
        heads_stereo = ("keypoints", "mutual matches", "same row ≤ 2 px", "and disparity ≥ -2 px")
        yield _table("rectified stereo pair", heads_stereo, ("keypoints", "matches", "on_row", "correct"), rows)
    for name in first.sequences:
        rows = {method: result.sequences[name] for method, result in results.items()}
        yield _table(f"sequence {name}, means", (*heads[:-1], "chained ≤ 2 px"), (*columns[:-1], "chained"), rows)
    rows = {method: result.cost for method, result in results.items()}
    yield _table("cost, medians", ("an image, ms", "a pair, ms"), ("extract_ms", "match_ms"), rows)


def _table(title: str, heads: tuple[str, ...], columns: tuple[str, ...], rows: dict[str, dict[str, float]]) -> str:
    lines = [f"### {title}", "", f"| method | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for method, figures in rows.items():
        lines.append(f"| {method} | {' | '.join(_cell(column, figures.get(column)) for column in columns)} |")
    return "\n".join(lines)


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.0f} %" if column in ("held_out", "on_row", "correct", "chained") else f"{value:.0f}"


def default_data() -> Path:
    """Return where the pictures are looked for unless told."""
    shared = os.environ.get(_SHARED) or Path(__file__).resolve().parents[2] / "shared"
    return Path(shared) / "data"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, help=f"folder with pairs/, sequences/ and stereo/ (default: {default_data()})"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        help="plain:<extractor>, with +lightglue or without, or a variant; default: all whose weights are here",
    )
    parser.add_argument("--keypoints", type=int, default=1024)
    parser.add_argument("--gaps", type=int, nargs="+", default=[1, 5], help="distances of the frames of a sequence")
    parser.add_argument("--frames", type=int, help="use only the first frames of each sequence")
    parser.add_argument("--weights", type=Path, help="folder to search for weights first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    data = args.data or default_data()
    kinds = ("pairs", "sequences", "stereo")
    if not any((data / kind).is_dir() for kind in kinds):
        print(
            f"error: {data} is no folder with any of {', '.join(kinds)}; --data or the variable {_SHARED} (for the "
            "folder that holds data/) names another",
            file=sys.stderr,
        )
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    wanted = args.methods or [
        *(
            _PLAIN + name + matcher
            for name in list_extractors()
            for matcher in (["", LIGHTGLUE] if name in PUBLISHED else [""])
        ),
        *(variant.name for variant in list_variants(args.weights) if variant.available),
    ]
    results, absent = {}, []
    for name in wanted:
        print(f"measuring: {name} …", file=sys.stderr)
        try:
            matcher = load_matcher(
                name,
                full_budget=True,
                device=device,
                max_keypoints=args.keypoints,
                weights=args.weights,
                precision=args.precision,
            )
        except WeightsNotFoundError:
            if args.methods:
                raise
            absent.append(name)
            continue
        results[name] = evaluate(matcher, data, args.gaps, args.frames)
    if not results:
        print("error: no method's weights are here", file=sys.stderr)
        return 1
    print(f"At most {args.keypoints} keypoints, {args.precision}; {machine_description(device)}.")
    print(f"Without weights here: {', '.join(absent) or 'none'}.\n")
    print(markdown(results))
    if args.json:
        payload = {
            "arguments": {k: str(v) for k, v in vars(args).items()},
            "machine": machine_description(device),
            "without_weights": absent,
            "methods": {name: asdict(result) for name, result in results.items()},
        }
        temporary = args.json.with_name(args.json.name + ".tmp")
        temporary.write_text(json.dumps(payload, indent=2), encoding="utf-8")
        temporary.replace(args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
