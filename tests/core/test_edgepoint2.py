"""EdgePoint2 against a straightforward implementation, with random and with the published weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.reference_edgepoint2 import ReferenceEdgePoint2, ReferenceKeypoints
from semantic_matcher_core.errors import CheckpointError
from semantic_matcher_core.extractors import create_extractor, list_extractors
from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.edgepoint2 import _WIDTHS, MODELS, EdgePoint2
from semantic_matcher_core.types import Features
from semantic_matcher_core.weights import load_state_dict_strictly
from tests.core.extractor_checks import as_tensor, assert_same_features, read_rgb


def published_layout(model: str, seed: int = 0) -> dict[str, Tensor]:
    """A random state dict with the names and shapes of a published file."""
    size = model.removeprefix("edgepoint2-")
    first, half, eighth, coarse, detector = _WIDTHS[size[0]]
    width, dim = half + eighth + coarse, int(size[1:])
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def conv(name: str, outputs: int, inputs: int, kernel: int, bias: bool = True) -> None:
        fan_in = inputs * kernel * kernel
        state[f"{name}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=generator) * fan_in**-0.5
        if bias:
            state[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.1

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.bias"] = torch.randn(channels, generator=generator) * 0.1
        state[f"{name}.running_mean"] = torch.randn(channels, generator=generator) * 0.1
        state[f"{name}.running_var"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def basic(name: str, inputs: int, outputs: int, kernel: int = 3, index: int = 0) -> None:
        conv(f"{name}.layer.{index}", outputs, inputs, kernel, bias=False)
        norm(f"{name}.layer.{index + 1}", outputs)

    basic("block1.0", 1, first, 4)
    basic("block1.1", first, half)
    for name, inputs, outputs in (("block1.2", half, half), ("block2", half, eighth), ("block3", eighth, coarse)):
        basic(name, inputs, outputs)
        basic(name, outputs, outputs, index=3)
        if inputs != outputs:
            conv(f"{name}.skip", outputs, inputs, 1)
    conv("desc_head.0", width, width, 1)
    basic("desc_head.1", 16, width)
    conv("desc_head.2", dim, width, 1)
    for i, channels in enumerate((half, eighth, coarse), start=1):
        conv(f"conv{i}", detector, channels, 1)
    for index, outputs in ((0, detector), (2, detector), (4, 4)):
        conv(f"score_head.{index}", outputs, detector, 3)
    return state


def build(model: str, state: dict[str, Tensor], limit: int = 2048, **options) -> EdgePoint2:
    extractor = EdgePoint2(limit, model=model, **options)
    extractor.load_state_dict(EdgePoint2.convert_state_dict(state), strict=True)
    return extractor.requires_grad_(False)


def assert_equal(features: Features, expected: ReferenceKeypoints, *, tolerance: float = 1e-4) -> None:
    assert_same_features(
        features,
        expected.keypoints,
        expected.logits.sigmoid(),
        expected.descriptors,
        pixels=tolerance,
        score=tolerance,
        descriptor=tolerance,
    )


def test_the_fourteen_names():
    assert len(MODELS) == len(set(MODELS)) == 14
    assert [name for name in list_extractors() if name.startswith("edgepoint2-")] == list(MODELS)


@pytest.mark.parametrize("limit", [4000, 30])
@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_equals_the_straightforward_way(model, limit, textured):
    state = published_layout(model)
    images = as_tensor(textured(96, 128, 1), textured(96, 128, 2))
    features = build(model, state, limit)(images)
    assert features.descriptors.shape[-1] == int(model[-2:])
    for b, expected in enumerate(ReferenceEdgePoint2(state, limit)(images)):
        assert len(expected.keypoints) > 20
        assert_equal(features[b], expected)


@pytest.mark.parametrize("size", [(75, 101), (33, 127), (64, 95)])
@torch.no_grad()
def test_sizes_that_are_no_multiples_of_32(size, textured):
    """The same maps as the published code's; keypoints are where corner-to-corner resizing put them."""
    state = published_layout("edgepoint2-s48")
    images = as_tensor(textured(*size, 3))
    (expected,) = ReferenceEdgePoint2(state, 400)(images)
    seen = torch.tensor([side // 32 * 32 for side in reversed(size)])
    given = torch.tensor(list(reversed(size)))
    true = expected.keypoints * seen / given * (given - 1) / (seen - 1)
    assert_equal(build("edgepoint2-s48", state, 400)(images)[0], expected._replace(keypoints=true))


@torch.no_grad()
def test_a_bright_dot_is_found_where_it_is():
    """Whatever the resizing: pixels have their centres at whole numbers."""
    state = published_layout("edgepoint2-t32")
    extractor = build("edgepoint2-t32", state)
    # A detector of bright blobs: what the network computes is replaced, what stands round it is not.
    extractor.dense = lambda grey: (torch.ones(1, 48, grey.shape[-2] // 4, grey.shape[-1] // 4), grey)  # type: ignore[method-assign]
    y, x = torch.meshgrid(torch.arange(203.0), torch.arange(331.0), indexing="ij")
    for place in ((40.0, 60.0), (300.0, 180.0), (165.0, 101.0)):
        blob = (-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 18).exp()
        features = extractor(blob.expand(1, 3, -1, -1))
        # Half a pixel of the image that the network sees.
        assert (features.keypoints[0, 0] - torch.tensor(place)).abs().max() <= 0.53


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_equals_the_straightforward_way_with_published_weights(model, shared):
    weights = shared / "weights" / "edgepoint2"
    images = as_tensor(read_rgb(shared / "golden" / "tum_0.png")[:288, :352])
    state = torch.load(weights / f"{model[-3:].upper()}.pth", map_location="cpu", weights_only=True)
    (expected,) = ReferenceEdgePoint2(state, 2048)(images)
    features = create_extractor(model, 2048, weights=weights, device="cpu")(images)
    assert len(expected.keypoints) > 100
    assert_equal(features, expected)


def test_published_files_load_strictly(tmp_path: Path):
    state = published_layout("edgepoint2-m32")
    path = tmp_path / "M32.pth"

    def load(content: dict[str, Tensor]) -> EdgePoint2:
        torch.save(content, path)
        extractor = EdgePoint2(model="edgepoint2-m32")
        load_state_dict_strictly(extractor, path)
        return extractor

    loaded = load(state)
    expected = build("edgepoint2-m32", state).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    load(loaded.state_dict())  # its own layout loads too
    lacking = ("block2.layer.1.running_mean", "block2.layer.0.weight", "desc_head.1.layer.1.weight", "conv1.bias")
    for name in lacking:
        with pytest.raises(CheckpointError, match=r"lacks|missing"):
            load({k: v for k, v in state.items() if k != name})
    with pytest.raises(CheckpointError, match="unexpected"):
        load({**state, "block9.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="shape"):
        load(published_layout("edgepoint2-m48"))
    with pytest.raises(CheckpointError, match=r"shape|unexpected|missing"):
        load(published_layout("edgepoint2-e32"))


def test_nothing_trains():
    extractor = build("edgepoint2-t48", published_layout("edgepoint2-t48"))
    before = {name: tensor.clone() for name, tensor in extractor.state_dict().items()}
    image = torch.rand(1, 3, 64, 64)
    expected = extractor(image)
    extractor.train()(image)
    assert all(torch.equal(tensor, before[name]) for name, tensor in extractor.state_dict().items())
    assert torch.equal(extractor(image).descriptors, expected.descriptors)


@torch.no_grad()
def test_threshold_is_of_the_score(textured):
    state = published_layout("edgepoint2-t32")
    image = as_tensor(textured(96, 128, 5))
    everything = build("edgepoint2-t32", state, 4000, detection_threshold=0.0)(image)
    threshold = everything.scores.median().item() + 1e-4
    some = build("edgepoint2-t32", state, 4000, detection_threshold=threshold)(image)
    assert 0 < int(some.counts) < int(everything.counts)
    assert int(some.counts) == int((everything.scores > threshold).sum())
    # A matcher's setting is not bounded to the extractor's own range.
    extractor = build("edgepoint2-t32", state)
    for threshold, count in ((1.0, 0), (1.5, 0), (-1.0, int(everything.counts))):
        assert int(extractor.features(image, limits=Limits(4000, threshold)).counts) == count
