"""What the tests of several extractors share: pictures, random weights, comparison of keypoint sets, matching."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import kornia
import numpy as np
import pytest
import torch
from kornia.feature.dedode.decoder import ConvRefiner
from kornia.feature.dedode.encoder import VGG19
from torch import Tensor, nn

from semantic_matcher_core.extractors.dedode import DeDoDe
from semantic_matcher_core.semantics import dinov2
from semantic_matcher_core.types import Features
from semantic_matcher_core.weights.loading import Undrawn

# What kornia chooses itself: its windows of suppression of 5 pixels and more, its pruning of keypoints.
needs_kornias_choice = pytest.mark.skipif(
    kornia.__version__ < "0.9", reason="compared with kornia 0.9; Python 3.10 has 0.8.2, which chooses others"
)


def read_rgb(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None, path
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def as_tensor(*pictures: np.ndarray) -> Tensor:
    """``B x 3 x H x W`` float in [0, 1]."""
    return torch.stack([torch.from_numpy(np.ascontiguousarray(p)).permute(2, 0, 1) / 255.0 for p in pictures])


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Weights and statistics that let signals through: He for convolutions, positive variances, small offsets."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.ndim > 1:
            fan_in = tensor[0].numel()
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5)
        else:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def shallow_dedode(max_keypoints: int, **options: Any) -> DeDoDe:
    """With one of DINOv2's blocks, and one of VGG's and of the refiners' at each size: the others are the same."""
    with (
        mock.patch.dict(dinov2._ARCHITECTURES, dinov2_vitl14=dinov2._Architecture(1024, 1, 16)),
        Undrawn(),
    ):
        extractor = DeDoDe(max_keypoints, **options)
    for module in extractor.modules():
        if isinstance(module, VGG19):
            kept, since_pool = [], 0
            for layer in module.layers:
                pools = isinstance(layer, torch.nn.MaxPool2d)
                if pools or since_pool < 3:  # convolution, batch normalisation, ReLU
                    kept.append(layer)
                since_pool = 0 if pools else since_pool + 1
            module.layers = torch.nn.ModuleList(kept)
        elif isinstance(module, ConvRefiner):
            module.hidden_blocks = module.hidden_blocks[:1]
    randomize(extractor)
    return extractor


@torch.no_grad()
def randomize_dedode(model: Any) -> Any:
    """Random weights with logits of a few units, as trained ones have: no flat softmax, no single peak."""
    randomize(model.detector, seed=8)
    randomize(model.descriptor, seed=9)
    logits = model._logits(torch.randn(1, 3, 56, 56))
    for refiner in model.detector.decoder.layers.values():
        refiner.out_conv.weight[:1] *= 2 / logits.std()
        refiner.out_conv.bias[:1] *= 2 / logits.std()
    return model


def assert_same_features(
    features: Features,
    keypoints: np.ndarray | Tensor,
    scores: np.ndarray | Tensor,
    descriptors: np.ndarray | Tensor,
    *,
    pixels: float,
    score: float,
    descriptor: float,
) -> None:
    """One image's features equal those of a reference, whatever the order: each keypoint has its own counterpart."""
    mine = features.keypoints[0].double().numpy()
    reference = np.asarray(keypoints, dtype=np.float64)
    assert len(mine) == len(reference) > 0
    distance = np.linalg.norm(mine[:, None] - reference[None], axis=-1)
    partner = distance.argmin(axis=0)
    assert len(set(partner.tolist())) == len(reference), "two reference keypoints have the same counterpart"
    assert distance.min(axis=0).max() <= pixels
    np.testing.assert_allclose(features.scores[0].numpy()[partner], np.asarray(scores), atol=score, rtol=0)
    expected = np.asarray(descriptors).astype(np.float32)
    np.testing.assert_allclose(features.descriptors[0].numpy()[partner], expected, atol=descriptor, rtol=0)


def assert_well_formed(features: Features, batch: int, size: tuple[int, int], dim: int, limit: int) -> None:
    """Shapes, types, order, padding and ranges that every extractor promises."""
    keypoints, scores, descriptors = features.keypoints, features.scores, features.descriptors
    count = keypoints.shape[1]
    assert keypoints.shape == (batch, count, 2) and scores.shape == (batch, count)
    assert descriptors.shape == (batch, count, dim) and count <= limit
    assert {keypoints.dtype, scores.dtype, descriptors.dtype} == {torch.float32}
    assert features.image_size == size
    assert all(torch.isfinite(t).all() for t in (keypoints, scores, descriptors))
    for b in range(batch):
        n = int(features.counts[b])
        if features.valid is not None:
            assert features.valid[b, :n].all() and not features.valid[b, n:].any()
        assert not keypoints[b, n:].any() and not scores[b, n:].any() and not descriptors[b, n:].any()
        if n:
            assert (scores[b, :n].diff() <= 0).all()
            torch.testing.assert_close(descriptors[b, :n].norm(dim=-1), torch.ones(n), atol=1e-4, rtol=0)
            low, high = keypoints[b, :n].amin(0), keypoints[b, :n].amax(0)
            assert (low >= -0.5).all() and high[0] <= size[1] - 0.5 and high[1] <= size[0] - 0.5


def mutual_matches(features0: Features, features1: Features) -> tuple[np.ndarray, np.ndarray]:
    """``M x 2`` keypoints of both images whose descriptors are each other's nearest."""
    similarity = features0.descriptors[0] @ features1.descriptors[0].T
    forward, backward = similarity.argmax(1), similarity.argmax(0)
    mutual = backward[forward] == torch.arange(len(forward))
    return features0.keypoints[0][mutual].numpy(), features1.keypoints[0][forward[mutual]].numpy()


def homography_inliers(points0: np.ndarray, points1: np.ndarray, pixels: float = 3.0) -> int:
    cv2.setRNGSeed(0)
    _, inliers = cv2.findHomography(points0, points1, cv2.USAC_MAGSAC, pixels, maxIters=5000)
    return int(inliers.sum())


def epipolar_inliers(points0: np.ndarray, points1: np.ndarray, pixels: float = 1.0) -> int:
    cv2.setRNGSeed(0)
    _, inliers = cv2.findFundamentalMat(points0, points1, cv2.USAC_MAGSAC, pixels, 0.999, 5000)
    return int(inliers.sum())
