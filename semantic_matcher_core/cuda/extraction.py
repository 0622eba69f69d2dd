"""Features of an image on a GPU: uploaded without waiting, networks on two streams, recorded as one graph."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.cuda.graphs import CudaRecorder, GraphCache, Recorder
from semantic_matcher_core.cuda.upload import PinnedUpload
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.types import Features

if TYPE_CHECKING:
    from semantic_matcher_core.pipeline import SemanticMatcher
    from semantic_matcher_core.semantics.semantic_map import SemanticMap


class CudaExtraction:
    """What :meth:`SemanticMatcher.extract` does on a GPU; it decides for each image what applies.

    Args:
        recorder: a stand-in for CUDA graphs in tests.
    """

    def __init__(self, device: torch.device, recorder: Recorder | None = None) -> None:
        self.device = device
        self._upload = PinnedUpload(device)
        self._graphs = GraphCache(recorder or CudaRecorder())
        self._side: Any = None

    def uploaded(self, image: Any) -> Tensor | None:
        """A uint8 array as ``B x 3 x H x W`` floats on the device; ``None`` for anything else."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or 0 in image.shape:
            return None
        if not is_enabled("pinned_upload") or image.ndim not in (2, 3, 4):
            return None
        channels = image if image.ndim > 2 else image[..., None]
        channels = channels if channels.ndim == 4 else channels[None]
        if channels.shape[-1] not in (1, 3):
            return None
        batch = self._upload(channels).permute(0, 3, 1, 2).to(torch.float32) / 255.0
        return batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch

    def can_replay(self, matcher: SemanticMatcher, masks: Tensor | None) -> bool:
        """Whether the whole extraction has fixed shapes and can be recorded."""
        fixed = getattr(matcher.extractor, "fixed_size", None)
        return is_enabled("cuda_graphs") and masks is None and fixed is not None and matcher.backend == "eager"

    def replayed(self, matcher: SemanticMatcher, images: Tensor) -> Features:
        """Features with ``max_keypoints`` rows and ``valid``, from the recorded graph of this image size."""
        extractor: Any = matcher.extractor
        size = (images.shape[-2], images.shape[-1])
        settings = (
            extractor.max_keypoints,
            getattr(extractor, "detection_threshold", None),
            matcher.semantic_size,
            matcher.registration,
            matcher.precision,
            is_enabled("streams"),
        )
        before = extractor.fixed_size
        extractor.fixed_size = True
        try:
            outputs = self._graphs(
                settings,
                lambda given: _tensors(matcher.features_of(given)),
                images,
                lambda: list(getattr(matcher.semantic_encoder, "_positions", {}).values()),
            )
        finally:
            extractor.fixed_size = before
        return Features(image_size=size, **outputs)

    def side_by_side(
        self, matcher: SemanticMatcher, images: Tensor, masks: Tensor | None
    ) -> tuple[Features, SemanticMap]:
        """Local features and the semantic map, on two streams."""
        if self._side is None:
            self._side = torch.cuda.Stream(self.device)
        current = torch.cuda.current_stream(self.device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            semantic_map = matcher.semantic_map(images)
        features = matcher.local_features(images, masks)
        current.wait_stream(self._side)
        # The memory was taken on the side stream; it must not be given away while this one reads it.
        semantic_map.features.record_stream(current)
        return features, semantic_map

    def __deepcopy__(self, memo: dict[int, Any]) -> CudaExtraction:
        return CudaExtraction(self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        return CudaExtraction, (self.device,)


def _tensors(features: Features) -> dict[str, Tensor]:
    values = {f.name: getattr(features, f.name) for f in fields(features)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
