"""Whole extractions and searches for matches, recorded once as CUDA graphs for each size and settings, and replayed."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.device import moved
from semantic_matcher_core.extractors.dense import DenseExtractor
from semantic_matcher_core.inputs import as_floats
from semantic_matcher_core.matching import MatcherConfig, match_features_densely
from semantic_matcher_core.networks.networks import Networks
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.settings import Settings
from semantic_matcher_core.types import Features, Matches

Tensors = Mapping[str, Tensor]
Work = Callable[[Tensors], dict[str, Tensor]]
_log = logging.getLogger(__name__)
# Recordings of a process take turns, whatever they are of.
_recording = threading.Lock()
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
        with _recording:
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    work()
            current.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            try:
                # What other threads compute meanwhile, they may.
                with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                    outputs = work()
            except RuntimeError:
                # A recording that fails leaves this thread on its stream.
                torch.cuda.set_stream(current)
                raise
        return outputs, graph.replay


@dataclass
class _Recorded:
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    replay: Callable[[], object]
    weights: list[Tensor]
    places: list[int]
    read: Any = None

    @property
    def stands(self) -> bool:
        """Whether the weights are where they were: a graph reads memory, whatever became of it."""
        return [weight.data_ptr() for weight in self.weights] == self.places


class GraphCache:
    """Recorded work by key: the last few, since each holds its memory. Threads take turns.

    Args:
        recorder: :class:`CudaRecorder`, or a stand-in for tests.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._recorded: OrderedDict[Hashable, _Recorded] = OrderedDict()
        self._refused: set[Hashable] = set()
        self._lock = threading.Lock()

    def __call__(
        self, key: Hashable, work: Work, given: Tensors, weights: Callable[[], Iterable[Tensor]] = tuple
    ) -> dict[str, Tensor] | None:
        """Return the outputs of ``work(given)``, as memory of their own; ``None`` where it cannot be recorded.

        Args:
            key: of all that the work depends on beside its inputs' numbers.
            work: tensors of fixed shapes from others, without any host synchronisation.
            given: the inputs, all on one device.
            weights: gives the tensors that the work reads besides; where they were moved, it is recorded anew.
        """
        key = (key, *((name, t.shape, t.dtype, t.device) for name, t in given.items()))
        device = next(iter(given.values())).device
        with self._lock:
            if key in self._refused:
                return None
            recorded = self._recorded.pop(key, None)
            if recorded is None or not recorded.stands:
                memory = {name: tensor.clone() for name, tensor in given.items()}
                try:
                    outputs, replay = self._recorder.record(lambda: work(memory))
                except RuntimeError as error:
                    self._refused.add(key)
                    _log.warning("a CUDA graph could not be recorded; the same work runs unrecorded, slower: %s", error)
                    return None
                read = list(weights())
                recorded = _Recorded(memory, outputs, replay, read, [weight.data_ptr() for weight in read])
            self._recorded[key] = recorded
            while len(self._recorded) > _KEPT:
                self._recorded.popitem(last=False)
            if recorded.read is not None:
                # Another thread's stream may still be at it: this one waits for it there, the host does not.
                recorded.read.wait(torch.cuda.current_stream(device))
            _copy(recorded.inputs, given)
            recorded.replay()
            # The next replay writes into the same memory.
            outputs = {name: torch.empty_like(output) for name, output in recorded.outputs.items()}
            _copy(outputs, recorded.outputs)
            if device.type == "cuda":
                recorded.read = torch.cuda.current_stream(device).record_event(recorded.read)
            return outputs


def _copy(targets: Tensors, sources: Tensors) -> None:
    """Copy tensors, those of one type together."""
    alike: dict[torch.dtype, list[str]] = {}
    for name, tensor in sources.items():
        alike.setdefault(tensor.dtype, []).append(name)
    for names in alike.values():
        if len(names) == 1:
            targets[names[0]].copy_(sources[names[0]], non_blocking=True)
        else:
            torch._foreach_copy_([targets[n] for n in names], [sources[n] for n in names], non_blocking=True)


