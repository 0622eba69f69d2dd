"""Encoding pictures: what comes out is an image file, and what cannot is one exception."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io.encoding import JPEG_LIMIT, encode_image
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.io.messages import compressed_image_message, header_message


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel_and_the_order_of_colours(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, channels), np.uint8)
    image = image[..., 0] if channels == 1 else image
    decoded = cv2.imdecode(encode_image(image, ".PNG"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, image if channels == 1 else image[..., ::-1])


def test_a_view_that_is_not_contiguous_is_encoded() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8).transpose(1, 0, 2)[:, ::-1]
    np.testing.assert_array_equal(cv2.imdecode(encode_image(image, ".png"), cv2.IMREAD_COLOR)[..., ::-1], image)


@pytest.mark.parametrize("shape", [(1, JPEG_LIMIT + 1), (JPEG_LIMIT + 1, 1)])
def test_a_jpeg_that_cannot_be_is_refused(shape: tuple[int, int], tmp_path: Path) -> None:
    image = np.zeros(shape, np.uint8)
    for attempt in (
        lambda: encode_image(image, ".jpg"),
        lambda: write_image(tmp_path / "wide.jpeg", image),
        lambda: compressed_image_message(image, header_message(0)),
    ):
        with pytest.raises(ImageError, match=f"up to {JPEG_LIMIT} a side"):
            attempt()
    assert not list(tmp_path.iterdir())
    assert encode_image(image, ".png").size


@pytest.mark.parametrize(
    "image", [np.zeros((0, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4)), np.zeros(4, np.uint8)]
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"expected an H x W x 3|is empty"):
        encode_image(image)


def test_a_suffix_that_no_encoder_has() -> None:
    with pytest.raises(ImageError, match="cannot encode image"):
        encode_image(np.zeros((4, 4), np.uint8), ".xyz")


@settings(max_examples=25, deadline=None)
@given(
    height=st.one_of(st.integers(1, 40), st.integers(60_000, 70_000)),
    width=st.integers(1, 40),
    turned=st.booleans(),
    suffix=st.sampled_from([".jpg", ".png", ".bmp", ".webp", ".tiff"]),
)
def test_any_shape_gives_a_file_of_that_shape_or_the_exception(
    height: int, width: int, turned: bool, suffix: str
) -> None:
    image = np.zeros((width, height) if turned else (height, width), np.uint8)
    try:
        data = encode_image(image, suffix)
    except ImageError:
        assert max(image.shape) > 16_383  # what WebP has; JPEG has more
        return
    decoded = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    assert decoded is not None and decoded.shape == image.shape
