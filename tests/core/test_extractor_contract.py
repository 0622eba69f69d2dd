"""What every extractor of the registry promises, tested on each with random weights.

A new extractor joins by its line in the registry. Where random weights give it no keypoints, it gets the options that
do in ``OPTIONS``; where it takes long to build or run, its name goes into ``SLOW``.
"""

from __future__ import annotations

import copy
import functools
import importlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.extractors import Extractor, create_extractor
from semantic_matcher_core.extractors.registry import BUILT_IN, accepted_options
from semantic_matcher_core.extractors.resizing import fit_long_side
from semantic_matcher_core.types import Features
from semantic_matcher_core.weights.loading import Undrawn
from tests.conftest import REPOSITORY, make_textured_image
from tests.core.extractor_checks import as_tensor, assert_well_formed, randomize, shallow_dedode

OPTIONS: dict[str, dict[str, object]] = {"dalf": {"threshold": -1e6}}
SLOW = {"dedode-B"}
# Of a class with many sizes the smallest and the largest stand for all; its own tests run each against a reference.
# DeDoDe-G differs from B by its descriptors alone and takes four minutes here; its own tests hold it against kornia's.
SMALLEST, LARGEST = ("alike-t", "aliked-t16", "edgepoint2-t32"), ("alike-l", "aliked-n32", "edgepoint2-e64")
NAMES = [
    n
    for n in BUILT_IN
    if n != "dedode-G" and (n in SMALLEST + LARGEST or not n.startswith(("alike-", "aliked-", "edgepoint2-")))
]
# Those with the most memory and time.
HUGE = [n for n in NAMES if n not in SMALLEST]
# Seen at a quarter of their default side, they may take a sixteenth of what is not the image's own: memory goes with
# the pixels, and so does the time, of which they take the most.
QUARTERED = {"superpoint": 512, "alike-l": 512, "aliked-n32": 512, "disk": 512, "dedode-B": 320}
# They resize to multiples of their stride where others pad.
RESIZING = ("xfeat", "edgepoint2")
# Most that one image of 12 megapixels may take beside what was there before.
HUGE_LIMIT_MIB = 6 * 1024
# The image as float32.
IMAGE_MIB = 4 * 3 * 4000 * 3000 / 2**20
# They enlarge maps corner to corner, so what they see of a picture depends a little on where it is: with random
# weights, that is too much to call their keypoints the same.
STRETCHING = ("dalf", "alike")
LIMIT = 400
WRONG: dict[str, tuple[object, ...]] = {
    "max_keypoints": (0, True),
    "max_side": (0, 1.5),
    "nms_radius": (-1, 1.5, True),
    "remove_borders": (-1,),
    "detection_threshold": (float("nan"),),
    **dict.fromkeys(("border", "model", "descriptor", "mode"), ("no such",)),
}


@functools.lru_cache(maxsize=2)
def build(name: str, seed: int = 0, *, whole: bool = False) -> Extractor:
    """The extractor with weights that depend on nothing but the seed.

    Args:
        name: in the registry.
        seed: of the weights.
        whole: with all layers, for its memory.
    """
    entry = BUILT_IN[name]
    factory = getattr(importlib.import_module(f"semantic_matcher_core.extractors.{entry.module}"), entry.factory)
    options = {**entry.options, **OPTIONS.get(name, {})}
    if "detection_threshold" in accepted_options(name):
        options["detection_threshold"] = 0.0
    if name == "dedode-B" and not whole:
        factory = shallow_dedode  # a tenth of the time; its own tests hold all of it against kornia's
    with Undrawn():
        extractor = factory(max_keypoints=LIMIT, **options)
    randomize(extractor, seed)
    return extractor.eval().requires_grad_(False)


def marked(names) -> list:
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


@pytest.fixture(scope="module", params=marked(NAMES))  # so that all tests of one extractor run one after another
def extractor(request) -> Extractor:
    return build(request.param)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return make_textured_image(93, 126, 4)


def assert_alike(features: Features, expected: Features) -> None:
    """One image's features, computed with other images or alone.

    Scores that differ in the last bit may swap places, also with the first one that is left out.
    """
    assert features.keypoints.shape == expected.keypoints.shape
    torch.testing.assert_close(features.scores, expected.scores, atol=1e-5, rtol=1e-4)
    assert min(found_share(features, expected), found_share(expected, features)) >= 0.99