class RecordedExtraction:
    """An extraction that is recorded where it can be; it takes and gives what the extraction itself does.

    Images may be 8-bit, too, as :func:`~semantic_matcher_core.inputs.as_pixels` gives them.

    Args:
        extract: the extraction.
        recorder: a stand-in for CUDA graphs in tests.
    """

    def __init__(self, extract: Extract, recorder: Recorder | None = None) -> None:
        self._extract = extract
        self._graphs = GraphCache(recorder or CudaRecorder())

    def __call__(self, networks: Networks, settings: Settings, images: Tensor, masks: Tensor | None = None) -> Features:
        """Return features of images; see :func:`semantic_matcher_core.extraction.extract`."""
        found = self._run(networks, settings, images, []) if masks is None else None
        if found is not None:
            counts, ends = zip(*found["host"].view(-1, 2).int().tolist(), strict=True)
            if counts == ends:
                return _first_rows(found, images, counts)
        return self._extract(networks, settings, as_floats(images), masks)

    def step(
        self, networks: Networks, settings: Settings, image: Tensor, references: Sequence[Features]
    ) -> tuple[Features, list[Matches]] | None:
        """Return features of an image, and matches of others with them on the host, with one wait for the device.

        Args:
            networks, settings: as for an extraction.
            image: one, on the device of the networks.
            references: each of one image; they come first in its matches.

        Returns:
            ``None`` where it cannot be done so, and the caller does one thing after the other.
        """
        alike = all(len(r) == 1 and r.valid is None and r.turn is None and r.device == image.device for r in references)
        nearest = settings.matching.matcher == "nearest"
        if not (alike and nearest and len(image) == 1 and is_enabled("single_wait")):
            return None
        sides = [_compared(reference, settings.max_keypoints) for reference in references]
        found = self._run(networks, settings, image, sides)
        if found is None:
            return None
        values = moved({"host": found["host"]}, "cpu")["host"].numpy()
        count, end = (int(value) for value in values[:2])
        if count != end:
            return None
        rows = [found["keypoints"].shape[1] * 2, *(side["keypoints"].shape[1] * 4 for side in sides)]
        keypoints, *matched = np.split(values[2:], np.cumsum(rows)[:-1]) if sides else [values]
        matches = [_matches(part.reshape(-1, 4), keypoints.reshape(-1, 2)) for part in matched]
        return _first_rows(found, image, [count]), matches

    def _run(
        self, networks: Networks, settings: Settings, images: Tensor, references: Sequence[Tensors]
    ) -> dict[str, Tensor] | None:
        """Tensors of features of a fixed size, and what the host is to know, as ``host``.

        That is for each image how many rows are real, and where the last of them ends; then, where there are
        references, the keypoints, and for each row of a reference (x, y), the row that it matches, and how similar.
        """
        if not can_be_recorded(networks):
            return None

        def work(given: Tensors) -> dict[str, Tensor]:
            found = self._extract(networks, settings, as_floats(given["images"]), fixed_size=True)
            assert found.valid is not None
            ends = found.valid * torch.arange(1, found.valid.shape[1] + 1, device=found.device)
            # Whole numbers as float32 are exact up to 16 million.
            parts = [torch.stack((found.valid.sum(dim=1), ends.amax(dim=1)), dim=1).float()]
            if references:
                parts.append(found.keypoints)
            for i in range(len(references)):
                side = {name.removeprefix(f"{i}."): t for name, t in given.items() if name.startswith(f"{i}.")}
                parts.append(_searched(side, found, settings.matching))
            tensors = {name: t for name, t in _tensors(found).items() if name != "valid"}
            return {**tensors, "host": torch.cat([part.flatten() for part in parts])}

        def weights() -> list[Tensor]:
            parts = (networks.parts.extractor, networks.parts.semantic_encoder, networks.parts.reasoner)
            return [parameter for part in parts if part is not None for parameter in part.parameters()]

        given = {"images": images, **{f"{i}.{n}": t for i, side in enumerate(references) for n, t in side.items()}}
        key = (networks, settings if references else settings.of_features, is_enabled("streams"))
        return self._graphs(key, work, given, weights)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy records anew, on its own weights.
        return RecordedExtraction, (self._extract,)


def _tensors(features: Features) -> dict[str, Tensor]:
    return {f.name: value for f in fields(features) if isinstance(value := getattr(features, f.name), Tensor)}


def _first_rows(found: Tensors, images: Tensor, counts: Sequence[int]) -> Features:
    """Return features of what was recorded, without rows that are padding in every image, and without a wait."""
    fewest, most = min(counts), max(counts)
    rows: dict[str, Any] = {name: t if t.shape[1] == most else t[:, :most] for name, t in found.items() if t.ndim > 1}
    if fewest < most:
        keypoints = found["keypoints"]
        ends = found["host"].view(-1, 2)[:, :1]
        rows["valid"] = torch.arange(most, device=keypoints.device) < ends
    return Features(image_size=(images.shape[-2], images.shape[-1]), **rows)


def _compared(features: Features, rows: int) -> dict[str, Tensor]:
    """Return what matching reads of features of one image, padded to at least this many rows, NaN for keypoints."""
    names = ["descriptors"] if features.reasoned is None else ["reasoned", "semantic"]
    known = {name: t for name in names if (t := getattr(features, name)) is not None}
    missing = rows - features.keypoints.shape[1]
    if missing <= 0:
        return {"keypoints": features.keypoints, **known}
    padded = {name: F.pad(t, (0, 0, 0, missing)) for name, t in known.items()}
    return {"keypoints": F.pad(features.keypoints, (0, 0, 0, missing), value=torch.nan), **padded}


def _searched(side: dict[str, Tensor], current: Features, matching: MatcherConfig) -> Tensor:
    """Return ``1 x N x 4``: of each row of a reference (x, y), the row of the other that it matches, and how
    similar.
    """
    keypoints = side["keypoints"]
    vectors: dict[str, Any] = {"descriptors": keypoints, **side}
    valid = ~keypoints.isnan().any(dim=-1)
    reference = Features(**vectors, scores=valid, valid=valid, image_size=(1, 1))
    dense = match_features_densely(reference, current, matching, both_sides=False)
    return torch.cat((keypoints, torch.stack((dense.matches0.float(), dense.similarity0), dim=-1)), dim=-1)


def _matches(rows: np.ndarray, keypoints: np.ndarray) -> Matches:
    """Make matches from what the search gave: (x, y), index and similarity of each row of a reference."""
    index0 = np.flatnonzero(rows[:, 2] >= 0)
    chosen = rows[index0]
    index1 = chosen[:, 2].astype(np.int64)
    return Matches(
        indices=torch.from_numpy(np.stack((index0, index1), axis=1)),
        keypoints0=torch.from_numpy(chosen[:, :2].copy()),
        keypoints1=torch.from_numpy(keypoints[index1]),
        confidence=torch.from_numpy(chosen[:, 3].copy()),
    )


def can_be_recorded(networks: Networks) -> bool:
    """Return whether the whole extraction has fixed shapes, and all of it runs in torch."""
    dense = isinstance(networks.parts.extractor, DenseExtractor)
    return dense and networks.backend == "eager" and is_enabled("cuda_graphs")
