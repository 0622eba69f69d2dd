"""The order of training pairs: one endless, seeded stream, cut into the same steps however many processes share it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from training.errors import DataError

Place = tuple[int, int]


class StepSampler(Sampler[list[Place]]):
    """Batches of (epoch, index) for one process.

    Every epoch is a random permutation of the pairs; epochs follow each other without a gap, and what is left of one
    starts the next batch. Part ``p`` of the stream (a step has ``accumulation`` parts) covers the next
    ``world_size * batch_size`` pairs, whose r-th ``batch_size`` go to process r. So the pairs of a step depend on the
    product of the two alone, and a stream that starts at part ``start`` is the tail of one that starts at 0: that
    makes a run resumable at any step.

    Args:
        pairs: how many there are.
        batch_size: per process.
        parts: length of the whole stream, which is also ``len()``, wherever it starts.
        seed: of the permutations.
        rank, world_size: of the process.
        start: the first part that is yielded.

    Raises:
        DataError: there are no pairs.
    """

    def __init__(
        self,
        pairs: int,
        batch_size: int,
        parts: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> None:
        if pairs < 1:
            raise DataError("there are no pairs to train on")
        self.pairs = pairs
        self.batch_size = batch_size
        self.parts = parts
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self._epoch = -1
        self._order: list[int] = []

    def __len__(self) -> int:
        return self.parts

    def __iter__(self) -> Iterator[list[Place]]:
        for part in range(self.start, self.parts):
            first = (part * self.world_size + self.rank) * self.batch_size
            yield [self._place(position) for position in range(first, first + self.batch_size)]

    def _place(self, position: int) -> Place:
        epoch, offset = divmod(position, self.pairs)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(self.pairs, generator=generator).tolist()
        return epoch, self._order[offset]
