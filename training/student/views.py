"""Pairs of clean views from three sources, on the device: warped photographs, rendered scenes, labelled real pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.io.images import list_images, shrunk
from training.errors import DataError
from training.labelling.label_file import Labels, read_labels
from training.student import scenes as scenery
from training.student.config import DataConfig
from training.student.pictures import PictureBank, through
from training.student.windows import first_views, second_views, turns_of

MARGIN_PX = 4.0
# Rays are many: of this many pixels in all are the scenes that are rendered at once.
_PIXELS_AT_ONCE = 2**20
_TEXTURE = 256


class Views(NamedTuple):
    """Pairs of views from one source.

    Attributes:
        images: ``B x 2 x 3 x S x S`` uint8.
        follow: points of view 0 or 1 (which, its second argument) into the other, and whether they are seen there.
        given: points of both views and whether they are known, where labels say it.
        trusted: ``B`` bool, whether the teacher's descriptors of the second views are a target; ``None`` where all are.
    """

    images: Tensor
    follow: Callable[[Tensor, int], tuple[Tensor, Tensor]] | None
    given: tuple[Tensor, Tensor] | None = None
    trusted: Tensor | None = None


class ViewMaker:
    """Draws pairs of views from three sources.

    Args:
        photos: photographs, which also are the textures of scenes.
        labelled: pictures of the label file, and its pairs; ``None`` without.
        config: of the data.
        generator: draws, on the device.
    """

    def __init__(
        self,
        photos: PictureBank,
        labelled: tuple[PictureBank, LabelledPoints] | None,
        config: DataConfig,
        generator: torch.Generator,
    ) -> None:
        self.photos = photos
        self.labelled = labelled
        self.config = config
        self.generator = generator
        self.device = photos.pixels.device
        self.textures = photos.squares(_TEXTURE) if config.shares[1] else photos.pixels[:0]

    @classmethod
    def of_files(
        cls, config: DataConfig, device: torch.device, generator: torch.Generator, report: Callable[[str], None]
    ) -> ViewMaker:
        """Read the photographs that are not held out, and the label files; ``report`` is told what is left out.

        Raises:
            DataError: too few photographs, or a label file that cannot be read.
        """
        files, held = split(list_images(config.photos), config.holdout)
        if not files or not held:
            raise DataError(
                f"{config.photos} has {len(files) + len(held)} photographs, too few to train on and to validate"
            )
        photos = PictureBank.of_files(files, config.side, device, report)
        labelled = None
        if config.labels:
            pictures: list[np.ndarray] = []
            parts = []
            for path in config.labels:
                labels = read_labels(Path(path))
                small = [shrunk(image.image, config.side) for image in labels.images]
                points = LabelledPoints.of_labels(labels, [scale for _, scale in small], device)
                points.images += len(pictures)
                pictures += [image for image, _ in small]
                parts.append(points)
            labelled = PictureBank.of_arrays(pictures, device), LabelledPoints.joined(parts)
        return cls(photos, labelled, config, generator)

    @classmethod
    def held_out(cls, config: DataConfig, device: torch.device, report: Callable[[str], None]) -> ViewMaker:
        """Take the photographs that are held out, warped; drawn with one seed, the views are the same in every run."""
        files = split(list_images(config.photos), config.holdout)[1]
        bank = PictureBank.of_files(files, config.side, device, report)
        warped = replace(config, shares=(1.0, 0.0, 0.0), labels=())
        return cls(bank, None, warped, torch.Generator(device).manual_seed(987_654))

    def make(self, count: int) -> list[Views]:
        """Return pairs; the three sources have their shares in them."""
        parts = torch.multinomial(
            torch.tensor(self.config.shares, device=self.device), count, replacement=True, generator=self.generator
        ).bincount(minlength=3)
        made: list[Views] = []
        for source, number in zip((self._warped, self._rendered, self._real), parts.tolist(), strict=True):
            if number:
                made += source(number)
        return made

    def _warped(self, count: int) -> list[Views]:
        """Return photographs, and as many of the labelled pictures, through two homographies."""
        banks = [self.photos, *([self.labelled[0]] if self.labelled else [])]
        counts = [count - count // 3, count // 3] if len(banks) > 1 else [count]
        images, second = [], second_views(count, self.config, self.generator, self.device)
        for bank, number, back in zip(banks, counts, second.split(counts), strict=True):
            which = torch.randint(len(bank), (number,), generator=self.generator, device=self.device)
            first = first_views(bank.size[which], self.config, self.generator)
            both = [bank.views(which, h, self.config.view) for h in (first, first @ back)]
            images.append(torch.stack(both, dim=1))
        forth = torch.linalg.inv(second)
        angles = turns_of(second, self.config.view)

        def follow(points: Tensor, side: int) -> tuple[Tensor, Tensor]:
            moved = through((forth, second)[side], points)
            return moved, self.inside(moved)

        return [Views(torch.cat(images), follow, None, angles <= math.radians(self.config.trusted))]

    def inside(self, points: Tensor) -> Tensor:
        return ((points > MARGIN_PX) & (points < self.config.view - 1 - MARGIN_PX)).all(dim=-1)

    def _rendered(self, count: int) -> list[Views]:
        side, made = self.config.view, []
        at_once = max(1, _PIXELS_AT_ONCE // side**2)
        for number in [at_once] * (count // at_once) + [count % at_once] * (count % at_once > 0):
            scenes = scenery.random_scenes(number, len(self.textures), self.generator, self.device)
            cameras = scenery.random_cameras(number, side, self.generator, self.device)
            images = torch.stack([scenery.render(scenes, self.textures, c, side) for c in cameras], dim=1)

            def follow(points: Tensor, at: int, scenes=scenes, cameras=cameras) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
                moved, seen = scenery.follow(scenes, cameras[at], cameras[1 - at], points, side)
                return moved, seen & self.inside(moved)

            made.append(Views(images, follow))
        return made

    def _real(self, count: int) -> list[Views]:
        """Return windows of labelled pairs about one of their matches, at scales of their own."""
        assert self.labelled is not None
        bank, labels = self.labelled
        pair = torch.randint(len(labels.images), (count,), generator=self.generator, device=self.device)
        one = (torch.rand(count, generator=self.generator, device=self.device) * labels.count[pair]).long()
        points, known = labels.points[pair].clone(), labels.known(pair)
        images = []
        for side in (0, 1):
            which = labels.images[pair, side]
            jitter = (torch.rand(count, 2, generator=self.generator, device=self.device) - 0.5) * 80
            centre = points[torch.arange(count, device=self.device), side, one] + jitter
            view = first_views(bank.size[which], self.config, self.generator, centre)
            images.append(bank.views(which, view, self.config.view))
            points[:, side] = through(torch.linalg.inv(view), points[:, side])
            known = known & self.inside(points[:, side])
        return [Views(torch.stack(images, dim=1), None, (points, known))]


@dataclass(eq=False)
class LabelledPoints:
    """The pairs of label files, in rows of equal length.

    Attributes:
        images: ``P x 2`` int64 pictures of the bank.
        points: ``P x 2 x M x 2`` matched pixels.
        count: ``P`` how many of them there are.
    """

    images: Tensor
    points: Tensor
    count: Tensor

    @classmethod
    def of_labels(cls, labels: Labels, scale: list[float], device: torch.device, most: int = 1024) -> LabelledPoints:
        """Take the points of a label file; ``scale`` is what each picture was made smaller by."""
        count = torch.tensor([min(most, len(pair.indices)) for _, _, pair in labels.pairs])
        points = torch.zeros(len(labels.pairs), 2, int(count.max()), 2)
        for row, (first, second, pair) in enumerate(labels.pairs):
            for side, number in enumerate((first, second)):
                at = torch.from_numpy(labels.images[number].keypoints[pair.indices[:most, side]])
                points[row, side, : len(at)] = (at + 0.5) * scale[number] - 0.5
        images = torch.tensor([[first, second] for first, second, _ in labels.pairs])
        return cls(images.to(device), points.to(device), count.to(device))

    @classmethod
    def joined(cls, parts: list[LabelledPoints]) -> LabelledPoints:
        """Return those of several files."""
        most = max(part.points.shape[2] for part in parts)
        points = [torch.nn.functional.pad(p.points, (0, 0, 0, most - p.points.shape[2])) for p in parts]
        return cls(torch.cat([p.images for p in parts]), torch.cat(points), torch.cat([p.count for p in parts]))

    def known(self, pairs: Tensor) -> Tensor:
        """Return ``B x M`` bool, false in rows that pad."""
        return torch.arange(self.points.shape[2], device=pairs.device) < self.count[pairs][:, None]


def split(files: Sequence[Path], holdout: int) -> tuple[list[Path], list[Path]]:
    """Split off pictures to train on, and every ``holdout``-th for validation."""
    return [f for i, f in enumerate(files) if i % holdout], [f for i, f in enumerate(files) if i % holdout == 0]
