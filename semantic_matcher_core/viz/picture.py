"""A picture: an array that a notebook shows and that saves itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semantic_matcher_core.io.encoding import encode_image
from semantic_matcher_core.io.images import write_image


class Picture(np.ndarray):
    """``H x W x 3`` uint8 RGB; an array like any other, which notebooks show as what it is.

    Example:
        >>> Picture.of(np.zeros((2, 3, 3), np.uint8)).shape
        (2, 3, 3)
    """

    @classmethod
    def of(cls, array: np.ndarray) -> Picture:
        """View an array as a picture; nothing is copied."""
        return array.view(cls)

    def save(self, path: str | Path) -> None:
        """Write it to a file; the format follows the suffix.

        Raises:
            ImageError, OutputError: see :func:`~semantic_matcher_core.io.images.write_image`.
        """
        write_image(path, np.asarray(self))

    def _repr_png_(self) -> bytes | None:
        if self.dtype != np.uint8 or self.ndim != 3 or self.shape[-1] != 3 or 0 in self.shape:
            return None  # a part of a picture that is none itself
        return encode_image(np.asarray(self), ".png").tobytes()
