"""What every semantic encoder is, and the table of those that exist."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn

from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.errors import unknown_name


class SemanticEncoder(nn.Module, ABC):
    """Image to a map of semantic features, one vector per patch.

    Attributes:
        name: its name in the table, which is also its name in the weights catalogue and in published configurations.
        feature_dim: channels C of the map.
        patch_size: side of a patch in pixels; input sides must be multiples of it.
    """

    name: str = ""
    feature_dim: int = 0
    patch_size: int = 14

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return ``B x 3 x H x W`` in [0, 1], H and W multiples of ``patch_size``, to ``B x C x H/patch x W/patch``."""


class NetworkEncoder(SemanticEncoder):
    """An encoder whose network stands apart from what prepares its inputs, so that another runtime can take its place.

    A subclass implements :meth:`encode`, and :meth:`encode_inputs` where there is something to prepare.
    """

    def forward(self, images: Tensor) -> Tensor:
        return self.encode(*self.encode_inputs(images))

    def encode_inputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Make all that :meth:`encode` takes of images ``B x 3 x H x W``."""
        return (images,)

    @abstractmethod
    def encode(self, *inputs: Tensor) -> Tensor:
        """Run the network alone; nothing is checked."""


# name -> (module below semantic_matcher_core.semantics, class); the class is called with the name.
_ENCODERS: dict[str, tuple[str, str]] = {
    **{f"dinov2_vit{size}14": ("dinov2", "DinoV2") for size in "sblg"},
    **{f"dinov2_vit{size}14_reg": ("dinov2", "DinoV2") for size in "sblg"},
    **{f"dinov3_{size}": ("dinov3", "DinoV3") for size in ("vits16", "vits16plus", "vitb16")},
    "compact_context": ("compact_context", "CompactContext"),
}
# What has no weights, and is in no catalogue.
_WITHOUT_WEIGHTS: dict[str, tuple[str, str]] = {"colour-context": ("colour_context", "ColourContext")}


def list_semantic_encoders() -> list[str]:
    """Return names of the encoders that have weights; :func:`create_semantic_encoder` knows ``colour-context``
    besides.
    """
    return list(_ENCODERS)


def create_semantic_encoder(
    name: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
    fetch: bool = False,
) -> SemanticEncoder:
    """Return a semantic encoder with its published weights loaded, in evaluation mode.

    Args:
        name: one of :func:`list_semantic_encoders`, or ``colour-context``, which smoke runs of the training use.
        weights: a weights file, or a folder to search before the usual places; ``None`` for the usual places.
        device: see :func:`~semantic_matcher_core.device.resolve_device`.
        fetch: download the weights when they are not here; otherwise nothing touches the network.

    Raises:
        UnknownNameError: no such encoder.
        WeightsNotFoundError: its weights are not here (the message has the command that fetches them).
        CheckpointError: the weights file does not fit.
    """
    from semantic_matcher_core.weights import find_weights
    from semantic_matcher_core.weights.loading import Undrawn, load_state_dict_strictly

    if name not in _ENCODERS | _WITHOUT_WEIGHTS:
        raise unknown_name("semantic encoder", name, _ENCODERS)
    # Before the network is built: the giant variant takes 4.5 GB.
    path = find_weights(name, weights, fetch=fetch) if name in _ENCODERS else None
    module, class_name = (_ENCODERS | _WITHOUT_WEIGHTS)[name]
    made = getattr(importlib.import_module(f"semantic_matcher_core.semantics.{module}"), class_name)
    if path is None:
        encoder: SemanticEncoder = made(name)
    else:
        with Undrawn():
            encoder = made(name)
        load_state_dict_strictly(encoder, path)
    return encoder.eval().requires_grad_(False).to(resolve_device(device))
