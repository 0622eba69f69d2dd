"""Pairs of clean views with what the teacher sees in each, on the device: made in chunks, looked at several times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.base import Extractor
from training.student.batched import Batched
from training.student.views import ViewMaker, Views

# The teacher sees a keypoint again where it has one this near to its place; of one whose place is not known it is open.
_AGAIN_PX = 2.0


@dataclass(eq=False)
class Pairs(Batched):
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


class PairMaker:
    """Makes chunks of pairs.

    Args:
        views: where they are from.
        teacher: on the same device.
        number: keypoints of each view; rows of a teacher that finds fewer are padded to it.
    """

    def __init__(self, views: ViewMaker, teacher: Extractor, number: int) -> None:
        self.views = views
        self.teacher = teacher
        self.number = number
        self.config, self.generator, self.device = views.config, views.generator, views.device

    @torch.no_grad()
    def make(self, count: int) -> Pairs:
        """Return a chunk."""
        return self._taught(self.views.make(count))

    def _taught(self, made: list[Views]) -> Pairs:
        """Return what the teacher sees in views, and which points of them are the same.

        The teacher sees all at once: as many in every chunk, whatever the sources' numbers are.
        """
        images = torch.cat([views.images for views in made])
        count = len(images)
        found = self.teacher(images.flatten(0, 1).float() / 255)
        keypoints, descriptors, real = (
            F.pad(part, (0, 0, 0, self.number - part.shape[1])).unflatten(0, (count, 2))
            for part in (found.keypoints, found.descriptors.half(), found.real[..., None])
        )
        real = real[..., 0]
        sizes = [len(views.images) for views in made]
        parts = [
            self._followed(views, k, r)
            for views, k, r in zip(made, keypoints.split(sizes), real.split(sizes), strict=True)
        ]
        points, known, worth = (torch.cat(part) for part in zip(*parts, strict=True))
        trusted = torch.ones(count, 2, dtype=torch.bool, device=self.device)
        trusted[:, 1] = torch.cat([v.trusted if v.trusted is not None else trusted[: len(v.images), 0] for v in made])
        return Pairs(images, keypoints, descriptors, real, worth, trusted, points, known)

    def _followed(self, views: Views, keypoints: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
            known = F.pad(known, (0, missing))
            points = F.pad(points, (0, 0, 0, missing))
        order = torch.rand(known.shape, generator=self.generator, device=self.device).masked_fill(~known, 2.0)
        chosen = order.argsort(dim=1)[:, :number]
        known = known.gather(1, chosen)
        points = points.gather(2, chosen[:, None, :, None].expand(-1, 2, -1, 2))
        return torch.where(known[:, None, :, None], points, 0.0), known


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
                *(torch.zeros(self.size, *v.shape[1:], dtype=v.dtype, device=v.device) for v in chunk.tensors())
            )
        places = (torch.arange(len(chunk), device=chunk.images.device) + self.next) % self.size
        for old, new in zip(self.pairs.tensors(), chunk.tensors(), strict=True):
            old[places] = new
        self.next = (self.next + len(chunk)) % self.size
        self.filled = min(self.size, self.filled + len(chunk))

    def draw(self, count: int, generator: torch.Generator) -> Pairs:
        """Return a random batch."""
        assert self.pairs is not None
        which = torch.randint(self.filled, (count,), generator=generator, device=generator.device)
        return self.pairs[which]
