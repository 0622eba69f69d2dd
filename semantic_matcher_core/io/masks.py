"""Which pixels of an image keypoints are wanted in: masks of files and of messages, zero where none is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.io.decoding import decode
from semantic_matcher_core.io.exif import read_exif, upright
from semantic_matcher_core.io.image_messages import one_channel
from semantic_matcher_core.io.images import read_bytes


@dataclass(frozen=True, eq=False)
class Mask:
    """Where keypoints are wanted.

    Attributes:
        name: how errors call it.
        pixels: ``H x W`` bool, true where they are.
    """

    name: str
    pixels: np.ndarray

    def of_size(self, image_size: tuple[int, int]) -> np.ndarray:
        """Return the pixels, for an image of ``(height, width)``.

        Raises:
            ImageError: the mask is of another size.
        """
        height, width = self.pixels.shape
        if (height, width) != tuple(image_size):
            raise ImageError(
                f"{self.name} is {width} x {height}, but the image is {image_size[1]} x {image_size[0]}; a mask has "
                "the size of its images"
            )
        return self.pixels


def read_mask(path: str | Path, *, orientation: str = "exif") -> Mask:
    """Read a mask from an image file of any depth and number of channels; alpha counts for nothing.

    Args:
        path: where any channel is not zero, keypoints are wanted. PNG, say: a JPEG is hardly ever quite black.
        orientation: ``"exif"`` turns it as its EXIF tag says, ``"stored"`` leaves it as it lies.

    Raises:
        ImageError: there is no such file, it cannot be decoded, or it is zero everywhere.
    """
    path = Path(path).expanduser()
    data = read_bytes(path, "mask")
    pixels = decode(data, cv2.IMREAD_UNCHANGED, f"the mask {path}")
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(axis=-1)
    if orientation == "exif":
        pixels = upright(pixels, read_exif(data).orientation)
    wanted = pixels != 0
    if not wanted.any():
        raise ImageError(f"the mask {path} is zero everywhere: nothing would be left; it is not zero on what is wanted")
    return Mask(f"the mask {path}", wanted)


def read_masks(paths: Iterable[str | Path], images: int) -> list[Mask | None]:
    """Read the masks of several images or cameras, in their order: none, one for all, or one for each.

    Raises:
        ConfigError: there are not as many as ``images``.
        ImageError: as of :func:`read_mask`.
    """
    paths = list(paths)
    if len(paths) > 1 and len(paths) != images:
        raise ConfigError(
            f"{len(paths)} masks, but images of {images} camera(s); give one for all, or one for each in their order"
        )
    masks: list[Mask | None] = [read_mask(path) for path in paths]
    return [*(masks or [None])] * images if len(masks) < 2 else [*masks]


def mask_of_message(message: Any, name: str) -> Mask:
    """Return the mask in a sensor_msgs/Image of whole numbers and one channel, such as mono8 or mono16.

    Raises:
        ImageError: another encoding, or data that do not fit it.
    """
    return Mask(name, one_channel(message, name) != 0)