def assert_same(features: Features, expected: Features) -> None:
    for name in ("keypoints", "scores", "descriptors"):
        assert torch.equal(getattr(features, name), getattr(expected, name)), name
    assert (features.valid is None) == (expected.valid is None)
    if features.valid is not None:
        assert torch.equal(features.valid, expected.valid)


def found_share(
    features: Features,
    expected: Features,
    shift: tuple[float, float] = (0.0, 0.0),
    *,
    pixels: float = 0.05,
    cosine: float = 0.999,
) -> float:
    """Share of one image's expected keypoints that are there, moved by ``shift``, with the same descriptor."""
    if expected.keypoints.shape[1] == 0:
        return 1.0
    distance = torch.cdist(features.keypoints[0].double(), expected.keypoints[0].double() + torch.tensor(shift))
    similarity = features.descriptors[0] @ expected.descriptors[0].T
    return ((distance < pixels) & (similarity > cosine)).any(dim=0).float().mean().item()


def test_names_and_dimensions(extractor, picture):
    features = extractor.extract(picture)
    assert_well_formed(features, 1, (93, 126), extractor.descriptor_dim, LIMIT)
    assert features.valid is None
    assert features.keypoints.shape[1] > 20


@pytest.mark.parametrize("name", {entry.module: name for name, entry in BUILT_IN.items()}.values())
def test_wrong_options_are_refused_by_name_and_value(name):
    entry = BUILT_IN[name]
    factory = getattr(importlib.import_module(f"semantic_matcher_core.extractors.{entry.module}"), entry.factory)
    for option in WRONG.keys() & (accepted_options(name) | {"max_keypoints"}):
        for value in WRONG[option]:
            with pytest.raises(ConfigError, match=f"{option}.*{value!r}"):
                factory(**{option: value})


def test_a_batch_equals_its_images(extractor, picture):
    pictures = np.stack([picture, np.zeros_like(picture), make_textured_image(93, 126, 5) // 4 + 90])
    batch = extractor.extract(pictures)
    assert_well_formed(batch, 3, (93, 126), extractor.descriptor_dim, LIMIT)
    for image, features in zip(pictures, batch, strict=True):
        single = extractor.extract(image)
        assert_alike(features, single)


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (1, 40), (40, 1), (33, 7), (8, 8)])
@pytest.mark.parametrize("texture", [True, False])
def test_tiny_and_black_images(extractor, size, texture):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*size, 3), dtype=np.uint8) if texture else np.zeros((*size, 3), np.uint8)
    assert_well_formed(extractor.extract(image), 1, size, extractor.descriptor_dim, LIMIT)


@pytest.mark.parametrize("value", [0, 255])
def test_flat_images(extractor, value):
    image = np.full((64, 96), value, np.uint8)
    features = extractor.extract(image)
    assert_well_formed(features, 1, (64, 96), extractor.descriptor_dim, LIMIT)
    if getattr(extractor, "finds_in_flat", False):
        assert features.keypoints.shape[1] == 0


def test_grey_is_colour_with_equal_channels(extractor, picture):
    grey = picture[..., 1]
    assert_same(extractor.extract(grey), extractor.extract(np.repeat(grey[..., None], 3, axis=2)))


def test_views_equal_their_copies(extractor, picture):
    for view in (picture[:, ::-1], picture[::2], picture.transpose(1, 0, 2), picture[..., ::-1]):
        assert_same(extractor.extract(view), extractor.extract(np.ascontiguousarray(view)))
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    assert not tensor.is_contiguous()
    expected = extractor.extract(tensor.contiguous())
    # Memory layout decides which convolution kernel runs, and so the last bits.
    assert found_share(extractor.extract(tensor), expected) > 0.98


def test_the_same_again(extractor, picture):
    expected = extractor.extract(picture)
    assert_same(extractor.extract(picture), expected)
    assert_same(copy.deepcopy(extractor).extract(picture), expected)
    # 2 is the protocol of torch.save.
    assert_same(pickle.loads(pickle.dumps(extractor, 2)).extract(picture), expected)


