"""Pictures as one tensor on the device, and windows of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io.images import read_image, shrunk
from training.errors import DataError

# Rendered at twice the size and averaged: a view of a picture made smaller shows no false patterns.
_FINER = 2


@dataclass(frozen=True, eq=False)
class PictureBank:
    """N pictures on one device, each in the top left corner of its square.

    Attributes:
        pixels: ``N x 3 x C x C`` uint8.
        size: ``N x 2`` float32 (width, height) of the pictures.
    """

    pixels: Tensor
    size: Tensor

    @classmethod
    def of_arrays(cls, arrays: Sequence[np.ndarray], device: torch.device) -> PictureBank:
        """Make a bank of ``H x W x 3`` uint8 arrays."""
        side = max(max(array.shape[:2]) for array in arrays)
        pixels = torch.zeros(len(arrays), 3, side, side, dtype=torch.uint8)
        for i, array in enumerate(arrays):
            pixels[i, :, : array.shape[0], : array.shape[1]] = torch.from_numpy(array).permute(2, 0, 1)
        size = torch.tensor([[array.shape[1], array.shape[0]] for array in arrays], dtype=torch.float32)
        return cls(pixels.to(device), size.to(device))

    @classmethod
    def of_files(
        cls, files: Sequence[Path], max_side: int, device: torch.device, report: Callable[[str], None]
    ) -> PictureBank:
        """Make a bank of image files, made smaller where their long side is above ``max_side``.

        Those that cannot be read are left out, and ``report`` is told.

        Raises:
            DataError: not one can be read.
        """

        def read(file: Path) -> np.ndarray | ImageError:
            try:
                return shrunk(read_image(file), max_side)[0]
            except ImageError as error:
                return error

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = list(pool.map(read, files))
        arrays = [array for array in found if not isinstance(array, ImageError)]
        for error in found:
            if isinstance(error, ImageError):
                report(f"left out: {error}")
        if not arrays:
            raise DataError(f"not one of {len(files)} pictures can be read, {files[0]} the first of them")
        return cls.of_arrays(arrays, device)

    def __len__(self) -> int:
        return len(self.pixels)

    def views(self, which: Tensor, homographies: Tensor, side: int) -> Tensor:
        """Return views of pictures through homographies; beyond its edge a picture is mirrored, which is a plane as
        well.

        Args:
            which: ``B`` int64 pictures.
            homographies: ``B x 3 x 3``, pixels of the view to pixels of the picture.
            side: of the square views.

        Returns:
            ``B x 3 x side x side`` uint8.
        """
        pixels = _finer_pixels(side, which.device).expand(len(which), -1, -1)
        at = through(homographies, pixels)
        size = self.size[which][:, None]
        # A triangle wave: the picture, its mirror image, the picture …, edges repeated as reflection does.
        at = (at + 0.5).remainder(2 * size)
        at = torch.minimum(at, 2 * size - at)
        grid = (2 * at / self.pixels.shape[-1] - 1).view(len(which), side * _FINER, side * _FINER, 2)
        # Between the picture and the empty rest of its square nothing is mixed.
        edge = (size - 0.5) * 2 / self.pixels.shape[-1] - 1
        grid = torch.minimum(grid, edge[:, None])
        views = F.grid_sample(self.pixels[which].float(), grid, mode="bilinear", align_corners=False)
        return F.avg_pool2d(views, _FINER).round().clamp(0, 255).byte()

    def squares(self, side: int) -> Tensor:
        """Return ``N x 3 x side x side`` uint8: the middle of each picture, as a texture."""
        least = self.size.amin(dim=1)
        scale = least / side
        centre = (self.size - 1) / 2
        homographies = torch.zeros(len(self), 3, 3, device=self.pixels.device)
        homographies[:, 0, 0] = homographies[:, 1, 1] = scale
        homographies[:, :2, 2] = centre - scale[:, None] * (side - 1) / 2
        homographies[:, 2, 2] = 1
        parts = torch.arange(len(self), device=self.pixels.device).split(64)
        return torch.cat([self.views(part, homographies[part], side) for part in parts])


def through(homographies: Tensor, points: Tensor) -> Tensor:
    """Return ``B x N x 2`` points through ``B x 3 x 3`` homographies; points of the horizon end far away."""
    moved = points @ homographies[:, :, :2].transpose(1, 2) + homographies[:, :, 2][:, None]
    depth = moved[..., 2:]
    return moved[..., :2] / torch.where(depth.abs() < 1e-6, torch.full_like(depth, 1e-6), depth)


def _finer_pixels(side: int, device: torch.device) -> Tensor:
    """Return ``1 x (2 side)² x 2`` places: the centres of the quarters of a view's pixels."""
    steps = (torch.arange(side * _FINER, device=device) + 0.5) / _FINER - 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack((x, y), dim=-1).view(1, -1, 2)
