"""Images and masks as callers have them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.inputs import as_image_batch, as_mask_batch, as_picture
from semantic_matcher_core.io.images import write_image


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_colour_array(picture):
    batch = as_image_batch(picture)
    assert batch.shape == (1, 3, 5, 7)
    assert batch.dtype == torch.float32
    assert torch.equal(batch[0, :, 2, 4] * 255, torch.from_numpy(picture[2, 4]).float())
    assert batch.is_contiguous()


def test_grey_array_becomes_three_equal_channels(picture):
    grey = picture[..., 0]
    batch = as_image_batch(grey)
    assert batch.shape == (1, 3, 5, 7)
    for channel in batch[0]:
        assert torch.equal(channel, torch.from_numpy(grey) / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_batched_array(picture, channels):
    batch = as_image_batch(np.stack([picture, 255 - picture])[..., :channels])
    assert batch.shape == (2, 3, 5, 7)
    assert torch.allclose(batch[0] + batch[1], torch.ones(3, 5, 7))


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, ::-1],
        lambda a: a[::2, ::3],
        lambda a: a.transpose(1, 0, 2),
        lambda a: a[..., ::-1],
        np.asfortranarray,
    ],
)
def test_arrays_of_any_stride(picture, view):
    assert torch.equal(as_image_batch(view(picture)), as_image_batch(np.ascontiguousarray(view(picture))))


@pytest.mark.filterwarnings("error")
def test_read_only_arrays(picture):
    picture.flags.writeable = False
    before = picture.copy()
    images = as_image_batch(picture)
    as_mask_batch(picture[..., 0], images)
    images.mul_(2)
    assert np.array_equal(picture, before)


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 5, 7), (1, 5, 7), (2, 1, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_tensors(shape, dtype):
    tensor = torch.rand(shape).to(dtype)
    batch = as_image_batch(tensor)
    expected = tensor.float() if tensor.ndim == 4 else tensor.float()[None]
    assert batch.dtype == torch.float32
    assert torch.equal(batch, expected.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 5, 7), (2, 1, 5, 7)])
def test_uint8_tensors(shape):
    tensor = torch.randint(256, shape, dtype=torch.uint8)
    assert torch.equal(as_image_batch(tensor), as_image_batch(tensor.float() / 255))


def test_files(picture, tmp_path):
    write_image(tmp_path / "picture.png", picture)
    for path in (tmp_path / "picture.png", str(tmp_path / "picture.png")):
        assert torch.equal(as_image_batch(path), as_image_batch(picture))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ">f4"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 1), (2, 5, 7, 3)])
def test_float_arrays_lie_in_0_to_1(dtype, shape):
    eight = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    batch = as_image_batch((eight / 255).astype(dtype))
    assert torch.allclose(batch, as_image_batch(eight), atol=1e-3 if dtype == np.float16 else 1e-6)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "1", "F", "I;16"])
def test_pil_images_of_any_mode(picture, mode):
    pil = pytest.importorskip("PIL.Image")
    if mode == "F":
        image, expected = pil.fromarray(picture[..., 0].astype(np.float32) / 255), picture[..., 0]
    elif mode == "I;16":
        image, expected = pil.fromarray(picture[..., 0].astype(np.uint16) << 8), picture[..., 0]
    elif mode == "RGBA":
        image, expected = pil.fromarray(np.dstack([picture, picture[..., :1]])), picture
    elif mode == "LA":
        image, expected = pil.fromarray(picture[..., 0]).convert("LA"), picture[..., 0]
    else:
        image = pil.fromarray(picture).convert(mode)
        expected = np.asarray(image.convert("RGB"))
    assert image.mode == mode
    assert torch.allclose(as_image_batch(image), as_image_batch(expected), atol=1e-6)
    assert np.array_equal(as_picture(image), as_picture(expected))


def test_a_pil_image_is_taken_as_its_pixels_lie_and_a_path_upright(picture, tmp_path):
    pil = pytest.importorskip("PIL.Image")
    exif = pil.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    pil.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    with pil.open(tmp_path / "turned.png") as opened:
        assert as_image_batch(opened).shape == (1, 3, 5, 7)
    assert as_image_batch(tmp_path / "turned.png").shape == (1, 3, 7, 5)
    with pytest.raises(ImageError, match="mode I"):
        as_image_batch(pil.fromarray(picture[..., 0].astype(np.int32)))


def test_a_pil_mask(picture):
    pil = pytest.importorskip("PIL.Image")
    mask = pil.fromarray(np.eye(5, 7, dtype=np.uint8) * 255)
    assert as_mask_batch(mask, as_image_batch(picture)).sum() == 5


def test_a_picture_of_anything(picture, tmp_path):
    write_image(tmp_path / "picture.png", picture)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    for image in (picture, tensor, tensor / 255, picture / 255, tmp_path / "picture.png"):
        assert np.array_equal(as_picture(image), picture)
    with pytest.raises(ImageError, match="a batch of 2"):
        as_picture(np.stack([picture, picture]))


def test_values_may_overshoot_by_one_step_of_8_bits():
    assert as_image_batch(torch.full((3, 2, 2), 1 + 0.9 / 255)).max() > 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[0, 1]], "got several; stack images"),
        (None, "a path, got NoneType"),
        (np.full((4, 4, 3), 255.0, np.float32), "divide 8-bit values by 255"),
        (np.full((4, 4), np.nan), r"in \[0, 1\], got nan … nan; replace NaN"),
        (np.zeros((4, 4, 3), np.uint16), "must be uint8, or floating point.*got uint16; divide by"),
        (np.zeros((4, 4, 3), bool), r"got bool; image \* 1.0"),
        (np.zeros((3, 4, 5), np.float32), r"channels come last in arrays: image.transpose\(1, 2, 0\)"),
        (np.zeros((4, 4, 2), np.uint8), r"got \(4, 4, 2\)"),
        (np.zeros((4, 4, 4), np.uint8), r"got \(4, 4, 4\); leave out alpha"),
        (np.zeros(4, np.uint8), r"got \(4,\)"),
        (np.array(4, np.uint8), r"got \(\)"),
        (io.BytesIO(), "got BytesIO; PIL.Image.open"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((4, 0), np.uint8), "empty"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "uint8 or floating point in"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"got \(4, 4, 3\); channels .*permute\(2, 0, 1\)"),
        (torch.zeros(2, 5, 4, 3), r"got \(2, 5, 4, 3\); channels .*permute\(0, 3, 1, 2\)"),
        (torch.zeros(4, 6, 5), r"got \(4, 6, 5\); leave out alpha"),
        ("no such file.png", "no such image file"),
        (torch.zeros(4, 4), r"got \(4, 4\); a grey image is image\[None\]"),
        (torch.zeros(1, 2, 4, 4), r"got \(1, 2, 4, 4\)"),
        (torch.zeros(1, 3, 0, 4), "empty"),
        (torch.zeros(0, 3, 4, 4), "empty"),
        (torch.full((3, 4, 4), 255.0), "divide 8-bit values by 255"),
        (torch.full((3, 4, 4), -0.5), r"in \[0, 1\].*; undo its normalisation"),
        (torch.full((3, 4, 4), float("nan")), r"in \[0, 1\]"),
        (torch.full((3, 4, 4), float("inf")), r"in \[0, 1\].*; replace NaN and infinities"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ImageError, match=message):
        as_image_batch(image)


def test_one_bad_value_among_good_ones_is_found():
    image = torch.rand(3, 40, 40)
    image[1, 20, 20] = float("nan")
    with pytest.raises(ImageError):
        as_image_batch(image)


def test_mask_of_one_image_serves_the_whole_batch():
    images = torch.zeros(3, 3, 4, 5)
    mask = np.zeros((4, 5), np.uint8)
    mask[1, 2] = 255
    masks = as_mask_batch(mask, images)
    assert masks.shape == (3, 4, 5)
    assert masks.dtype == torch.bool
    assert masks.nonzero().tolist() == [[b, 1, 2] for b in range(3)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, ">i4", np.float32, bool, object])
def test_masks_of_any_type_count_as_wanted_where_not_zero(dtype):
    mask = np.arange(20).reshape(4, 5).astype(dtype)
    expected = torch.ones(1, 4, 5, dtype=torch.bool)
    expected[0, 0, 0] = False
    assert torch.equal(as_mask_batch(mask, torch.zeros(1, 3, 4, 5)), expected)


def test_mask_may_be_a_view_or_a_tensor():
    mask = np.arange(20).reshape(4, 5)[:, ::-1] % 2
    images = torch.zeros(1, 3, 4, 5)
    assert torch.equal(as_mask_batch(mask, images), as_mask_batch(torch.from_numpy(mask.copy()), images))


@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 5), (1, 1, 4, 5), (4,)])
def test_mask_of_another_size_is_refused(shape):
    with pytest.raises(ImageError, match=r"expected height x width \(4, 5\)"):
        as_mask_batch(np.ones(shape, np.uint8), torch.zeros(3, 3, 4, 5))


@pytest.mark.parametrize("mask", ["mask.png", Path("mask.png")])
def test_a_mask_is_no_path(mask):
    with pytest.raises(ImageError, match=r"must be an array or a tensor, got .*mask.png'.*read_mask"):
        as_mask_batch(mask, torch.zeros(1, 3, 4, 5))


def test_pil_images_that_cannot_be_read(tmp_path, picture):
    write_image(tmp_path / "whole.png", np.tile(picture, (20, 20, 1)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-400])
    with pytest.raises(ImageError, match=r"PIL image cannot be read: .*truncated"):
        as_image_batch(Image.open(tmp_path / "cut.png"))


@pytest.mark.parametrize("mode", ["La", "RGBa", "LA", "PA", "CMYK", "LAB", "I;16", "1"])
def test_pil_images_of_every_mode(mode):
    assert as_image_batch(Image.new(mode, (7, 5))).shape == (1, 3, 5, 7)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_without_values_are_refused():
    with pytest.raises(ImageError, match="on the meta device, without values"):
        as_image_batch(torch.zeros(3, 5, 7, device="meta"))
    for shape in ((3, 5, 7), (1, 3, 5, 7)):
        with pytest.raises(ImageError, match=r"dense, with values; this one is of layout torch.sparse_coo"):
            as_image_batch(torch.zeros(shape).to_sparse())
    with pytest.raises(ImageError, match="this one is nested"):
        as_image_batch(torch.nested.nested_tensor([torch.zeros(3, 5, 7)]))