def test_mask(extractor, picture):
    everything = extractor.extract(picture)
    assert_same(extractor.extract(picture, np.ones(picture.shape[:2], np.uint8)), everything)
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[:, :60] = 255
    masked = extractor.extract(picture, mask)
    assert masked.keypoints.shape[1] > 0
    # Also those that were refined over its border after the detector had read the mask.
    assert masked.keypoints[..., 0].max() <= 59.5
    assert_well_formed(masked, 1, (93, 126), extractor.descriptor_dim, LIMIT)


def test_masks_of_a_batch_are_its_images_own(extractor, picture):
    images = as_tensor(picture, picture)
    masks = torch.zeros(2, *picture.shape[:2])
    masks[0, :, :60] = 1
    batch = extractor.extract(images, masks)
    assert batch.counts[0] > 0
    assert batch.counts[1] == 0
    single = extractor.extract(picture, masks[0].numpy())
    assert_alike(batch[0], single)


def test_no_keypoint(extractor, picture):
    features = extractor.extract(picture, np.zeros(picture.shape[:2], np.uint8))
    assert_well_formed(features, 1, (93, 126), extractor.descriptor_dim, LIMIT)
    assert features.keypoints.shape == (1, 0, 2)
    assert features.descriptors.shape == (1, 0, extractor.descriptor_dim)
    keypoints, descriptors = extractor.detectAndCompute(picture, np.zeros(picture.shape[:2], np.uint8))
    assert list(keypoints) == []
    assert descriptors.shape == (0, extractor.descriptor_dim)


def test_exactly_one_keypoint(extractor, picture, monkeypatch):
    everything = extractor.extract(picture)
    monkeypatch.setattr(extractor, "max_keypoints", 1)
    one = extractor.extract(picture)
    assert_well_formed(one, 1, (93, 126), extractor.descriptor_dim, 1)
    assert one.keypoints.shape[1] == 1
    assert found_share(everything, one) == 1
    batch = extractor.extract(np.stack([picture, picture[::-1]]))
    assert batch.counts.tolist() == [1, 1]


def test_fewer_keypoints_are_some_of_more(extractor, picture, monkeypatch):
    everything = extractor.extract(picture)
    fewer = everything.keypoints.shape[1] // 2
    monkeypatch.setattr(extractor, "max_keypoints", fewer)
    some = extractor.extract(picture)
    assert some.keypoints.shape[1] == fewer
    assert found_share(everything, some) > 0.99


def shifted_share(extractor: Extractor, canvas: tuple[int, int], step: int, *, pixels: float, cosine: float) -> float:
    """How many keypoints of a picture on a flat ground come again when it moves by whole pixels, up and to the right.

    Args:
        canvas: (height, width) of the ground.
        step: a multiple of every network's stride, in pixels of the image that the network sees.
    """
    patch = make_textured_image(128, 128, 6)
    images = np.full((2, *canvas, 3), 110, np.uint8)
    inside = np.zeros((2, *canvas), np.uint8)
    for i, (top, left) in enumerate([(192, 160), (192 - step, 160 + step)]):
        images[i, top : top + 128, left : left + 128] = patch
        inside[i, top + 8 : top + 120, left + 8 : left + 120] = 1
    first, second = (extractor.extract(images[i], inside[i]) for i in (0, 1))
    assert first.keypoints.shape[1] > 20
    return found_share(second, first, (step, -step), pixels=pixels, cosine=cosine)


# What happens to an image before a network sees it: the canvas, the bound of its long side, and the step.
SEEN: dict[str, tuple[tuple[int, int], int | None, int]] = {
    "as it is": ((512, 512), None, 32),
    "padded": ((501, 531), None, 32),
    "smaller": ((512, 512), 256, 64),
}


