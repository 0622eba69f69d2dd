"""Images to the GPU as uint8, from pinned memory, without waiting for them to arrive."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

_KEPT_SHAPES = 4
_BUFFERS = 2


@dataclass
class _Ring:
    """Buffers that take turns, and what tells when each has been read."""

    buffers: list[Tensor]
    read: list[Any] = field(default_factory=list)
    turn: int = 0


class PinnedUpload:
    """Copies arrays to a device through pinned buffers, two for each shape.

    The copy to the device runs while the caller goes on; a buffer is written again only when its last copy is done.

    Args:
        device: where images go. On a CPU (for tests) the buffers are plain memory, and copies are done at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._rings: OrderedDict[tuple[int, ...], _Ring] = OrderedDict()

    def __call__(self, image: np.ndarray) -> Tensor:
        """The same numbers on the device.

        Args:
            image: uint8, any shape.
        """
        ring = self._ring(image.shape)
        index = ring.turn
        ring.turn = (index + 1) % _BUFFERS
        if ring.read[index] is not None:
            ring.read[index].synchronize()
        buffer = ring.buffers[index]
        np.copyto(buffer.numpy(), image)
        if self.device.type != "cuda":
            return buffer.to(self.device, copy=True)
        uploaded = buffer.to(self.device, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(self.device))
        ring.read[index] = done
        return uploaded

    def _ring(self, shape: tuple[int, ...]) -> _Ring:
        ring = self._rings.pop(shape, None)
        if ring is None:
            pinned = self.device.type == "cuda"
            buffers = [torch.empty(shape, dtype=torch.uint8, pin_memory=pinned) for _ in range(_BUFFERS)]
            ring = _Ring(buffers, [None] * _BUFFERS)
        self._rings[shape] = ring
        while len(self._rings) > _KEPT_SHAPES:
            self._rings.popitem(last=False)
        return ring
