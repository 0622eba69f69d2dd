"""Training pairs from any images: two views of one picture through random homographies and thin-plate splines.

Photometric changes come from ``kornia.augmentation``. The correspondences are exact, not interpolated.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from kornia import augmentation
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.geometry.thin_plate import fit_displacement
from semantic_matcher_core.io.images import read_image
from training.correspondence import PlanarCorrespondence
from training.errors import DataError

_MOST_UNREADABLE = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarpConfig:
    """How strongly views differ. ``difficulty`` scales every geometric term.

    Attributes:
        size: ``(height, width)`` of the views.
        difficulty: 0 … 1; 0.3 moves corners by up to a sixth of the side and turns by up to 27 degrees.
        bend_probability: share of pairs whose second view is also bent by a spline.
        photometric: whether brightness, contrast, hue, blur and noise change too.
    """

    size: tuple[int, int] = (320, 320)
    difficulty: float = 0.3
    bend_probability: float = 0.5
    photometric: bool = True


class WarpedPairs(Dataset[tuple[Tensor, Tensor, PlanarCorrespondence]]):
    """Item i of epoch e is always the same pair, whichever worker makes it.

    Args:
        images: files, or ``H x W x 3`` uint8 arrays.
        config: how strongly views differ.
        seed: with the epoch and the index it decides everything random.
        length: items of an epoch; ``None``: one per image.

    Raises:
        DataError: there are no images, or hardly one can be read.
    """

    def __init__(
        self, images: Sequence[Path] | Sequence[Tensor], config: WarpConfig, *, seed: int = 0, length: int | None = None
    ) -> None:
        if not images:
            raise DataError("no images to make training pairs of")
        self.images = images
        self.config = config
        self.seed = seed
        self.epoch = 0
        self._length = length or len(images)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, PlanarCorrespondence]:
        """Return two ``3 x H x W`` views in [0, 1], and where their points correspond (a batch of one)."""
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch, index)) % 2**63)
        picture = self._picture(generator)
        truth = random_correspondence(picture.shape[-2:], self.config, generator)  # type: ignore[arg-type]
        view0, view1 = render_views(picture, truth)
        if self.config.photometric:
            view0, view1 = (photometric_change(view, generator) for view in (view0, view1))
        return view0, view1, truth

    def _picture(self, generator: torch.Generator) -> Tensor:
        """Return one of the pictures, as ``3 x H x W``; those that cannot be read are named once and passed over."""
        reason = ""
        for _ in range(_MOST_UNREADABLE):
            source = self.images[int(torch.randint(len(self.images), (1,), generator=generator))]
            try:
                return _as_picture(source)
            except ImageError as error:
                reason = str(error)
                _say(f"{reason}; it is passed over")
        raise DataError(f"{_MOST_UNREADABLE} images in a row cannot be read; the last one: {reason}")


@lru_cache(maxsize=256)
def _say(text: str) -> None:
    _log.warning(text)


def random_correspondence(
    picture_size: tuple[int, int], config: WarpConfig, generator: torch.Generator
) -> PlanarCorrespondence:
    """Return two random views of a picture of ``(height, width)``, covering most of it."""
    height, width = config.size
    bend = torch.rand(1, generator=generator).item() < config.bend_probability
    control, theta = _random_spline(config.difficulty if bend else 0.0, height / width, generator)
    return PlanarCorrespondence(
        _random_homography(picture_size, config.size, config.difficulty * 0.5, generator)[None],
        _random_homography(picture_size, config.size, config.difficulty, generator)[None],
        control[None],
        theta[None],
        torch.tensor([float(width)]),
        torch.tensor([[float(width), float(height)]]),
    )


def render_views(picture: Tensor, truth: PlanarCorrespondence) -> tuple[Tensor, Tensor]:
    """Return the two ``3 x H x W`` views of a ``3 x h x w`` picture; beyond its edge it is mirrored."""
    width, height = (int(side) for side in truth.size[0])
    y, x = torch.meshgrid(torch.arange(height) + 0.0, torch.arange(width) + 0.0, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).view(1, -1, 2)
    extent = torch.tensor([picture.shape[-1], picture.shape[-2]])
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1) @ truth.homography0.mT
    views = []
    for at in (homogeneous[..., :2] / homogeneous[..., 2:], truth.picture_points(pixels)):
        grid = ((at + 0.5) / extent * 2 - 1).view(1, height, width, 2)
        views.append(
            F.grid_sample(picture[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]
        )
    return views[0], views[1]


def photometric_change(view: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation, hue, blur and noise, of ``3 x H x W`` in [0, 1]."""
    changes = augmentation.AugmentationSequential(
        augmentation.ColorJitter(0.3, 0.3, 0.3, 0.05, p=0.9),
        augmentation.RandomGaussianBlur((5, 5), (0.1, 1.5), p=0.3),
        augmentation.RandomGaussianNoise(std=0.03, p=0.3),
        data_keys=["input"],
    )
    # kornia draws from torch's global generator: it is lent a seed of ours, and given back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        return changes(view[None])[0].clamp(0, 1)


def _as_picture(source: Path | Tensor) -> Tensor:
    pixels = torch.from_numpy(read_image(source)) if isinstance(source, Path) else torch.as_tensor(source)
    return pixels.permute(2, 0, 1).float() / 255.0


def _random_homography(
    picture_size: tuple[int, int], view_size: tuple[int, int], difficulty: float, generator: torch.Generator
) -> Tensor:
    """Return ``3 x 3`` from pixels of a view to pixels of the picture: turn, zoom, shift and perspective."""
    turn, zoom, *rest = (torch.rand(12, generator=generator) * 2 - 1).tolist()
    angle, scale = turn * difficulty * math.pi / 2, math.exp(zoom * difficulty)
    height, width = view_size
    corners = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * torch.tensor([1.0, height / width])
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    moved = corners @ rotation.T * scale + torch.tensor(rest[:8]).view(4, 2) * difficulty * 0.25
    moved = moved + torch.tensor(rest[8:10]) * difficulty * 0.2
    # One unit is the largest box of the view's shape that the picture holds.
    unit = min(picture_size[1], picture_size[0] * width / height)
    target = moved * unit + torch.tensor([picture_size[1], picture_size[0]]) / 2 - 0.5
    source = corners * width + torch.tensor([width, height]) / 2 - 0.5
    return _homography_through(source, target)


def _homography_through(source: Tensor, target: Tensor) -> Tensor:
    """Return ``3 x 3`` that takes four points to four others."""
    rows, right = [], []
    for (x, y), (u, v) in zip(source.double().tolist(), target.double().tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    solved = torch.linalg.solve(torch.tensor(rows, dtype=torch.float64), torch.tensor(right, dtype=torch.float64))
    return torch.cat([solved, solved.new_ones(1)]).view(3, 3).float()


def _random_spline(difficulty: float, aspect: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Control points ``25 x 2`` on a grid over the view (its width being 1) and parameters of a random smooth bend."""
    y, x = torch.meshgrid(torch.linspace(0, aspect, 5), torch.linspace(0, 1, 5), indexing="ij")
    control = torch.stack([x, y], dim=-1).view(-1, 2)
    shifts = (torch.rand(25, 2, generator=generator) * 2 - 1) * 0.2 * difficulty
    return control, fit_displacement(control.double(), shifts.double()).float()