def set_max_side(extractor: Extractor, bound: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if bound is not None:
        assert "max_side" in accepted_options(extractor.name)
        monkeypatch.setattr(extractor, "max_side", bound)


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("name", marked(n for n in NAMES if not n.startswith(STRETCHING)))
def test_keypoints_move_with_the_image(name, seen, monkeypatch):
    if name in SLOW and seen != "smaller":
        pytest.skip("the same network at half the size shows it in a quarter of the time")
    if name.startswith(RESIZING) and seen == "padded":
        # Whole pixels of a canvas that is resized to multiples of 32 are no whole pixels of what the network sees.
        # That keypoints come back with pixel centres kept is tested in test_xfeat.py and
        # test_edgepoint2.py.
        pytest.skip("it resizes where others pad")
    canvas, bound, step = SEEN[seen]
    extractor = build(name, whole=name in SLOW)
    set_max_side(extractor, bound, monkeypatch)
    assert shifted_share(extractor, canvas, step, pixels=0.5, cosine=0.99) > 0.95


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("xfeat", *STRETCHING))])
def test_keypoints_move_with_the_image_with_published_weights(name, seen, shared, monkeypatch):
    if (name, seen) == ("xfeat", "padded"):
        pytest.skip("XFeat resizes where others pad")
    if (name, seen) == ("dalf", "smaller"):
        # With half as many cells it moves by one or two of the pixels that the network sees: four of the image.
        # What comes of the bound is tested in test_dalf.py.
        pytest.skip("DALF's stretching is too coarse for a small image")
    extractor = create_extractor(name, LIMIT, weights=shared / "weights", device="cpu")
    canvas, bound, step = SEEN[seen]
    set_max_side(extractor, bound, monkeypatch)
    # DALF's decoder stretches its map at several sizes, and its keypoints are whole pixels.
    pixels, cosine = (2.0, 0.5) if name == "dalf" else (0.5, 0.95)
    assert shifted_share(extractor, canvas, step, pixels=pixels, cosine=cosine) > 0.85


def test_bounded_side_is_the_image_made_smaller_first(extractor, monkeypatch):
    images = as_tensor(make_textured_image(192, 256, 8))
    smaller, _ = fit_long_side(images, None, 128)
    assert smaller.shape[-2:] == (96, 128)
    expected = extractor.extract(smaller)
    set_max_side(extractor, 128, monkeypatch)
    features = extractor.extract(images)
    assert features.image_size == (192, 256)
    assert expected.keypoints.shape[1] > 20
    torch.testing.assert_close(features.keypoints, (expected.keypoints + 0.5) * 2 - 0.5)
    torch.testing.assert_close(features.scores, expected.scores)
    torch.testing.assert_close(features.descriptors, expected.descriptors)


def test_opencv_calling_convention(extractor, picture):
    features = extractor.extract(picture)
    keypoints, descriptors = extractor.detectAndCompute(picture, None)
    assert descriptors.dtype == np.float32
    np.testing.assert_array_equal(descriptors, features.descriptors[0])
    assert len(keypoints) > 20
    np.testing.assert_allclose([k.pt for k in keypoints], features.keypoints[0], atol=0)
    np.testing.assert_allclose([k.response for k in keypoints], features.scores[0], atol=0)
    with pytest.raises(ImageError, match="takes one image, got a batch of 2"):
        extractor.detectAndCompute(np.stack([picture, picture])[:, :32, :48], None)
    _, same = extractor.detectAndCompute(torch.from_numpy(picture).permute(2, 0, 1))
    np.testing.assert_allclose(same, descriptors, atol=1e-5)


@pytest.fixture(scope="module")
def peaks() -> dict[str, dict[str, float]]:
    """Memory of each extractor for 4000 x 3000 pixels."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.huge_image", *HUGE],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    print(done.stderr)
    return {peak["name"]: peak for peak in map(json.loads, done.stdout.splitlines())}


@pytest.mark.slow
@pytest.mark.xdist_group("huge images")
@pytest.mark.parametrize("name", HUGE)
def test_huge_image(name, peaks):
    assert name in peaks, "it failed; its words are those of the fixture"
    peak = peaks[name]
    print(f"{name}: {peak['extra_mib']:.0f} MiB for the image, {peak['peak_mib']:.0f} MiB of the process at most")
    assert peak["keypoints"] == LIMIT
    assert peak["extra_mib"] < IMAGE_MIB + (HUGE_LIMIT_MIB - IMAGE_MIB) / (16 if name in QUARTERED else 1)
