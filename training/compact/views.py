"""Batches of two views of one picture each, with exact correspondence, made fast enough to train on.

The geometry is ``training.data.warped``'s. Two things differ for speed: a bend is evaluated on a lattice and
interpolated (views are off by 0.03 px on average, points are not), and brightness, contrast, colour, blur and noise
change whole batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from semantic_matcher_core.io.images import read_image
from training.compact.config import DataConfig
from training.correspondence import PlanarCorrespondence, projected
from training.data.warped import WarpConfig, random_correspondence

_LATTICE_STEP = 4


@dataclass(frozen=True)
class ViewPairs:
    """B pairs of views.

    Attributes:
        images: ``2B x 3 x S x S`` in [0, 1]: the B first views, then the B second ones.
        inside: ``2B x S x S`` bool, where a view shows the picture and not its mirrored surroundings.
        truth: where points correspond.
        pictures: the picture of each pair.
    """

    images: Tensor
    inside: Tensor
    truth: PlanarCorrespondence
    pictures: list[int]

    def __len__(self) -> int:
        return len(self.pictures)


class ViewPairBatches(Dataset[ViewPairs]):
    """Batch i is always the same, whichever process makes it.

    Args:
        pictures: ``3 x h x w`` uint8 each.
        config: how views differ.
        batch: pairs in a batch.
        seed: with the index it decides everything random.
        length: batches.
        turn_probability: share of pairs whose second view is also turned by any angle; ``None``: the configuration's.
    """

    def __init__(
        self,
        pictures: Sequence[Tensor],
        config: DataConfig,
        *,
        batch: int,
        seed: int,
        length: int,
        turn_probability: float | None = None,
    ) -> None:
        self.pictures = pictures
        self.config = config
        self.batch = batch
        self.seed = seed
        self.length = length
        self.turn_probability = config.turn_probability if turn_probability is None else turn_probability

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> ViewPairs:
        if not 0 <= index < self.length:
            raise IndexError(index)
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + index) * 7919 + 17)
        chosen = torch.randint(len(self.pictures), (self.batch,), generator=generator).tolist()
        size = (self.config.view_size, self.config.view_size)
        warp = WarpConfig(
            size, difficulty=self.config.difficulty, bend_probability=self.config.bend_probability, photometric=False
        )
        truths, views0, views1, inside0, inside1 = [], [], [], [], []
        for i in chosen:
            picture = self.pictures[i].float() / 255
            truth = random_correspondence((picture.shape[-2], picture.shape[-1]), warp, generator)
            if torch.rand(1, generator=generator).item() < self.turn_probability:
                truth = _turned(truth, torch.rand(1, generator=generator).item() * 2 * math.pi)
            truths.append(truth)
            for at, views, inside in zip(
                _picture_points(truth, size[0]), (views0, views1), (inside0, inside1), strict=True
            ):
                view, seen = _rendered(picture, at)
                views.append(view)
                inside.append(seen)
        images = photometric_change(torch.stack(views0 + views1), generator)
        return ViewPairs(images, torch.stack(inside0 + inside1), PlanarCorrespondence.stack(truths), chosen)


def load_pictures(files: Sequence[Path], short_side: int) -> list[Tensor]:
    """Pictures as ``3 x h x w`` uint8, made smaller where their short side is above ``short_side``."""
    pictures = []
    for path in files:
        picture = torch.from_numpy(read_image(path)).permute(2, 0, 1)
        height, width = picture.shape[-2:]
        scale = short_side / min(height, width)
        if scale < 1:
            size = (round(height * scale), round(width * scale))
            small = F.interpolate(picture[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
            picture = small[0].round().clamp(0, 255).byte()
        pictures.append(picture.contiguous())
    return pictures


def split(files: Sequence[Path], holdout: int) -> tuple[list[Path], list[Path]]:
    """Pictures to train on, and every ``holdout``-th for validation."""
    return [f for i, f in enumerate(files) if i % holdout], [f for i, f in enumerate(files) if i % holdout == 0]


def photometric_change(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, gamma, colour, blur and noise, different for each of ``N x 3 x H x W`` images in [0, 1]."""
    count = images.shape[0]

    def random(*shape: int) -> Tensor:
        return torch.rand(count, *shape, 1, 1, generator=generator) * 2 - 1

    grey = images.mean(dim=1, keepdim=True)
    images = torch.lerp(grey, images, (1 + 0.5 * random(1)).clamp(0, 1.4))  # saturation
    images = images * (1 + 0.08 * random(3))  # white balance
    images = images.clamp(1e-4, 1).pow(torch.exp(0.4 * random(1)))  # gamma
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * torch.exp(0.4 * random(1)) + mean + 0.15 * random(1)
    # A box and its repetition come close to a Gaussian; a third of the images is blurred, to varying degrees.
    strength = (random(1) * 1.5 - 0.5).clamp(0, 1)
    blurred = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), 3, 1)
    blurred = F.avg_pool2d(blurred, 3, 1)
    images = torch.lerp(images, blurred, strength)
    noise = torch.randn(images.shape, generator=generator) * (0.05 * random(1) - 0.01).clamp(min=0)
    return (images + noise).clamp(0, 1)


def _turned(truth: PlanarCorrespondence, angle: float) -> PlanarCorrespondence:
    """The same with view 1 turned about its centre."""
    centre = (float(truth.size[0, 0]) - 1) / 2
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor(
        [[c, -s, centre - c * centre + s * centre], [s, c, centre - s * centre - c * centre], [0.0, 0.0, 1.0]]
    )
    return replace(truth, homography1=truth.homography1 @ turn)


def _picture_points(truth: PlanarCorrespondence, size: int) -> tuple[Tensor, Tensor]:
    """``S x S x 2`` pixels of the picture that the pixels of either view show."""
    y, x = torch.meshgrid(torch.arange(size) + 0.0, torch.arange(size) + 0.0, indexing="ij")
    pixels = torch.stack([x, y], dim=-1)
    bent = pixels
    if bool(truth.theta.any()):
        # One cell more on each side than the view needs: bicubic interpolation asks for it.
        cells = torch.arange(-_LATTICE_STEP, size + 2 * _LATTICE_STEP, _LATTICE_STEP) + 0.0
        lattice = torch.stack(torch.meshgrid(cells, cells, indexing="ij")[::-1], dim=-1)
        shift = truth.bent(lattice.view(1, -1, 2)).view_as(lattice) - lattice
        grid = 2 * (pixels - cells[0]) / (cells[-1] - cells[0]) - 1
        shift = F.grid_sample(shift.permute(2, 0, 1)[None], grid[None], mode="bilinear", align_corners=True)[0]
        bent = pixels + shift.permute(1, 2, 0)
    first, second = (
        projected(homography, points.view(1, -1, 2)).view_as(pixels)
        for homography, points in ((truth.homography0, pixels), (truth.homography1, bent))
    )
    return first, second


def _rendered(picture: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    extent = torch.tensor([picture.shape[-1], picture.shape[-2]])
    grid = ((at + 0.5) / extent * 2 - 1)[None]
    view = F.grid_sample(picture[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]
    return view, ((at >= 0) & (at <= extent - 1)).all(dim=-1)
