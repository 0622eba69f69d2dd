"""Milliseconds per stage and per pair, next to the same work done the reference's way.

``python -m benchmarks.pipeline --help`` has the options.

Published weights are used where they are found; otherwise random ones of the same shape stand in, since time does not
depend on their values, and the output says so. Images are two views of one rendered texture.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import reference
from benchmarks.timing import Timing, machine_description, time_interleaved
from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.errors import WeightsNotFoundError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.inputs import as_image_batch
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics import create_semantic_encoder, resize_for_encoder, sample_at_keypoints
from semantic_matcher_core.semantics.dinov2 import DinoV2


def build_matcher(args: argparse.Namespace, device: torch.device) -> tuple[SemanticMatcher, dict[str, str]]:
    """The published default architecture (XFeat, DINOv2-S at 896, 5 layers of 256), and where its weights came from."""
    torch.manual_seed(0)
    origin = {"reasoner": "random"}
    try:
        extractor: Any = create_extractor("xfeat", args.keypoints, device=device)
        origin["xfeat"] = "published"
    except WeightsNotFoundError:
        extractor, origin["xfeat"] = XFeat(max_keypoints=args.keypoints), "random"
    try:
        encoder: Any = create_semantic_encoder(args.dino, device=device)
        origin["dino"] = "published"
    except WeightsNotFoundError:
        encoder, origin["dino"] = DinoV2(args.dino), "random"
    config = ReasonerConfig(
        extractor_features_dim=extractor.descriptor_dim,
        semantic_features_dim=encoder.feature_dim,
        features_dim=256,
        n_attention_layers=5,
        num_heads=1,
        semantic_conditioning=True,
    )
    matcher = SemanticMatcher.from_parts(
        extractor,
        encoder,
        Reasoner(config),
        device=device,
        precision=args.precision,
        semantic_size=args.semantic_size,
        registration="published",
    )
    return matcher.requires_grad_(False), origin


def textured_pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two uint8 RGB views of smoothed noise at several scales, the second shifted by (12, 7) px."""
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.zeros(1, 3, height + 32, width + 32)
    for octave in range(2, 7):
        noise = torch.rand(1, 3, (height >> octave) + 3, (width >> octave) + 3, generator=generator)
        canvas += torch.nn.functional.interpolate(noise, canvas.shape[-2:], mode="bicubic") * 0.2
    array = (canvas[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return array[:height, :width].copy(), array[7 : 7 + height, 12 : 12 + width].copy()


def stage_candidates(
    matcher: SemanticMatcher, images: tuple[np.ndarray, np.ndarray], device: torch.device
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Per stage the calls to compare: ``ours`` and, where the reference does it differently, ``reference``."""
    extractor, encoder, reasoner = matcher.extractor, matcher.semantic_encoder, matcher.reasoner
    assert isinstance(extractor, XFeat) and isinstance(encoder, DinoV2) and reasoner is not None
    ref_xfeat = reference.reference_xfeat(extractor, device)
    ref_dino = reference.reference_dino(encoder, device)
    ref_reasoner = reference.ReferenceReasoner(reasoner).eval().to(device)
    batches = [as_image_batch(image, device) for image in images]
    mode = reasoner.config.semantic_interpolation_mode

    def resize(batch: torch.Tensor) -> tuple[torch.Tensor, Any]:
        return resize_for_encoder(batch, matcher.semantic_size, encoder.patch_size, registration="published")

    def sample(feature_map: torch.Tensor, keypoints: torch.Tensor, scale: Any) -> torch.Tensor:
        return sample_at_keypoints(
            feature_map,
            keypoints,
            (images[0].shape[0], images[0].shape[1]),
            patch_size=encoder.patch_size,
            scale=scale,
            registration="published",
            mode=mode,
        )

    def reference_features(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found = ref_xfeat.detectAndCompute(batch, top_k=extractor.max_keypoints)[0]
        resized, scale = resize(batch)
        tokens = ref_dino.forward_features(resized)["x_norm_patchtokens"]
        h, w = resized.shape[-2] // encoder.patch_size, resized.shape[-1] // encoder.patch_size
        feature_map = tokens.transpose(1, 2).reshape(1, -1, h, w)
        semantic = sample(feature_map, found["keypoints"][None].float(), scale)
        return found["keypoints"], *ref_reasoner(found["descriptors"][None], semantic)

    def reference_pair() -> torch.Tensor:
        (k0, t0, s0), (k1, t1, s1) = (reference_features(as_image_batch(image, device)) for image in images)
        indices = reference.reference_match(t0, t1, s0, s1)
        return torch.cat([k0[indices[:, 0]], k1[indices[:, 1]]], dim=1)

    with torch.no_grad():
        features = [extractor(batch) for batch in batches]
        resized, scale = resize(batches[0])
        feature_map = encoder(resized).float()
        semantic = sample(feature_map, features[0].keypoints, scale)
    reasoned = [matcher.extract(image) for image in images]
    raw = [(f.reasoned, f.semantic) for f in reasoned]

    def in_precision(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with torch.no_grad():
                return call()

        return run

    return {
        "decode to tensor": {"ours": lambda: as_image_batch(images[0], device)},
        "extract (XFeat)": {
            "ours": in_precision(lambda: extractor(batches[0])),
            "reference": lambda: ref_xfeat.detectAndCompute(batches[0], top_k=extractor.max_keypoints),
        },
        f"encode ({encoder.name})": {
            "ours": in_precision(lambda: encoder(resized)),
            "reference": lambda: ref_dino.forward_features(resized),
        },
        "sample": {"ours": lambda: sample(feature_map, features[0].keypoints, scale)},
        "reason": {
            "ours": in_precision(lambda: reasoner(features[0].descriptors, semantic, features[0].valid)),
            "reference": lambda: ref_reasoner(features[0].descriptors, semantic),
        },
        "match": {
            "ours": lambda: matcher.match(reasoned[0], reasoned[1]),
            "reference": lambda: reference.reference_match(raw[0][0], raw[1][0], raw[0][1], raw[1][1]),
        },
        "new frame of a stream": {
            "ours": lambda: matcher.match(reasoned[0], matcher.extract(images[1])),
            "reference": reference_pair,  # the published code extracts both images every time
        },
        "isolated pair": {"ours": lambda: matcher.match_images(*images), "reference": reference_pair},
    }


def agreement(matcher: SemanticMatcher, candidates: dict[str, Callable[[], Any]]) -> float:
    """Share of the reference's matches, as pairs of whole pixels, that ours has too.

    The keypoints themselves differ in the outermost two pixels, where kornia's XFeat never finds any.
    """
    ours = candidates["ours"]()
    found = {tuple(row) for row in torch.cat([ours.keypoints0, ours.keypoints1], dim=1).round().int().tolist()}
    theirs = {tuple(row) for row in candidates["reference"]().round().int().tolist()}
    return len(found & theirs) / max(1, len(theirs))


def markdown(results: dict[str, dict[str, Timing]]) -> str:
    """A table: one row a stage, medians in ms and the ratio reference / ours."""
    lines = ["| stage | ours, ms (p95) | reference's way, ms (p95) | ratio |", "|---|---:|---:|---:|"]
    for stage, timings in results.items():
        ours, theirs = timings["ours"], timings.get("reference")
        other = "" if theirs is None else f"{theirs.median_ms:.1f} ({theirs.p95_ms:.1f})"
        ratio = "" if theirs is None else f"{theirs.median_ms / ours.median_ms:.2f}×"
        lines.append(f"| {stage} | {ours.median_ms:.1f} ({ours.p95_ms:.1f}) | {other} | {ratio} |")
    return "\n".join(lines)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--size", default="640x480", help="image WIDTHxHEIGHT")
    parser.add_argument("--keypoints", type=int, default=2048)
    parser.add_argument("--dino", default="dinov2_vits14", choices=["dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14"])
    parser.add_argument("--semantic-size", type=int, default=896, help="long side the semantic encoder sees")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(argv)


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    width, height = (int(v) for v in args.size.split("x"))
    matcher, origin = build_matcher(args, device)
    images = textured_pair(height, width)
    stages = stage_candidates(matcher, images, device)
    results = {}
    for stage, candidates in stages.items():
        print(f"measuring: {stage} …", file=sys.stderr)
        results[stage] = time_interleaved(candidates, repeats=args.repeats, warmup=args.warmup, device=device)
    shared = agreement(matcher, stages["isolated pair"])
    weights = ", ".join(f"{part} {source}" for part, source in sorted(origin.items()))
    print(
        f"{args.size}, {args.keypoints} keypoints, {args.dino} at {args.semantic_size}, {args.precision}; "
        f"{machine_description(device)}; weights: {weights}\n"
    )
    print(markdown(results))
    print(f"\nmatches identical to the reference's way: {100 * shared:.2f} %")
    if args.json:
        payload = {
            "arguments": {k: str(v) for k, v in vars(args).items()},
            "machine": machine_description(device),
            "weights": origin,
            "agreement": shared,
            "stages": {stage: {k: asdict(t) for k, t in timings.items()} for stage, timings in results.items()},
        }
        temporary = args.json.with_name(args.json.name + ".tmp")
        temporary.write_text(json.dumps(payload, indent=2), encoding="utf-8")
        temporary.replace(args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
