"""Work of fixed shapes recorded once as a CUDA graph, and replayed with new inputs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Work = Callable[[Tensor], dict[str, Tensor]]
_WARM_UP = 3
_KEPT = 8


class Recorder(Protocol):
    """Makes something that does the same work again on the same memory."""

    def record(self, work: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], Callable[[], object]]:
        """The outputs, and what to call to have them computed anew in their place."""


class CudaRecorder:
    """Records CUDA graphs."""

    def record(self, work: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], Callable[[], object]]:
        """See :class:`Recorder`. Runs the work a few times first: libraries choose kernels and take memory then."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = work()
        return outputs, graph.replay


@dataclass
class _Recorded:
    input: Tensor
    outputs: dict[str, Tensor]
    replay: Callable[[], object]
    keep: object


class GraphCache:
    """Recorded work by key: the last few, since each holds its memory.

    Args:
        recorder: :class:`CudaRecorder`, or a stand-in for tests.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()

    def __call__(self, key: Hashable, work: Work, given: Tensor, keep: Callable[[], object]) -> dict[str, Tensor]:
        """The outputs of ``work(given)``, as memory of their own.

        Args:
            key: of all that the work depends on beside its input's numbers.
            work: tensors of fixed shapes from one, without any host synchronisation.
            given: the input.
            keep: called after recording; what it gives lives as long as the record, for tensors that the work reads
                and others might drop.
        """
        key = (key, given.shape, given.dtype, given.device)
        recorded = self._recorded.pop(key, None)
        if recorded is None:
            memory = given.clone()
            outputs, replay = self._recorder.record(lambda: work(memory))
            recorded = _Recorded(memory, outputs, replay, keep())
        self._recorded[key] = recorded
        while len(self._recorded) > _KEPT:
            self._recorded.popitem(last=False)
        recorded.input.copy_(given, non_blocking=True)
        recorded.replay()
        # The next replay writes into the same memory.
        return {name: output.clone() for name, output in recorded.outputs.items()}
