"""ALIKE against a direct restatement with random weights, and against the published implementation's results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.alike import Alike, AlikeNet
from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.dkd import detect_keypoints, soft_argmax
from semantic_matcher_core.extractors.pooling import max_pool
from semantic_matcher_core.extractors.pyramid import at_pixels, interpolate_normalized, project
from tests.core.detection_reference import read_bilinear, soft_detection
from tests.core.extractor_checks import (
    as_tensor,
    assert_same_features,
    randomize,
    read_rgb,
)

MODELS = ("alike-t", "alike-s", "alike-n", "alike-l")


def dense_maps(net: AlikeNet, image: Tensor) -> tuple[Tensor, Tensor]:
    """Score map ``H x W`` and normalised descriptor map ``C x H x W`` of one image, by building every map in full."""
    height, width = image.shape[-2:]
    padded = torch.zeros(1, 3, -(-height // 32) * 32, -(-width // 32) * 32)
    padded[..., :height, :width] = image
    blocks = (net.block1, net.block2, net.block3, net.block4)
    laterals = (net.conv1, net.conv2, net.conv3, net.conv4)
    levels, x = [], padded
    for i, (block, lateral) in enumerate(zip(blocks, laterals, strict=True)):
        if i:
            x = F.max_pool2d(x, 2 if i == 1 else 4)
        convolved = F.relu(block.bn1(block.conv1(x)))
        convolved = block.bn2(block.conv2(convolved))
        x = F.relu(convolved if i == 0 else convolved + block.downsample(x))
        levels.append(F.interpolate(F.relu(lateral(x)), padded.shape[-2:], mode="bilinear", align_corners=True))
    features = torch.cat(levels, dim=1)
    if net.convhead1 is not None:
        features = F.relu(net.convhead1(features))
    output = net.convhead2(features)[0, :, :height, :width]
    return output[-1].sigmoid(), F.normalize(output[:-1], dim=0)


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_equals_a_direct_restatement(model, textured):
    extractor = Alike(150, model=model, detection_threshold=0.0)
    randomize(extractor.net, seed=2)
    extractor.net.convhead2.weight[-1] *= 0.2  # scores that are not all 0 or 1
    images = as_tensor(textured(75, 98, 1), textured(75, 98, 2))
    features = extractor(images)
    for b in range(2):
        score_map, descriptor_map = dense_maps(extractor.net, images[b])
        keypoints, scores = soft_detection(score_map, 150, 0.0, 2, (3, 2))
        assert len(keypoints) > 50
        descriptors = torch.stack([read_bilinear(descriptor_map, x, y) for x, y in keypoints.tolist()])
        assert_same_features(
            features[b],
            keypoints,
            scores,
            F.normalize(descriptors, dim=-1),
            pixels=1e-3,
            score=1e-4,
            descriptor=2e-4,
        )


@pytest.mark.parametrize(
    ("golden", "options"),
    [
        ("alike_n_topk1024", {"max_keypoints": 1024, "detection_threshold": 0.0}),
        ("alike_n_th02", {"max_keypoints": 5000, "detection_threshold": 0.2}),
    ],
)
def test_equals_the_published_implementation(shared, golden, options):
    extractor = create_extractor("alike-n", weights=shared / "weights", device="cpu", **options)
    expected = np.load(shared / "golden" / f"{golden}.npz")
    for i in (0, 1):
        features = extractor.extract(read_rgb(shared / "golden" / f"tum_{i}.png"))
        # Measured: 3.4e-5 px, 6.7e-6, 4.1e-6 (1.3e-4 where the file holds float16).
        assert_same_features(
            features,
            expected[f"keypoints{i}"],
            expected[f"scores{i}"],
            expected[f"descriptors{i}"],
            pixels=1e-3,
            score=1e-4,
            descriptor=1e-3,
        )
        assert (features.scores[0].diff() <= 0).all()


def test_equals_the_published_implementation_where_it_pads(shared):
    extractor = create_extractor("alike-n", 256, weights=shared / "weights", device="cpu", detection_threshold=0.0)
    expected = np.load(shared / "golden" / "alike_n_odd_630x470.npz")
    features = extractor.extract(read_rgb(shared / "golden" / "tum_0.png")[:470, :630])
    names = ("keypoints", "scores", "descriptors")
    assert_same_features(features, *(expected[k] for k in names), pixels=1e-3, score=1e-4, descriptor=1e-4)


class TestPieces:
    @pytest.mark.parametrize("sizes", [[(64, 96), (32, 48), (8, 12), (2, 3)], [(32, 32), (16, 16), (4, 4), (1, 1)]])
    def test_pyramid_equals_the_dense_map(self, sizes):
        torch.manual_seed(0)
        levels = [torch.randn(2, 5, *size) for size in sizes]
        height, width = sizes[0]
        full = [F.interpolate(level, sizes[0], mode="bilinear", align_corners=True) for level in levels]
        dense = torch.cat(full, dim=1)
        weight = torch.randn(3, 20, 1, 1)
        torch.testing.assert_close(project(levels, weight), F.conv2d(dense, weight), atol=1e-4, rtol=1e-4)
        pixels = torch.stack((torch.randint(width, (2, 40)), torch.randint(height, (2, 40))), dim=-1)
        expected = torch.stack([dense[b][:, pixels[b, :, 1], pixels[b, :, 0]] for b in range(2)])
        torch.testing.assert_close(at_pixels(levels, pixels), expected, atol=1e-4, rtol=1e-4)

        unit = F.normalize(dense, dim=1)
        positions = torch.rand(2, 30, 2) * torch.tensor([width + 4.0, height + 4.0]) - 2  # some are outside
        values = interpolate_normalized(lambda p: at_pixels(levels, p), positions, height, width)
        for b in range(2):
            for n in range(30):
                expected = read_bilinear(unit[b], *positions[b, n].tolist())
                torch.testing.assert_close(values[b, :, n], expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize(("height", "width", "size"), [(8, 12, 2), (9, 13, 2), (16, 8, 4), (19, 7, 4)])
    def test_pooling_equals_torch(self, height, width, size):
        x = torch.randn(2, 3, width, height).transpose(2, 3)  # not contiguous
        torch.testing.assert_close(max_pool(x, size), F.max_pool2d(x, size), atol=0, rtol=0)

    def test_soft_argmax_of_a_symmetric_peak_stays(self):
        score_map = torch.zeros(1, 9, 9)
        score_map[0, 4, 3] = 1.0
        keypoints = soft_argmax(score_map, torch.tensor([[[3, 4]]]), 2)
        torch.testing.assert_close(keypoints, torch.tensor([[[3.0, 4.0]]]))
        flat = soft_argmax(torch.full((1, 9, 9), 0.3), torch.tensor([[[3, 4]]]), 2)
        torch.testing.assert_close(flat, torch.tensor([[[3.0, 4.0]]]))

    def test_detection_equals_a_loop(self):
        torch.manual_seed(4)
        score_map = torch.rand(3, 31, 45)
        limits = Limits(60, 0.9)
        found = detect_keypoints(score_map, limits, radius=2, suppression_radius=2, margins=(2, 2))
        for b in range(3):
            keypoints, scores = soft_detection(score_map[b], 60, 0.9, 2, (2, 2))
            n = len(keypoints)
            assert n == (60 if found.valid is None else int(found.valid[b].sum()))
            order = scores.argsort(descending=True)
            torch.testing.assert_close(found.keypoints[b, :n], keypoints[order], atol=1e-4, rtol=0)
            torch.testing.assert_close(found.scores[b, :n], scores[order], atol=1e-5, rtol=0)
