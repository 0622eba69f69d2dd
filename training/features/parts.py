"""Extractors by the names of a training configuration, built as inference builds them; images at encoders' sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.loading import create_configured_extractor
from semantic_matcher_core.reasoning import ModelConfig, ReasonerConfig
from semantic_matcher_core.semantics import SemanticEncoder, resize_for_encoder

# What a checkpoint's section on the extractor can say, and is obeyed when it is loaded.
EXTRACTOR_OPTIONS = ("detection_threshold", "nms_radius", "normalize_descriptors")
# The pipeline's long side where a checkpoint says none.
DEFAULT_LONG_SIDE = 896


def build_extractor(
    name: str,
    max_keypoints: int,
    options: dict[str, Any] | None = None,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Extractor:
    """Return an extractor with the options that the checkpoint trained on it will ask for.

    Args:
        name: any that ``create_extractor`` knows.
        max_keypoints: keypoints per image.
        options: of ``EXTRACTOR_OPTIONS``.
        weights: a folder to search before the usual places.

    Raises:
        ConfigError: an option that a checkpoint cannot carry.
        UnknownNameError, WeightsNotFoundError: as ``create_extractor``.
    """
    options = dict(options or {})
    unknown = sorted(set(options) - set(EXTRACTOR_OPTIONS))
    if unknown:
        raise ConfigError(
            f"extractor option {unknown[0]!r} is not one a checkpoint can carry; use {', '.join(EXTRACTOR_OPTIONS)}"
        )
    # The sizes of a reasoner play no part in building an extractor.
    described = ModelConfig("none", name, ReasonerConfig(1, 1), options)
    return create_configured_extractor(described, max_keypoints=max_keypoints, weights=weights, device=device)


def resized_for(encoder: SemanticEncoder, images: Tensor, long_side: int) -> Tensor:
    """Return images at the size ``encoder`` sees; ``long_side`` 0 keeps theirs, to the nearest whole patches."""
    side = long_side if long_side > 0 else max(encoder.patch_size, *images.shape[-2:])
    return resize_for_encoder(images, side, encoder.patch_size, registration="exact")[0]
