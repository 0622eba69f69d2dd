"""What is timed: each stage and the whole, ours beside the straightforward way and beside LightGlue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import reference
from benchmarks.models import Case, batched
from semantic_matcher_core import SemanticMatcher, extraction
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.inputs import as_image_batch
from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.semantics import resize_for_encoder, sample_at_keypoints
from semantic_matcher_core.semantics.dinov2 import DinoV2

Candidates = dict[str, Callable[[], Any]]


def our_stages(matcher: SemanticMatcher, case: Case, images: tuple[np.ndarray, np.ndarray]) -> dict[str, Candidates]:
    """Return for each stage the call to time; intermediate results are made beforehand."""
    device, extractor, encoder, reasoner = (
        matcher.device,
        matcher.extractor,
        matcher.semantic_encoder,
        matcher.reasoner,
    )
    assert encoder is not None and reasoner is not None
    inputs = [batched(image, case.batch) for image in images]
    batch = as_image_batch(inputs[0], device)
    features = extractor(batch)
    resized, _ = resize_for_encoder(batch, case.semantic_size, encoder.patch_size, registration="published")
    networks, settings = matcher.networks, matcher.settings
    semantic_map = extraction.encode(networks, settings, batch)
    semantic = extraction.sample(networks, settings, semantic_map, features.keypoints)
    reasoned = [matcher.extract(image) for image in inputs]
    matches = matcher.match(reasoned[0], reasoned[1]).of_pair(0).to("cpu")
    return {
        "decode": {"ours": lambda: as_image_batch(inputs[0], device)},
        "extract": {"ours": lambda: extractor(batch)},
        "encode": {"ours": lambda: encoder(resized)},
        "sample": {"ours": lambda: extraction.sample(networks, settings, semantic_map, features.keypoints)},
        "reason": {"ours": lambda: reasoner(features.descriptors, semantic, features.valid)},
        "match": {"ours": lambda: matcher.match(reasoned[0], reasoned[1])},
        "geometry": {"ours": lambda: verify(matches, "homography")},
        **_message(matches),
        "new frame of a stream": {"ours": lambda: matcher.match(reasoned[0], matcher.extract(inputs[1]))},
        "isolated pair": {"ours": lambda: matcher.match_images(*inputs)},
    }


def _message(matches: Any) -> dict[str, Candidates]:
    try:
        from semantic_matcher_core.io import messages

        header = messages.header_message(0, "camera")
    except (ConfigError, ImportError):
        return {}
    return {"message": {"ours": lambda: messages.matches_message(matches, "temporal", header, header)}}


def reference_pair(
    matcher: SemanticMatcher, case: Case, images: tuple[np.ndarray, np.ndarray]
) -> Callable[[], torch.Tensor]:
    """Match both images the straightforward way, in float32, one at a time; gives ``M x 4`` places of the matches.

    Args:
        matcher: in fp32; the straightforward networks get its weights.
    """
    extractor, encoder, reasoner = matcher.extractor, matcher.semantic_encoder, matcher.reasoner
    assert isinstance(extractor, XFeat) and isinstance(encoder, DinoV2) and reasoner is not None
    device = matcher.device
    xfeat = reference.reference_xfeat(extractor, device)
    dino: Any = reference.reference_dino(encoder, device)
    ref_reasoner = reference.ReferenceReasoner(reasoner).eval().to(device)

    def describe(image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch = as_image_batch(image, device)
        found = xfeat.detectAndCompute(batch, top_k=extractor.max_keypoints)[0]
        seen, scale = resize_for_encoder(batch, case.semantic_size, encoder.patch_size, registration="published")
        tokens = dino.forward_features(seen)["x_norm_patchtokens"]
        h, w = seen.shape[-2] // encoder.patch_size, seen.shape[-1] // encoder.patch_size
        semantic = sample_at_keypoints(
            tokens.transpose(1, 2).reshape(1, -1, h, w),
            found["keypoints"][None].float(),
            case.size,
            patch_size=encoder.patch_size,
            scale=scale,
            registration="published",
            mode=reasoner.config.semantic_interpolation_mode,
        )
        return found["keypoints"], *ref_reasoner(found["descriptors"][None], semantic)

    def pair() -> torch.Tensor:
        result = torch.empty(0, 4)
        for _ in range(case.batch):
            (k0, t0, s0), (k1, t1, s1) = (describe(image) for image in images)
            indices = reference.reference_match(t0, t1, s0, s1)
            result = torch.cat([k0[indices[:, 0]], k1[indices[:, 1]]], dim=1)
        return result

    return pair


def reference_stages(
    matcher: SemanticMatcher, case: Case, images: tuple[np.ndarray, np.ndarray]
) -> dict[str, Callable[[], Any]]:
    """Return the stages of :func:`reference_pair`, and itself."""
    extractor, encoder, reasoner = matcher.extractor, matcher.semantic_encoder, matcher.reasoner
    assert isinstance(extractor, XFeat) and isinstance(encoder, DinoV2) and reasoner is not None
    device = matcher.device
    xfeat = reference.reference_xfeat(extractor, device)
    dino: Any = reference.reference_dino(encoder, device)
    ref_reasoner = reference.ReferenceReasoner(reasoner).eval().to(device)
    pair = reference_pair(matcher, case, images)
    first = as_image_batch(images[0], device)
    resized, _ = resize_for_encoder(first, case.semantic_size, encoder.patch_size, registration="published")
    # On ours, so that this stage too is timed on the same descriptors.
    features = [matcher.extract(image) for image in images]
    sampled = matcher.semantic_features(first, features[0])
    raw: list[tuple[Any, Any]] = [(f.reasoned, f.semantic) for f in features]

    def each(call: Callable[[], Any]) -> Callable[[], Any]:
        return call if case.batch == 1 else lambda: [call() for _ in range(case.batch)]

    return {
        "extract": each(lambda: xfeat.detectAndCompute(first, top_k=extractor.max_keypoints)),
        "encode": each(lambda: dino.forward_features(resized)),
        "reason": each(lambda: ref_reasoner(features[0].descriptors, sampled)),
        "match": each(lambda: reference.reference_match(raw[0][0], raw[1][0], raw[0][1], raw[1][1])),
        "new frame of a stream": pair,  # the published code extracts both images every time
        "isolated pair": pair,
    }


def lightglue_pair(
    matcher: SemanticMatcher, case: Case, images: tuple[np.ndarray, np.ndarray]
) -> dict[str, Callable[[], Any]]:
    """Run kornia's LightGlue on XFeat's keypoints of both images; random weights, no layer or keypoint left out early.

    A new frame costs one extraction and a whole LightGlue: it looks at both images at once.
    """
    from kornia.feature import LightGlue

    device, extractor = matcher.device, matcher.extractor
    no_features: Any = None  # the sizes stand for a name
    network = LightGlue(
        features=no_features,
        weights=None,
        input_dim=extractor.descriptor_dim,
        descriptor_dim=256,
        depth_confidence=-1,
        width_confidence=-1,
    )
    network = network.eval().to(device)
    inputs = [batched(image, case.batch) for image in images]
    size = torch.tensor([case.size[::-1]] * case.batch, device=device)

    def side(features: Any) -> dict[str, torch.Tensor]:
        return {"keypoints": features.keypoints, "descriptors": features.descriptors, "image_size": size}

    def extract(image: np.ndarray) -> dict[str, torch.Tensor]:
        return side(extractor(as_image_batch(image, device)))

    known = extract(inputs[0])
    return {
        "match": lambda: network({"image0": known, "image1": known}),
        "new frame of a stream": lambda: network({"image0": known, "image1": extract(inputs[1])}),
        "isolated pair": lambda: network({"image0": extract(inputs[0]), "image1": extract(inputs[1])}),
    }


def shared_matches(ours: Any, theirs: torch.Tensor) -> float:
    """Return share of the other's matches, as pairs of whole pixels, that ours (of the first pair of a batch) has
    too.
    """
    ours = ours.of_pair(0)
    found = {tuple(row) for row in torch.cat([ours.keypoints0, ours.keypoints1], dim=1).round().int().tolist()}
    wanted = {tuple(row) for row in theirs.round().int().tolist()}
    return len(found & wanted) / max(1, len(wanted))
