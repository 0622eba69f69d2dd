"""Pairs of clean views with what the teacher sees in each, on the device: made in chunks, looked at several times."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from semantic_matcher_core.extractors.base import Extractor
from training.labelling.label_file import Labels
from training.student import scenes as scenery
from training.student.config import DataConfig
from training.student.pictures import PictureBank, through
from training.student.windows import first_views, second_views, turns_of

# Rays are many: of this many pixels in all are the scenes that are rendered at once.
_PIXELS_AT_ONCE = 2**20
_MARGIN = 4.0
# The teacher sees a keypoint again where it has one this near to its place; of one whose place is not known it is open.
_AGAIN_PX = 2.0
_TEXTURE = 256


@dataclass(eq=False)
class Pairs:
    """B pairs of views.

    Attributes:
        images: ``B x 2 x 3 x S x S`` uint8.
        keypoints: ``B x 2 x K x 2`` the teacher's (x, y) pixels in each view.
        descriptors: ``B x 2 x K x D`` float16 the teacher's there.
        real: ``B x 2 x K`` bool, false in rows that pad.
        worth: ``B x 2 x K`` float16, the score to be given to each, 0 … 1.
        trusted: ``B x 2`` bool, whether the teacher's descriptors are a target.
        points: ``B x 2 x C x 2`` places of the same points in both views.
        known: ``B x C`` bool, false in rows that pad.
    """

    images: Tensor
    keypoints: Tensor
    descriptors: Tensor
    real: Tensor
    worth: Tensor
    trusted: Tensor
    points: Tensor
    known: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: Tensor) -> Pairs:
        return Pairs(*(getattr(self, f.name)[which] for f in fields(self)))


class _Views(NamedTuple):
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


class PairMaker:
    """Makes chunks of pairs from three sources.

    Args:
        photos: photographs, which also are the textures of scenes.
        labelled: pictures of the label file, and its pairs; ``None`` without.
        teacher: with ``fixed_size``, on the same device.
        config: of the data.
        generator: draws, on the device.
    """

    def __init__(
        self,
        photos: PictureBank,
        labelled: tuple[PictureBank, LabelledPoints] | None,
        teacher: Extractor,
        config: DataConfig,
        generator: torch.Generator,
    ) -> None:
        self.photos = photos
        self.labelled = labelled
        self.teacher = teacher
        self.config = config
        self.generator = generator
        self.device = photos.pixels.device
        self.textures = photos.squares(_TEXTURE) if config.shares[1] else photos.pixels[:0]

    @torch.no_grad()
    def make(self, count: int) -> Pairs:
        """Return a chunk; the three sources have their shares in it."""
        parts = torch.multinomial(
            torch.tensor(self.config.shares, device=self.device), count, replacement=True, generator=self.generator
        ).bincount(minlength=3)
        made: list[_Views] = []
        for source, number in zip((self._warped, self._rendered, self._real), parts.tolist(), strict=True):
            if number:
                made += source(number)
        return self._taught(made)

    def _warped(self, count: int) -> list[_Views]:
        """Photographs, and as many of the labelled pictures, through two homographies."""
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
            return moved, self._inside(moved)

        return [_Views(torch.cat(images), follow, None, angles <= math.radians(self.config.trusted))]

    def _inside(self, points: Tensor) -> Tensor:
        return ((points > _MARGIN) & (points < self.config.view - 1 - _MARGIN)).all(dim=-1)

    def _rendered(self, count: int) -> list[_Views]:
        side, made = self.config.view, []
        at_once = max(1, _PIXELS_AT_ONCE // side**2)
        for number in [at_once] * (count // at_once) + [count % at_once] * (count % at_once > 0):
            scenes = scenery.random_scenes(number, len(self.textures), self.generator, self.device)
            cameras = scenery.random_cameras(number, side, self.generator, self.device)
            images = torch.stack([scenery.render(scenes, self.textures, c, side) for c in cameras], dim=1)

            def follow(points: Tensor, at: int, scenes=scenes, cameras=cameras) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
                moved, seen = scenery.follow(scenes, cameras[at], cameras[1 - at], points, side)
                return moved, seen & self._inside(moved)

            made.append(_Views(images, follow))
        return made

    def _real(self, count: int) -> list[_Views]:
        """Windows of labelled pairs about one of their matches, at scales of their own."""
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
            known = known & self._inside(points[:, side])
        return [_Views(torch.stack(images, dim=1), None, (points, known))]

    def _taught(self, made: list[_Views]) -> Pairs:
        """Return what the teacher sees in views, and which points of them are the same.

        The teacher sees all at once: as many in every chunk, whatever the sources' numbers are.
        """
        images = torch.cat([views.images for views in made])
        count = len(images)
        found = self.teacher(images.flatten(0, 1).float() / 255)
        keypoints = found.keypoints.unflatten(0, (count, 2))
        real = torch.ones_like(found.scores, dtype=torch.bool) if found.valid is None else found.valid
        real = real.unflatten(0, (count, 2))
        sizes = [len(views.images) for views in made]
        parts = [
            self._followed(views, k, r)
            for views, k, r in zip(made, keypoints.split(sizes), real.split(sizes), strict=True)
        ]
        points, known, worth = (torch.cat(part) for part in zip(*parts, strict=True))
        trusted = torch.ones(count, 2, dtype=torch.bool, device=self.device)
        trusted[:, 1] = torch.cat([v.trusted if v.trusted is not None else trusted[: len(v.images), 0] for v in made])
        descriptors = found.descriptors.half().unflatten(0, (count, 2))
        return Pairs(images, keypoints, descriptors, real, worth, trusted, points, known)

    def _followed(self, views: _Views, keypoints: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a random choice of the same points in both views, whether they are known, and what keypoints are
        worth.
        """
        low = self.config.unrepeated
        worth = keypoints.new_full(real.shape, (1 + low) / 2)
        if views.follow is None:
            assert views.given is not None
            points, known = views.given
            for side in (0, 1):
                # A matched point far away stands for one that is not there.
                labelled = points[:, side].masked_fill(~known[..., None], -1e4)
                again = torch.cdist(keypoints[:, side], labelled).amin(dim=2) < _AGAIN_PX
                worth[:, side].masked_fill_(again, 1.0)
            return *self._drawn(points, known), worth.half()
        sides = []
        for side in (0, 1):
            moved, seen = views.follow(keypoints[:, side], side)
            seen &= real[:, side]
            others = keypoints[:, 1 - side].masked_fill(~real[:, 1 - side][..., None], -1e4)
            again = torch.cdist(moved, others).amin(dim=2) < _AGAIN_PX
            worth[:, side] = torch.where(seen, torch.where(again, 1.0, low), worth[:, side])
            both = torch.stack((keypoints[:, side], moved)[:: 1 - 2 * side], dim=1)
            sides.append((both, seen))
        points, known = torch.cat([s[0] for s in sides], dim=2), torch.cat([s[1] for s in sides], dim=1)
        return *self._drawn(points, known), worth.half()

    def _drawn(self, points: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return a random choice of the known points, in rows of the same number."""
        number = self.config.cross
        if known.shape[1] < number:
            missing = number - known.shape[1]
            known = torch.nn.functional.pad(known, (0, missing))
            points = torch.nn.functional.pad(points, (0, 0, 0, missing))
        order = torch.rand(known.shape, generator=self.generator, device=self.device).masked_fill(~known, 2.0)
        chosen = order.argsort(dim=1)[:, :number]
        known = known.gather(1, chosen)
        points = points.gather(2, chosen[:, None, :, None].expand(-1, 2, -1, 2))
        return torch.where(known[:, None, :, None], points, 0.0), known


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
        """From a label file; ``scale`` is what each picture was made smaller by."""
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


class Pool:
    """The pairs in use: filled chunk by chunk, then the oldest replaced.

    Args:
        maker: of chunks.
        size: pairs that it holds when full.
    """

    def __init__(self, maker: PairMaker, size: int) -> None:
        self.maker = maker
        self.size = size
        self.filled = 0
        self.next = 0
        self.pairs: Pairs | None = None

    def renew(self, count: int) -> None:
        """Add a chunk, or put it in the place of the oldest."""
        chunk = self.maker.make(count)
        if self.pairs is None:
            self.pairs = Pairs(
                *(torch.zeros(self.size, *v.shape[1:], dtype=v.dtype, device=v.device) for v in _values(chunk))
            )
        places = (torch.arange(len(chunk), device=chunk.images.device) + self.next) % self.size
        for old, new in zip(_values(self.pairs), _values(chunk), strict=True):
            old[places] = new
        self.next = (self.next + len(chunk)) % self.size
        self.filled = min(self.size, self.filled + len(chunk))

    def draw(self, count: int, generator: torch.Generator) -> Pairs:
        """Return a random batch."""
        assert self.pairs is not None
        which = torch.randint(self.filled, (count,), generator=generator, device=generator.device)
        return self.pairs[which]


def _values(pairs: Pairs) -> list[Tensor]:
    return [getattr(pairs, f.name) for f in fields(pairs)]
