"""DISK against kornia's own class on shared random weights."""

from __future__ import annotations

import pytest
import torch
from kornia.feature import DISK

from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.disk import Disk
from semantic_matcher_core.weights import load_state_dict_strictly
from tests.core.extractor_checks import as_tensor, assert_same_features, needs_kornias_choice, randomize


def build(**options) -> Disk:
    extractor = Disk(**options).eval()
    randomize(extractor.net, seed=7)
    return extractor


@needs_kornias_choice
@pytest.mark.parametrize("limit", [4000, 40])
@pytest.mark.parametrize(("height", "width"), [(96, 128), (75, 101), (17, 40)])
@torch.no_grad()
def test_equals_kornia(height, width, limit, textured):
    extractor = build(max_keypoints=limit)
    reference = DISK().eval()
    reference.load_state_dict(extractor.net.state_dict())
    images = as_tensor(textured(height, width, 1), textured(height, width, 2))
    features = extractor(images)
    for b, expected in enumerate(reference(images, n=limit, pad_if_not_divisible=True)):
        assert expected.n > 3
        assert_same_features(
            features[b],
            expected.keypoints,
            expected.detection_scores,
            expected.descriptors,
            pixels=0.0,
            score=1e-4,
            descriptor=1e-4,
        )


def test_published_layout_loads(tmp_path):
    """The published file holds the network under ``extractor``."""
    source = build()
    path = tmp_path / "depth-save.pth"
    torch.save({"extractor": source.net.state_dict(), "other": 3}, path)
    loaded = create_extractor("disk", weights=tmp_path, device="cpu")
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor)
    load_state_dict_strictly(Disk(), path)


@torch.no_grad()
def test_published_border_rule_adds_keypoints_at_the_border(textured):
    image = as_tensor(textured(64, 80))
    valid, clipped = build()(image), build(border="clipped")(image)
    inner = (clipped.keypoints[0] >= 2).all(-1) & (clipped.keypoints[0] < torch.tensor([78, 62])).all(-1)
    assert int(inner.sum()) == int(valid.counts) < int(clipped.counts)
