"""SuperPoint against transformers where installed, and against a direct restatement, on shared random weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.superpoint import SuperPoint
from tests.core.detection_reference import suppressed
from tests.core.extractor_checks import as_tensor, assert_same_features, randomize

GREY = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def build(**options) -> SuperPoint:
    extractor = SuperPoint(**options).eval()
    randomize(extractor.net, seed=6)
    return extractor


def restated(extractor: SuperPoint, image: Tensor, threshold: float, legacy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Keypoints, scores and descriptors of one ``3 x H x W`` image, cell by cell and keypoint by keypoint."""
    weights = {name.removeprefix("net."): tensor for name, tensor in extractor.state_dict().items()}

    def convolve(x: Tensor, name: str) -> Tensor:
        weight = weights[f"{name}.weight"]
        return F.conv2d(x, weight, weights[f"{name}.bias"], padding=weight.shape[-1] // 2)

    x = (image * GREY).sum(0)[None, None]
    for stage in "1234":
        x = x if stage == "1" else F.max_pool2d(x, 2, 2)
        x = F.relu(convolve(F.relu(convolve(x, f"conv{stage}a")), f"conv{stage}b"))
    logits = convolve(F.relu(convolve(x, "convPa")), "convPb")[0].softmax(0)
    coarse = F.normalize(convolve(F.relu(convolve(x, "convDa")), "convDb"), dim=1)
    rows, columns = logits.shape[-2:]
    heat = torch.zeros(8 * rows, 8 * columns)
    for dy in range(8):
        for dx in range(8):
            heat[dy::8, dx::8] = logits[8 * dy + dx]
    kept = suppressed(heat, 4)
    kept[:4], kept[-4:], kept[:, :4], kept[:, -4:] = 0, 0, 0, 0
    y, x = (kept > threshold).nonzero(as_tuple=True)
    keypoints = torch.stack((x, y), dim=-1).float()
    if legacy:  # cell centres at 3.5, 11.5, …, and an extent of half a pixel too little
        extent = torch.tensor([8 * columns, 8 * rows]) - 4.5
        grid = (keypoints - 3.5) / extent * 2 - 1
    else:
        grid = keypoints / torch.tensor([8 * columns, 8 * rows]) * 2 - 1
    descriptors = F.grid_sample(coarse, grid[None, None], mode="bilinear", align_corners=legacy)[0, :, 0].T
    return keypoints, heat[y, x], F.normalize(descriptors, dim=-1)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("height", "width"), [(96, 128), (101, 143), (64, 71)])
@torch.no_grad()
def test_equals_a_direct_restatement(height, width, legacy, textured):
    extractor = build(max_keypoints=4000, detection_threshold=0.01, legacy_sampling=legacy)
    images = as_tensor(textured(height, width, 1), textured(height, width, 2))
    features = extractor(images)
    for b in range(2):
        expected = restated(extractor, images[b], 0.01, legacy)
        assert len(expected[0]) > 5
        assert_same_features(features[b], *expected, pixels=0.0, score=1e-5, descriptor=1e-4)


@torch.no_grad()
def test_equals_transformers(textured):
    transformers = pytest.importorskip("transformers")
    height, width = 104, 144
    extractor = build(max_keypoints=4000, detection_threshold=0.01, legacy_sampling=True)
    own = extractor.net.state_dict()
    names = {f"encoder.conv_blocks.{i}.conv_{c}": f"conv{i + 1}{c}" for i in range(4) for c in "ab"}
    names |= {f"keypoint_decoder.conv_score_{c}": f"convP{c}" for c in "ab"}
    names |= {f"descriptor_decoder.conv_descriptor_{c}": f"convD{c}" for c in "ab"}
    config = transformers.SuperPointConfig(
        keypoint_threshold=0.01, max_keypoints=-1, nms_radius=4, border_removal_distance=4
    )
    reference = transformers.SuperPointForKeypointDetection(config).eval()
    reference.load_state_dict({f"{k}.{p}": own[f"{v}.{p}"] for k, v in names.items() for p in ("weight", "bias")})
    image = as_tensor(textured(height, width))
    # It reads the first channel of a picture that its preprocessing has made grey.
    output = reference((image * GREY).sum(1, keepdim=True).expand(-1, 3, -1, -1))
    keypoints = (output.keypoints[0] * torch.tensor([width, height])).round()
    # It removes the border at the top and left only: it takes 8 times the true size for the other two.
    inside = (keypoints < torch.tensor([width - 4, height - 4])).all(-1)
    assert inside.sum() > 20
    assert_same_features(
        extractor(image),
        keypoints[inside],
        output.scores[0][inside],
        output.descriptors[0][inside],
        pixels=0.0,
        score=1e-6,
        descriptor=1e-5,
    )


def test_published_names_load_strictly():
    state = {name.removeprefix("net."): tensor for name, tensor in build().state_dict().items()}
    assert set(state) == {
        f"conv{layer}.{kind}"
        for layer in ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b", "Pa", "Pb", "Da", "Db")
        for kind in ("weight", "bias")
    }
    other = SuperPoint()
    other.load_state_dict(SuperPoint.convert_state_dict(state), strict=True)
    torch.testing.assert_close(other.net.convDb.weight, state["convDb.weight"])


@pytest.mark.parametrize("size", [(7, 40), (40, 7), (8, 8), (15, 17)])
def test_small_images_give_no_keypoints_in_the_border(size):
    features = build(detection_threshold=0.0).extract(torch.rand(2, 3, *size))
    rows, columns = (side // 8 * 8 for side in size)
    if min(rows, columns) <= 8:
        assert features.keypoints.shape == (2, 0, 2)


@torch.no_grad()
def test_fewer_borders_give_more_keypoints(textured):
    image = as_tensor(textured(80, 80))
    few, many = (build(detection_threshold=0.0, remove_borders=n)(image) for n in (4, 0))
    assert int(many.counts) > int(few.counts)
    inner = (many.keypoints[0] >= 4).all(-1) & (many.keypoints[0] < 76).all(-1)
    assert int(inner.sum()) == int(few.counts)
