"""What each optimisation gains here: the work it is for, with it and without, in one run.

``python -m benchmarks.switches`` goes over the optimisations that ``SEMANTIC_MATCHER_DISABLE`` can turn off and that
apply to the device, one at a time, everything else as it is. 640 x 480, 2048 keypoints, DINOv2-S at 896, a reasoner of
5 layers; published weights where they are found, else random ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.models import Case, add_common_options, build_matcher, common_setting
from benchmarks.timing import disabled, machine_description, time_interleaved
from semantic_matcher_core import SemanticMatcher, extraction
from semantic_matcher_core.errors import WeightsNotFoundError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.extractors.dalf.extractor import Dalf
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.inputs import as_image_batch
from semantic_matcher_core.matching import MatcherConfig
from semantic_matcher_core.matching.features import match_features
from semantic_matcher_core.optimisations import NAMES

_WARMUP = 2
# Where their weights are not found.
EXTRACTORS: dict[str, Callable[[], Extractor]] = {"xfeat": XFeat, "dalf": Dalf}


@dataclass(frozen=True)
class Work:
    """What an optimisation is for.

    Attributes:
        name: of the work, for the table.
        build: makes the call to time; the switch is set as for the call itself.
    """

    name: str
    build: Callable[[], Callable[[], object]]


class Suite:
    """The work for each optimisation, on one device.

    Args:
        device: where to run.
        weights: folder to look for weights in first.
        images: two RGB uint8 arrays of one size.
    """

    def __init__(self, device: torch.device, weights: str | None, images: tuple[np.ndarray, np.ndarray]) -> None:
        self.device, self.weights, self.images = device, weights, images

    def matcher(self, precision: str) -> SemanticMatcher:
        return build_matcher(Case(precision=precision), self.device, self.weights)[0]

    def encode(self, precision: str) -> Callable[[], object]:
        matcher, batch = self.matcher(precision), as_image_batch(self.images[0], self.device)
        return lambda: extraction.encode(matcher.networks, matcher.settings, batch)

    def reason(self, precision: str) -> Callable[[], object]:
        matcher, batch = self.matcher(precision), as_image_batch(self.images[0], self.device)
        features = extraction.local_features(matcher.networks, matcher.settings, batch)
        semantic = matcher.semantic_features(batch, features)
        assert matcher.reasoner is not None
        reasoner = matcher.reasoner
        return lambda: reasoner(features.descriptors, semantic)

    def extract(self, name: str) -> Callable[[], object]:
        try:
            extractor = create_extractor(name, weights=self.weights, device=self.device)
        except WeightsNotFoundError:
            extractor = EXTRACTORS[name]().to(self.device)
        batch = as_image_batch(self.images[0], self.device)
        return lambda: extractor(batch)

    def match(self, precision: str, **options: Any) -> Callable[[], object]:
        matcher = self.matcher(precision)
        first, second = (matcher.extract(image) for image in self.images)
        config = MatcherConfig(**options)
        return lambda: match_features(first, second, config)

    def match_turned(self) -> Callable[[], object]:
        """Match two images whose first matches disagree."""
        matcher = SemanticMatcher.from_pretrained("plain:compact", device=self.device)
        height, width = self.images[0].shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), 45, 1.0)
        first, second = (
            matcher.extract(image) for image in (self.images[0], cv2.warpAffine(self.images[1], turn, (width, height)))
        )
        return lambda: match_features(first, second, matcher.matching)

    def frame(self, precision: str) -> Callable[[], object]:
        matcher = self.matcher(precision)
        before = matcher.extract(self.images[0])
        return lambda: matcher.match(before, matcher.extract(self.images[1]))

    def works(self) -> dict[str, list[Work]]:
        """Return the work that each optimisation which applies to the device is measured by."""
        if self.device.type == "cuda":
            return {
                name: [Work("new frame, fp16", lambda: self.frame("fp16"))]
                for name, what in NAMES.items()
                if what.startswith("CUDA")
            }
        return {
            "fused_attention": [
                Work("DINOv2-S, fp32", lambda: self.encode("fp32")),
                Work("DINOv2-S, bf16", lambda: self.encode("bf16")),
                Work("reasoner, bf16", lambda: self.reason("bf16")),
            ],
            "channels_last": [
                Work("xfeat", lambda: self.extract("xfeat")),
                Work("compact", lambda: self.extract("compact")),
            ],
            "folded_norms": [
                Work("dalf", lambda: self.extract("dalf")),
                Work("xfeat", lambda: self.extract("xfeat")),
            ],
            "candidate_ranking": [Work("xfeat", lambda: self.extract("xfeat"))],
            "sliding_maximum": [Work("xfeat", lambda: self.extract("xfeat"))],
            "grouped_maxima": [Work("matching", lambda: self.match("fp32"))],
            "nearby_search": [Work("matching, guided, turned by 45 degrees", self.match_turned)],
        }


def rows(suite: Suite, only: list[str], repeats: int) -> Iterator[str]:
    """Yield the table, row by row."""
    yield "| optimisation | work | with it, ms | without, ms | gain |"
    yield "|---|---|---:|---:|---:|"
    for name, all_work in suite.works().items():
        for work in all_work if not only or name in only else []:
            print(f"measuring: {name}: {work.name} …", file=sys.stderr)
            calls = {}
            for way, names in (("with", ()), ("without", (name,))):
                with disabled(",".join(names)):
                    calls[way] = _as(names, work.build())
            found = time_interleaved(calls, repeats=repeats, warmup=_WARMUP, device=suite.device)
            fast, plain = found["with"].median_ms, found["without"].median_ms
            yield f"| `{name}` | {work.name} | {fast:.1f} | {plain:.1f} | {plain / fast:.2f}× |"


def _as(names: tuple[str, ...], call: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with disabled(",".join(names)):
            return call()

    return run


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.switches", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="optimisations to measure; by default all that apply")
    add_common_options(parser, repeats=9)
    args = parser.parse_args(argv)
    device, images = common_setting(args)
    suite = Suite(device, args.weights, images)
    if unknown := set(args.only) - set(suite.works()):
        parser.error(f"{', '.join(sorted(unknown))} not among {', '.join(suite.works())}")
    height, width = images[0].shape[:2]
    print(f"{machine_description(device)}; {width}×{height}; medians of {args.repeats} calls.\n")
    for row in rows(suite, args.only, args.repeats):
        print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
