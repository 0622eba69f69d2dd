"""Pixels to the bytes of an image file: one encoder, whose failures are one exception."""

from __future__ import annotations

import cv2
import numpy as np

from semantic_matcher_core.errors import ImageError

JPEG_LIMIT = 65500
"""Pixels that either side of a JPEG may have, as libjpeg builds it."""


def encode_image(image: np.ndarray, suffix: str = ".jpg", *, jpeg_quality: int = 95, name: str = "image") -> np.ndarray:
    """Encode an image in the format of a file suffix.

    Args:
        image: ``H x W x 3`` RGB or ``H x W`` grey, uint8.
        suffix: of the format, with its dot.
        jpeg_quality: 1 to 100; of JPEG alone.
        name: what errors call it.

    Returns:
        ``N`` uint8, the bytes of the file.

    Raises:
        ImageError: the array is no such image or empty, or the format cannot hold it, a JPEG of more than 65500 pixels
            a side for example.
    """
    check_pixels(image)
    if 0 in image.shape:
        raise ImageError(f"the image is empty: {image.shape}")
    suffix = suffix.lower()
    is_jpeg = suffix in (".jpg", ".jpeg")
    if is_jpeg and max(image.shape[:2]) > JPEG_LIMIT:
        raise ImageError(
            f"cannot encode {name}: {image.shape[1]} x {image.shape[0]} pixels, and a JPEG has up to {JPEG_LIMIT} a "
            "side; use .png"
        )
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else np.ascontiguousarray(image)
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if is_jpeg else []
    try:
        encoded, data = cv2.imencode(suffix, bgr, options)
    except cv2.error as error:
        raise ImageError(f"cannot encode {name}: {str(error).strip().splitlines()[-1]}") from error
    if not encoded:
        raise ImageError(f"cannot encode {name}: no {suffix} holds an image of shape {image.shape}")
    return data.reshape(-1)


def check_pixels(image: np.ndarray) -> None:
    """Raise ImageError where an array is no ``H x W x 3`` or ``H x W`` uint8 image."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] != 3):
        raise ImageError(f"expected an H x W x 3 or H x W uint8 image, got {image.shape} {image.dtype}")
