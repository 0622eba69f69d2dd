"""ALIKED against kornia's dense maps and descriptor head, and against the published implementation's results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.aliked import Aliked
from semantic_matcher_core.extractors.deformable import DeformableConv
from tests.core.detection_reference import soft_detection
from tests.core.extractor_checks import (
    as_tensor,
    assert_same_features,
    randomize,
    read_rgb,
)

try:
    from kornia.feature import ALIKED
    from kornia.feature.aliked.aliked import DeformableConv2d
except ImportError:  # before 0.8.3, the last that Python 3.10 has
    ALIKED = DeformableConv2d = None
needs_kornias = pytest.mark.skipif(ALIKED is None, reason="this kornia has no ALIKED (0.8.3 has, from Python 3.11 on)")

MODELS = ("aliked-t16", "aliked-n16", "aliked-n16rot", "aliked-n32")


def true_pixels(keypoints: np.ndarray, width: int, height: int) -> np.ndarray:
    """The published reasoners' copy of ALIKED gives pixel * W / (W - 1)."""
    return keypoints * np.array([(width - 1) / width, (height - 1) / height], dtype=np.float32)


@needs_kornias
@pytest.mark.parametrize(("model", "height", "width"), [("aliked-t16", 70, 101), ("aliked-n32", 64, 96)])
@torch.no_grad()
def test_equals_kornia_but_for_selection(model, height, width, textured):
    """kornia's dense maps and its descriptor head at the keypoints that the published selection takes from them."""
    extractor = Aliked(120, model=model, detection_threshold=0.0)
    randomize(extractor.net, seed=1)
    for head in (extractor.net.score_head[-1], extractor.net.desc_head.offset_conv[2]):
        head.weight *= 0.3
    reference = ALIKED(model).eval()
    assert not reference.load_state_dict(extractor.net.state_dict(), strict=False).unexpected_keys
    images = as_tensor(textured(height, width, 1), textured(height, width, 2))
    features = extractor(images)
    feature_map, score_map = reference.extract_dense_map(images)
    for b in range(2):
        keypoints, scores = soft_detection(score_map[b, 0], 120, 0.0, 2, (2, 2))
        assert len(keypoints) > 50
        normalised = 2 * keypoints / torch.tensor([width - 1, height - 1]) - 1
        descriptors, _ = reference.desc_head(feature_map[b : b + 1], [normalised])
        assert_same_features(features[b], keypoints, scores, descriptors[0], pixels=1e-3, score=1e-4, descriptor=1e-3)


def test_equals_the_published_implementation(shared):
    extractor = create_extractor("aliked-n16", 1024, weights=shared / "weights", device="cpu", detection_threshold=0.0)
    expected = np.load(shared / "golden" / "aliked_n16_1024.npz")
    for i in (0, 1):
        features = extractor.extract(read_rgb(shared / "golden" / f"tum_{i}.png"))
        # Measured: 6.8e-5 px, 1.4e-5, 3.2e-6. The file has scores and dispersities swapped.
        assert_same_features(
            features,
            true_pixels(expected[f"keypoints{i}"], 640, 480),
            expected[f"score_dispersity{i}"],
            expected[f"descriptors{i}"],
            pixels=1e-3,
            score=1e-4,
            descriptor=1e-4,
        )
        assert (features.scores[0].diff() <= 0).all()


def test_equals_the_published_implementation_where_it_pads(shared):
    extractor = create_extractor("aliked-n16", 256, weights=shared / "weights", device="cpu", detection_threshold=0.0)
    expected = np.load(shared / "golden" / "aliked_n16_odd_630x470.npz")
    features = extractor.extract(read_rgb(shared / "golden" / "tum_0.png")[:470, :630])
    assert_same_features(
        features,
        true_pixels(expected["keypoints"], 630, 470),
        expected["score_dispersity"],
        expected["descriptors"],
        pixels=1e-3,
        score=1e-4,
        descriptor=1e-4,
    )


@torch.inference_mode()
def test_score_map_equals_the_published_implementation(shared):
    extractor = create_extractor("aliked-n16", 1024, weights=shared / "weights", device="cpu")
    score_map = extractor._score_map(extractor.dense(as_tensor(read_rgb(shared / "golden" / "tum_0.png"))))
    stored = np.load(shared / "golden" / "aliked_n16_scoremap0.npz")["score_map"].astype(np.float32)
    np.testing.assert_allclose(score_map[0, ::2, ::2].numpy(), stored, atol=6e-4, rtol=0)  # float16 has 2^-11


def test_published_default_threshold(shared):
    extractor = create_extractor("aliked-n16", 20000, weights=shared / "weights", device="cpu")
    assert int(extractor.extract(read_rgb(shared / "golden" / "tum_0.png")).counts) == 699


def test_state_dict_has_the_published_names():
    names = set(Aliked().state_dict())
    assert {"net.block3.conv1.offset_conv.bias", "net.desc_head.agg_weights", "net.score_head.6.weight"} <= names
    assert not any("dkd" in name for name in names)


@needs_kornias
@pytest.mark.parametrize(("height", "width"), [(12, 17), (1, 1), (3, 2)])
@torch.no_grad()
def test_deformable_convolution_equals_kornia(height, width):
    layer = DeformableConv2d(6, 9)
    randomize(layer, seed=5)
    ours = DeformableConv(6, 9)
    ours.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, height, width)
    torch.testing.assert_close(ours(x), layer(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_deformable_convolution_without_offsets_is_a_convolution():
    layer = DeformableConv(4, 5)
    layer.offset_conv.weight.zero_()
    layer.offset_conv.bias.zero_()
    x = torch.randn(1, 4, 9, 7)
    expected = F.conv2d(x, layer.regular_conv.weight, padding=1)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
