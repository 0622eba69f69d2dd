"""Whole extractions and searches for matches, recorded once as CUDA graphs for each size and settings, and replayed."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.device import moved
from semantic_matcher_core.extractors.dense import DenseExtractor
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


# Features of images as ``extraction.extract`` gives them; with ``fixed_size``, without waiting for the device.
Extract = Callable[..., Features]
# Work, to its outputs and what to call to have them computed anew in their place.
Record = Callable[[Callable[[], dict[str, Tensor]]], tuple[dict[str, Tensor], Callable[[], object]]]


def record_cuda_graph(work: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], Callable[[], object]]:
    """Record work as a CUDA graph; it runs a few times first: libraries choose kernels and take memory then."""
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
    weights: list[tuple[Tensor, int]]
    read: Any = None

    @property
    def stands(self) -> bool:
        """Whether the weights are where they were: a graph reads memory, whatever became of it."""
        return all(weight.data_ptr() == place for weight, place in self.weights)


class GraphCache:
    """Recorded work by key: the last few, since each holds its memory. Threads take turns.

    Args:
        record: :func:`record_cuda_graph`, or a stand-in for tests.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
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
                    outputs, replay = self._record(lambda: work(memory))
                except RuntimeError as error:
                    self._refused.add(key)
                    _log.warning("a CUDA graph could not be recorded; the same work runs unrecorded, slower: %s", error)
                    return None
                recorded = _Recorded(memory, outputs, replay, [(weight, weight.data_ptr()) for weight in weights()])
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
    for dtype in {t.dtype for t in sources.values()}:
        names = [name for name, t in sources.items() if t.dtype is dtype]
        torch._foreach_copy_([targets[n] for n in names], [sources[n] for n in names], non_blocking=True)


