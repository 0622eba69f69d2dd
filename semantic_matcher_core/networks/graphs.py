"""A whole extraction recorded once as a CUDA graph for each size and settings, and replayed with new images."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from semantic_matcher_core.extractors.dense import DenseExtractor
from semantic_matcher_core.networks.networks import Networks
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.settings import Settings
from semantic_matcher_core.types import Features

Work = Callable[[Tensor], dict[str, Tensor]]
_WARM_UP = 3
_KEPT = 8


class Extract(Protocol):
    """Features of images; ``fixed_size`` gives rows of padding, without waiting for the device."""

    def __call__(
        self,
        networks: Networks,
        settings: Settings,
        images: Tensor,
        masks: Tensor | None = None,
        *,
        fixed_size: bool = False,
    ) -> Features: ...


class Recorder(Protocol):
    """Makes something that does the same work again on the same memory."""

    def record(self, work: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], Callable[[], object]]:
        """Return the outputs, and what to call to have them computed anew in their place."""


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
    weights: list[tuple[Tensor, int]]
    read: Any = None

    @property
    def stands(self) -> bool:
        """Whether the weights are where they were: a graph reads memory, whatever became of it."""
        return all(weight.data_ptr() == place for weight, place in self.weights)


class GraphCache:
    """Recorded work by key: the last few, since each holds its memory. Threads take turns.

    Args:
        recorder: :class:`CudaRecorder`, or a stand-in for tests.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(
        self, key: Hashable, work: Work, given: Tensor, weights: Callable[[], Iterable[Tensor]] = tuple
    ) -> dict[str, Tensor]:
        """Return the outputs of ``work(given)``, as memory of their own.

        Args:
            key: of all that the work depends on beside its input's numbers.
            work: tensors of fixed shapes from one, without any host synchronisation.
            given: the input.
            weights: gives the tensors that the work reads besides; where they were moved, it is recorded anew.
        """
        key = (key, given.shape, given.dtype, given.device)
        with self._lock:
            recorded = self._recorded.pop(key, None)
            if recorded is None or not recorded.stands:
                memory = given.clone()
                outputs, replay = self._recorder.record(lambda: work(memory))
                recorded = _Recorded(memory, outputs, replay, [(weight, weight.data_ptr()) for weight in weights()])
            self._recorded[key] = recorded
            while len(self._recorded) > _KEPT:
                self._recorded.popitem(last=False)
            if recorded.read is not None:
                # Another thread's stream may still be at it: this one waits for it there, the host does not.
                recorded.read.wait(torch.cuda.current_stream(given.device))
            recorded.input.copy_(given, non_blocking=True)
            recorded.replay()
            # The next replay writes into the same memory.
            outputs = {name: output.clone() for name, output in recorded.outputs.items()}
            if given.device.type == "cuda":
                recorded.read = torch.cuda.current_stream(given.device).record_event(recorded.read)
            return outputs


class RecordedExtraction:
    """An extraction that is recorded where it can be; it takes and gives what the extraction itself does.

    Args:
        extract: the extraction.
        recorder: a stand-in for CUDA graphs in tests.
    """

    def __init__(self, extract: Extract, recorder: Recorder | None = None) -> None:
        self._extract = extract
        self._graphs = GraphCache(recorder or CudaRecorder())

    def __call__(self, networks: Networks, settings: Settings, images: Tensor, masks: Tensor | None = None) -> Features:
        """Return features of images; see :func:`semantic_matcher_core.extraction.extract`."""
        if masks is not None or not can_be_recorded(networks):
            return self._extract(networks, settings, images, masks)

        def work(given: Tensor) -> dict[str, Tensor]:
            found = self._extract(networks, settings, given, fixed_size=True)
            return {f.name: value for f in fields(found) if isinstance(value := getattr(found, f.name), Tensor)}

        def weights() -> list[Tensor]:
            parts = (networks.parts.extractor, networks.parts.semantic_encoder, networks.parts.reasoner)
            return [parameter for part in parts if part is not None for parameter in part.parameters()]

        key = (networks, settings.of_features, is_enabled("streams"))
        outputs: dict[str, Any] = self._graphs(key, work, images, weights)
        return Features(image_size=(images.shape[-2], images.shape[-1]), **outputs).trimmed()

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy records anew, on its own weights.
        return RecordedExtraction, (self._extract,)


def can_be_recorded(networks: Networks) -> bool:
    """Whether the whole extraction has fixed shapes, and all of it runs in torch."""
    dense = isinstance(networks.parts.extractor, DenseExtractor)
    return dense and networks.backend == "eager" and is_enabled("cuda_graphs")
