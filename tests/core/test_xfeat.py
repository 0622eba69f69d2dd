"""XFeat against kornia with random weights, and against the published implementation's results."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors import selection
from semantic_matcher_core.extractors.xfeat import XFeat, detection_heat_map
from semantic_matcher_core.extractors.xfeat_network import XFeatNetwork


@pytest.fixture
def random_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return XFeatNetwork().state_dict()


@pytest.fixture(scope="module")
def published_weights(shared: Path) -> dict[str, torch.Tensor]:
    return torch.load(shared / "weights" / "xfeat.pt", map_location="cpu", weights_only=True)


def build(state: dict[str, torch.Tensor], *options, **named) -> XFeat:
    extractor = XFeat(*options, **named)
    extractor.load_state_dict(XFeat.convert_state_dict(state), strict=True)
    return extractor


def kornia(state: dict[str, torch.Tensor], count: int, threshold: float) -> torch.nn.Module:
    xfeat = pytest.importorskip("kornia.feature.xfeat", reason="kornia has XFeat from 0.8.3 and Python 3.11 on")
    model = xfeat.XFeat(top_k=count, detection_threshold=threshold)
    model.net.load_state_dict(state)
    return model.eval()


def read(shared: Path, name: str) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(shared / "golden" / name)), cv2.COLOR_BGR2RGB)


def pixels(keypoints: torch.Tensor | np.ndarray) -> set[tuple[int, int]]:
    array = np.asarray(keypoints)
    assert np.array_equal(array, np.rint(array))
    return set(map(tuple, array.astype(int).tolist()))


def by_place(keypoints, scores, descriptors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows by (y, x): which of two scores that differ in the last bit comes first depends on the number of threads."""
    rows = [np.asarray(t) for t in (keypoints, scores, descriptors)]
    order = np.lexsort(np.rint(rows[0]).T)
    return rows[0][order], rows[1][order], rows[2][order]


