"""EdgePoint2 and LightGlue beside straightforward implementations: ``python -m benchmarks.pairs --images A B``.

EdgePoint2 beside ``reference_edgepoint2``, LightGlue beside kornia's (stopping and pruning off in both), interleaved,
in milliseconds of one thread's CPU (of the wall on a GPU); and the share of matches that stays the same with stopping
and pruning on. Weights are looked for in ``--weights`` and the usual places; what is not here is left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from kornia.feature.lightglue import LightGlue as KorniaLightGlue

from benchmarks.reference_edgepoint2 import ReferenceEdgePoint2
from benchmarks.timing import machine_description, time_interleaved
from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.errors import WeightsNotFoundError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.inputs import as_image_batch
from semantic_matcher_core.io.images import read_image
from semantic_matcher_core.matching.learned import PUBLISHED, LightGlueMatcher, create_lightglue
from semantic_matcher_core.settings import MatcherConfig
from semantic_matcher_core.types import Features
from semantic_matcher_core.weights import find_weights, read_state_dict

SMALL = ("edgepoint2-t32", "edgepoint2-s64", "edgepoint2-e64")
PAIRED = ("aliked-n16", "xfeat", "disk")
WHOLE = MatcherConfig(matcher="lightglue", depth_confidence=1.0, width_confidence=1.0)
Candidates = dict[str, Callable[[], object]]


def edgepoint2(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, Candidates, str]]:
    """Yield each size: ours and the straightforward way."""
    images = as_image_batch(read_image(args.images[0]), device)
    for name in SMALL:
        extractor = create_extractor(name, args.keypoints, weights=args.weights, device=device)
        state = read_state_dict(find_weights(name, args.weights))
        reference = ReferenceEdgePoint2(state, args.keypoints).to(device).requires_grad_(False)
        yield name, {"ours": partial(extractor, images), "reference": partial(reference, images)}, ""


def lightglue(args: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, Candidates, str]]:
    """Yield each extractor: ours whole, kornia's whole, and ours as published."""
    for name in PAIRED:
        extractor = create_extractor(
            name, args.keypoints, weights=args.weights, device=device, **PUBLISHED[name].options
        )
        matcher = create_lightglue(name, weights=args.weights, device=device)
        first, second = (extractor.extract(read_image(path)) for path in args.images)
        model, data = kornia(matcher, first, second)
        every, quick = matcher(first, second, WHOLE), matcher(first, second)
        pairs = [set(map(tuple, matches.indices.tolist())) for matches in (every, quick)]
        same = len(pairs[0] & pairs[1]) / max(1, len(pairs[0] | pairs[1]))
        candidates: Candidates = {
            "ours": partial(matcher, first, second, WHOLE),
            "reference": partial(model, data),
            "as published": partial(matcher, first, second),
        }
        yield f"LightGlue, {name}", candidates, f"{len(every)} matches, {100 * same:.1f} % the same as published"


def kornia(
    matcher: LightGlueMatcher, first: Features, second: Features
) -> tuple[KorniaLightGlue, dict[str, dict[str, torch.Tensor]]]:
    """Return kornia's LightGlue with the same weights, and its input."""
    a = matcher.published.architecture
    sizes: dict[str, Any] = {
        "input_dim": a.input_dim,
        "descriptor_dim": a.dim,
        "n_layers": a.layers,
        "num_heads": a.heads,
    }
    no_features: Any = None  # the sizes stand for a name
    model = KorniaLightGlue(no_features, **sizes, depth_confidence=-1, width_confidence=-1)
    model.load_state_dict(matcher.net.state_dict(), strict=False)
    data = {
        f"image{i}": {
            "keypoints": f.keypoints,
            "descriptors": f.descriptors,
            "image_size": torch.tensor([f.size_wh], device=f.device),
        }
        for i, f in enumerate((first, second))
    }
    return model.eval().to(first.device), data


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pairs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, nargs=2, required=True, metavar=("A", "B"))
    parser.add_argument("--keypoints", type=int, default=2048)
    parser.add_argument("--weights", type=Path, help="folder to search for weights first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args(argv)
    device = resolve_device(args.device)
    clock = time.perf_counter if device.type == "cuda" else time.thread_time
    torch.set_num_threads(1)
    print(f"{args.keypoints} keypoints, fp32; {machine_description(device)}\n")
    print("| what | ours, ms | reference, ms | ratio | as published, ms | |\n|---|---:|---:|---:|---:|---|")
    for cases in (edgepoint2, lightglue):
        try:
            for name, candidates, note in cases(args, device):
                times = time_interleaved(candidates, repeats=args.repeats, warmup=2, device=device, clock=clock)
                ours, reference = times["ours"].median_ms, times["reference"].median_ms
                quick = f"{times['as published'].median_ms:.1f}" if "as published" in times else ""
                print(f"| {name} | {ours:.1f} | {reference:.1f} | {ours / reference:.2f} | {quick} | {note} |")
        except WeightsNotFoundError as error:
            print(f"left out: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
