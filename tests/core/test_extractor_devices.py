"""What runs off the CPU and in half precision, as far as it can be told without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from semantic_matcher_core.extractors import Extractor, selection
from semantic_matcher_core.extractors.alike import Alike
from semantic_matcher_core.extractors.aliked import Aliked
from semantic_matcher_core.extractors.compact import Compact
from semantic_matcher_core.extractors.disk import Disk
from semantic_matcher_core.extractors.superpoint import SuperPoint
from semantic_matcher_core.extractors.xfeat import XFeat
from tests.core.extractor_checks import as_tensor, assert_well_formed, randomize, randomize_dedode, shallow_dedode

EXTRACTORS = [
    pytest.param(lambda **options: Alike(100, model="alike-l", **options), id="alike-l"),
    pytest.param(lambda **options: Aliked(100, model="aliked-t16", **options), id="aliked-t16"),
    pytest.param(lambda **options: SuperPoint(100, **options), id="superpoint"),
    pytest.param(lambda **options: Disk(100, **options), id="disk"),
    pytest.param(lambda **options: shallow_dedode(100, **options), id="dedode-B"),
]


@pytest.mark.parametrize("make", EXTRACTORS)
@pytest.mark.parametrize("size", [(70, 91), (1, 1)])
def test_every_tensor_is_on_the_device_of_the_network(
    make: Callable[..., Extractor], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    """On the meta device, which has shapes and no values: it refuses tensors of the CPU, and to wait for a value."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which does not know that device
    extractor = make(fixed_size=True, max_side=64).eval().to("meta")
    masks = torch.ones(2, *size, dtype=torch.bool, device="meta")
    features = extractor(torch.zeros(2, 3, *size, device="meta"), masks)
    assert features.keypoints.shape == (2, 100, 2)
    assert features.descriptors.shape == (2, 100, extractor.descriptor_dim)
    assert features.valid is not None
    assert features.valid.device == features.keypoints.device == torch.device("meta")


@pytest.mark.parametrize("make", EXTRACTORS)
def test_fixed_size_never_waits_for_a_value(make, monkeypatch):
    # As on a GPU.
    monkeypatch.setattr(selection, "_gathered", selection._everything)
    monkeypatch.setattr(selection, "_textured_everywhere", lambda images: False)
    with FakeTensorMode():
        features = make(fixed_size=True)(torch.rand(2, 3, 70, 90), torch.ones(2, 70, 90, dtype=torch.bool))
        assert features.descriptors.shape[:2] == (2, 100)


@pytest.mark.parametrize(
    "make",
    [
        *EXTRACTORS,
        pytest.param(lambda **options: Compact(100, **options), id="compact"),
        pytest.param(lambda **options: XFeat(100, **options), id="xfeat"),
    ],
)
@pytest.mark.parametrize("bound", [None, 64])
def test_nothing_is_copied_to_the_device_on_the_way(make, bound, monkeypatch):
    """Extraction with fixed sizes is recorded as a CUDA graph, which cannot hold a copy from the host."""
    extractor = make(fixed_size=True, max_side=bound)
    with torch.inference_mode():
        extractor(torch.rand(1, 3, 70, 91))  # as before a recording; what is made once is kept

    def refuse(*_, **__):
        raise AssertionError("a tensor was made from the host's values")

    for name in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, name, refuse)
    monkeypatch.setattr(torch.Tensor, "new_tensor", refuse)
    with torch.inference_mode():
        features = extractor(torch.rand(1, 3, 70, 91))
    assert features.keypoints.shape == (1, 100, 2)


@pytest.mark.parametrize("make", EXTRACTORS)
def test_half_precision_networks_give_float32_results(make, textured_image):
    extractor = make()
    if extractor.name == "dedode-B":
        randomize_dedode(extractor)
    else:
        randomize(extractor, seed=2)
    images = as_tensor(textured_image[:96, :416])
    with torch.inference_mode():
        full = extractor(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = extractor(images)
    assert_well_formed(half, 1, (96, 416), extractor.descriptor_dim, 100)
    assert int(half.counts) > 10
    # bfloat16 holds no odd number above 256: keypoints there prove that positions are not half precision.
    x = half.keypoints[0, :, 0]
    assert bool(((x > 257) & (x.round().remainder(2) == 1)).any())
    # Where both find the same keypoint, they describe it alike.
    near = torch.cdist(full.keypoints[0].double(), half.keypoints[0].double()) < 0.75
    rows, columns = near.nonzero(as_tuple=True)
    assert len(rows) > 5
    cosine = (full.descriptors[0, rows] * half.descriptors[0, columns]).sum(-1)
    assert cosine.median() > 0.97