@pytest.mark.parametrize(("height", "width"), [(96, 128), (101, 157), (64, 33), (20, 40)])
def test_equals_kornia_with_its_border(random_weights, textured, height, width):
    """Batch of two, sizes that are resized and sizes that are not; every keypoint, score and descriptor."""
    images = torch.stack([torch.from_numpy(textured(height, width, seed)).permute(2, 0, 1) / 255 for seed in (1, 2)])
    with torch.inference_mode():
        ours = build(random_weights, 4000, detection_threshold=0.0, border="valid")(images)
    theirs = kornia(random_weights, 4000, 0.0).detectAndCompute(images)
    scale = np.array([width / max(32, width // 32 * 32), height / max(32, height // 32 * 32)])
    for image, expected in zip(ours, theirs, strict=True):
        integers = (image.keypoints[0].numpy() + 0.5) / scale - 0.5
        mine = by_place(integers, image.scores[0], image.descriptors[0])
        reference = by_place(
            expected["keypoints"] / torch.from_numpy(scale), expected["scores"], expected["descriptors"]
        )
        assert len(mine[0]) == len(reference[0]) > 5
        for a, b, tolerance in zip(mine, reference, (1e-4, 1e-6, 1e-5), strict=True):
            np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)
    assert ours.image_size == (height, width)


def test_clipped_border_adds_the_border_strip_only(random_weights, textured):
    images = torch.from_numpy(textured(96, 128)).permute(2, 0, 1)[None] / 255
    clipped, valid = (
        pixels(build(random_weights, 10**5, detection_threshold=0.0, border=border)(images).keypoints[0])
        for border in ("clipped", "valid")
    )
    assert valid < clipped
    assert all(x < 2 or y < 2 or x > 125 or y > 93 for x, y in clipped - valid)
    # As published: never the first pixel, the last row or the last column.
    assert all((x, y) != (0, 0) and x < 127 and y < 95 for x, y in clipped)


def test_heat_map_puts_each_channel_at_its_pixel():
    logits = torch.randn(2, 65, 3, 5)
    heat_map = detection_heat_map(logits)
    probabilities = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    assert heat_map.shape == (2, 24, 40)
    for y, x in ((0, 0), (7, 8), (13, 21), (23, 39)):
        expected = probabilities[:, (y % 8) * 8 + x % 8, y // 8, x // 8]
        torch.testing.assert_close(heat_map[:, y, x], expected)


def test_detection_threshold(random_weights, textured):
    image = textured(96, 128)
    everything = build(random_weights, 10**5, detection_threshold=0.0)
    images = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        heat_map = detection_heat_map(everything.net(images)[1])[0]
    threshold = float(heat_map.quantile(0.99))
    selected = build(random_weights, 10**5, detection_threshold=threshold)
    chosen = pixels(selected.extract(image).keypoints[0])
    expected = {(x, y) for x, y in pixels(everything.extract(image).keypoints[0]) if heat_map[y, x] > threshold}
    assert chosen == expected
    assert 0 < len(chosen) < everything.extract(image).keypoints.shape[1]


def test_fixed_size_pads_and_changes_nothing_else(random_weights, textured):
    images = torch.from_numpy(textured(64, 64)).permute(2, 0, 1)[None] / 255
    free = build(random_weights, 2000, detection_threshold=0.0)(images)
    padded = build(random_weights, 2000, detection_threshold=0.0, fixed_size=True)(images)
    count = free.keypoints.shape[1]
    assert padded.keypoints.shape == (1, 2000, 2)
    assert padded.counts.tolist() == [count]
    for name in ("keypoints", "scores", "descriptors"):
        assert torch.equal(getattr(padded, name)[:, :count], getattr(free, name))
        assert getattr(padded, name)[:, count:].eq(0).all()


def test_fixed_size_never_waits_for_the_device(monkeypatch):
    """Fake tensors have no values: a synchronisation with the host, to read one, raises."""
    monkeypatch.setattr(selection, "_gathered", selection._everything)  # as on a GPU
    with FakeTensorMode():
        images, masks = torch.rand(2, 3, 70, 90), torch.ones(2, 70, 90, dtype=torch.bool)
        features = XFeat(100, fixed_size=True)(images, masks)
        assert features.descriptors.shape == (2, 100, 64)
        with pytest.raises(DataDependentOutputException):
            XFeat(100)(images, masks)


def test_half_precision_selects_in_float32(random_weights, textured_image):
    extractor = build(random_weights, 500, detection_threshold=0.0)
    images = torch.from_numpy(textured_image.copy()).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        full = extractor(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = extractor(images)
    assert half.keypoints.dtype == half.scores.dtype == half.descriptors.dtype == torch.float32
    pixels(half.keypoints[0])  # whole pixels, which bfloat16 cannot hold beyond 256
    assert half.keypoints[..., 0].max() > 256
    torch.testing.assert_close(half.descriptors.norm(dim=-1), torch.ones(1, 500))
    assert (half.scores.diff() <= 0).all()
    # The positions are those of a half-precision network, the sampling is not: where both agree, so do descriptors.
    both = (full.keypoints[0][:, None] == half.keypoints[0][None]).all(dim=-1).nonzero()
    assert len(both) > 100
    cosine = F.cosine_similarity(full.descriptors[0, both[:, 0]], half.descriptors[0, both[:, 1]])
    assert cosine.median() > 0.99


def test_evaluates_as_built(textured):
    """An extractor that was never told .eval() must not let one image of a batch change another."""
    torch.manual_seed(0)
    extractor = XFeat(50, detection_threshold=0.0)
    pictures = np.stack([textured(64, 64, 1), textured(64, 64, 2) // 3])
    batch, single = extractor.extract(pictures), extractor.extract(pictures[0])
    assert torch.equal(batch[0].keypoints, single.keypoints)


def test_state_dict_of_this_module_loads_as_well(random_weights):
    extractor = build(random_weights)
    assert XFeat.convert_state_dict(extractor.state_dict()).keys() == extractor.state_dict().keys()


@pytest.mark.parametrize(
    "options",
    [
        {"detection_threshold": -0.1},
        {"detection_threshold": 1.0},
        {"detection_threshold": float("nan")},
        {"nms_radius": -1},
        {"nms_radius": 1.5},
        {"border": "kornia"},
        {"max_side": 0},
        {"max_keypoints": 0},
        {"max_keypoints": True},
    ],
)
def test_wrong_options_are_refused(options):
    ((option, value),) = options.items()
    with pytest.raises(ConfigError, match=rf"{option}.*{value!r}"):
        XFeat(**options)


@pytest.mark.parametrize(("file", "threshold"), [("xfeat_th0.npz", 0.0), ("xfeat_th0.05.npz", 0.05)])
@pytest.mark.parametrize("image", ["ref", "tgt"])
def test_equals_the_published_implementation(shared, published_weights, file, threshold, image):
    golden = np.load(shared / "golden" / file)
    extractor = build(published_weights, 1024, detection_threshold=threshold)
    features = extractor.extract(read(shared, f"xfeat_{image}_640x480.png"))
    mine = by_place(features.keypoints[0], features.scores[0], features.descriptors[0])
    published = by_place(*(golden[f"{image}_{name}"] for name in ("keypoints", "scores", "descriptors")))
    assert np.array_equal(mine[0], published[0])
    np.testing.assert_allclose(mine[1], published[1], atol=1e-5, rtol=0)
    np.testing.assert_allclose(mine[2], published[2], atol=1e-4, rtol=0)
    np.testing.assert_allclose(features.scores[0], golden[f"{image}_scores"], atol=1e-5, rtol=0)  # in order


@pytest.mark.parametrize(("threshold", "name"), [(0.05, "th005"), (0.0, "th0")])
def test_every_keypoint_of_the_published_implementation(shared, published_weights, threshold, name):
    golden = np.load(shared / "golden" / "xfeat_all_ref.npz")
    image = read(shared, "xfeat_ref_640x480.png")
    features = build(published_weights, 8192, detection_threshold=threshold).extract(image)
    assert pixels(features.keypoints[0]) == pixels(golden[f"{name}_keypoints"])
    np.testing.assert_allclose(features.scores[0], golden[f"{name}_scores"], atol=1e-5, rtol=0)


def test_share_of_keypoints_that_the_strict_border_leaves_out(shared, published_weights):
    golden = pixels(np.load(shared / "golden" / "xfeat_all_ref.npz")["th005_keypoints"])
    extractor = build(published_weights, 8192, border="valid")
    strict = pixels(extractor.extract(read(shared, "xfeat_ref_640x480.png")).keypoints[0])
    assert strict < golden
    assert all(x < 2 or y < 2 or x > 637 or y > 477 for x, y in golden - strict)
    assert len(golden - strict) / len(golden) == pytest.approx(0.017, abs=0.0005)  # 128 of 7510


def test_dense_maps_equal_the_published_network(shared, published_weights):
    golden = np.load(shared / "golden" / "xfeat_dense_ref.npz")
    images = torch.from_numpy(read(shared, "xfeat_ref_640x480.png")).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        maps, logits, reliability = build(published_weights).net(images)
    # Stored in half precision: 11 bits.
    np.testing.assert_allclose(maps[..., ::2, ::2], golden["feats"].astype(np.float32), atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(logits[..., ::2, ::2], golden["logits"].astype(np.float32), atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(reliability, golden["heatmap"], atol=1e-5)


def test_odd_size_differs_from_the_published_one_by_its_pixel_convention_only(shared, published_weights):
    """Published: whole pixels of the resized image times the scale. Ours: pixel centres kept."""
    golden = np.load(shared / "golden" / "xfeat_odd_630x470.npz")
    features = build(published_weights, 512).extract(read(shared, "xfeat_ref_640x480.png")[:470, :630])
    scale = np.array([630 / 608, 470 / 448])
    mine = by_place(features.keypoints[0], features.scores[0], features.descriptors[0])
    published = by_place(golden["keypoints"], golden["scores"], golden["descriptors"])
    integers = np.rint(published[0] / scale)
    np.testing.assert_allclose(published[0], integers * scale, atol=1e-4, rtol=0)
    np.testing.assert_allclose(mine[0], (integers + 0.5) * scale - 0.5, atol=1e-4, rtol=0)
    # So the published keypoints lie this much too far up and left.
    np.testing.assert_allclose((mine[0] - published[0]).mean(axis=0), (scale - 1) / 2, atol=1e-4)
    np.testing.assert_allclose(mine[1], published[1], atol=1e-5, rtol=0)
    np.testing.assert_allclose(mine[2], published[2], atol=1e-4, rtol=0)