class RecordedExtraction:
    """An extraction that is recorded where it can be; it takes and gives what the extraction itself does.

    Args:
        extract: the extraction.
        record: a stand-in for CUDA graphs in tests.
    """

    def __init__(self, extract: Extract, record: Record = record_cuda_graph) -> None:
        self._extract = extract
        self._graphs, self._searches = GraphCache(record), GraphCache(record)

    def __call__(self, networks: Networks, settings: Settings, images: Tensor, masks: Tensor | None = None) -> Features:
        """Return features of images; see :func:`semantic_matcher_core.extraction.extract`."""
        found = self._padded(networks, settings, images) if masks is None else None
        if found is not None:
            features, extents = found
            counts, ends = zip(*extents.tolist(), strict=True)
            if counts == ends:
                return features.first_rows(min(counts), max(counts))
        return self._extract(networks, settings, images, masks)

    def step(
        self, networks: Networks, settings: Settings, image: Tensor, references: Sequence[Features]
    ) -> tuple[Features, list[Matches]] | None:
        """Return features of an image, and matches of others with them on the host, with one wait for the device.

        Args:
            networks, settings: as for an extraction.
            image: ``1 x 3 x H x W``, see :func:`semantic_matcher_core.extraction.extract`.
            references: each of one image; they come first in its matches.

        Returns:
            ``None`` where it cannot be done so, and the caller does one thing after the other.
        """
        matching = settings.matching
        alike = all(len(r) == 1 and r.valid is None and r.device == image.device for r in references)
        looks = any(r.turn is not None or r.shrink is not None for r in references)
        if not (
            alike and not looks and len(image) == 1 and matching.matcher == "nearest" and is_enabled("single_wait")
        ):
            return None
        if any(reference.made_by not in ("", networks.parts.made_by) for reference in references):
            return None  # what matches them says why it does not
        found = self._padded(networks, settings, image)
        if found is None:
            return None
        features, extents = found
        # Whole numbers as float32 are exact up to 16 million.
        parts = [extents[:, :, None].float(), features.keypoints]
        for reference in references:
            rows = self._search(matching, reference, features)
            if rows is None:
                return None
            parts.append(rows)
        flat = moved({"all": torch.cat([part.flatten() for part in parts])}, "cpu")["all"]
        pieces = flat.split([part.numel() for part in parts])
        ends, keypoints, *sides = (p.view(part.shape[1:]) for part, p in zip(parts, pieces, strict=True))
        count, end = (int(value) for value in ends.flatten())
        if count != end:
            return None
        return features.first_rows(count, count), [_matches(side, keypoints) for side in sides]

    def _padded(self, networks: Networks, settings: Settings, images: Tensor) -> tuple[Features, Tensor] | None:
        """Return features of a fixed size, and ``B x 2``: how many rows are real, and where the last of them ends."""
        if not can_be_recorded(networks):
            return None

        def work(given: Tensors) -> dict[str, Tensor]:
            found = self._extract(networks, settings, given["images"], fixed_size=True)
            assert found.valid is not None
            ends = found.valid * torch.arange(1, found.valid.shape[1] + 1, device=found.device)
            return {**found.tensors(), "extents": torch.stack((found.valid.sum(dim=1), ends.amax(dim=1)), dim=1)}

        def weights() -> list[Tensor]:
            parts = (networks.parts.extractor, networks.parts.semantic_encoder, networks.parts.reasoner)
            return [parameter for part in parts if part is not None for parameter in part.parameters()]

        key = (networks, settings.of_features, is_enabled("streams"))
        outputs: dict[str, Any] | None = self._graphs(key, work, {"images": images}, weights)
        if outputs is None:
            return None
        extents = outputs.pop("extents")
        size = (images.shape[-2], images.shape[-1])
        return Features(image_size=size, made_by=networks.parts.made_by, **outputs), extents

    def _search(self, matching: MatcherConfig, reference: Features, current: Features) -> Tensor | None:
        """Return ``1 x N x 4`` of each row of the reference: (x, y), the other's row that it matches, how similar."""

        def work(given: Tensors) -> dict[str, Tensor]:
            sides: list[dict[str, Any]] = [
                {name[1:]: t for name, t in given.items() if name[0] == side} for side in ("0", "1")
            ]
            first, second = (
                Features(**{"descriptors": s["keypoints"], **s}, scores=s["valid"], image_size=(1, 1)) for s in sides
            )
            dense = match_features_densely(first, second, matching)
            found = torch.stack((dense.matches0.float(), dense.similarity0), dim=-1)
            return {"rows": torch.cat((first.keypoints, found), dim=-1)}

        rows = max(reference.keypoints.shape[1], current.keypoints.shape[1])
        given = {f"{i}{n}": t for i, f in enumerate((reference, current)) for n, t in _compared(f, rows).items()}
        outputs = self._searches(matching, work, given)
        return None if outputs is None else outputs["rows"]

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy records anew, on its own weights.
        return RecordedExtraction, (self._extract,)


def _compared(features: Features, rows: int) -> dict[str, Tensor]:
    """Return what matching reads of features of one image, with padding up to ``rows``."""
    names = ["descriptors"] if features.reasoned is None else ["reasoned", "semantic"]
    known = {name: t for name in ("keypoints", *names) if (t := getattr(features, name)) is not None}
    missing = rows - features.keypoints.shape[1]
    if not missing:
        return {**known, "valid": features.real}
    padded = {name: F.pad(t, (0, 0, 0, missing)) for name, t in known.items()}
    return {**padded, "valid": F.pad(features.real, (0, missing))}


def _matches(rows: Tensor, keypoints: Tensor) -> Matches:
    """Make matches from what the search gave, both on the host."""
    index0 = (rows[:, 2] >= 0).nonzero()[:, 0]
    chosen = rows[index0]
    index1 = chosen[:, 2].long()
    return Matches(
        indices=torch.stack((index0, index1), dim=1),
        keypoints0=chosen[:, :2].contiguous(),
        keypoints1=keypoints[index1],
        confidence=chosen[:, 3].contiguous(),
    )


def can_be_recorded(networks: Networks) -> bool:
    """Return whether the whole extraction has fixed shapes, and all of it runs in torch."""
    dense = isinstance(networks.parts.extractor, DenseExtractor)
    return dense and networks.backend == "eager" and is_enabled("cuda_graphs")
