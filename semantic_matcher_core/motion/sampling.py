"""What aligning patches needs of images: one grey channel, smoothed, and values between pixels."""

from __future__ import annotations

import cv2
import numpy as np

from semantic_matcher_core.errors import ShapeError

# Takes the frequencies away that interpolation between pixels gets wrong; without it, results lean to whole pixels.
BLUR_SIGMA = 1.2
# The blur makes neighbouring pixels' noise alike, so that a patch tells less than its number of pixels suggests;
# measured over images with white noise of 3 and 8 grey values.
STD_OF_BLURRED_NOISE = 2.6


def prepared(image: np.ndarray, side: str) -> np.ndarray:
    """Make an image ready: ``H x W`` float32, grey and smoothed.

    Args:
        image: ``H x W`` or ``H x W x 3``, of any real type.
        side: what an error calls it.

    Raises:
        ShapeError: another shape.
    """
    image = np.asarray(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ShapeError(f"the {side} image must be H x W or H x W x 3, got {image.shape}")
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        image = image.astype(np.float32)
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    return cv2.GaussianBlur(grey.astype(np.float32), (0, 0), BLUR_SIGMA)


def cubic_weights(fraction: np.ndarray) -> np.ndarray:
    """Return ``M x 4`` weights of the four pixels around a position (Keys, 1981, a = -0.5)."""
    t = fraction[:, None]
    return 0.5 * np.concatenate(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], axis=1
    ).astype(np.float32)
