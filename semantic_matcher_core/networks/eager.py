"""Networks that torch runs as they are."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from semantic_matcher_core.inference import evaluating
from semantic_matcher_core.networks.networks import Networks
from semantic_matcher_core.networks.parts import Parts


def eager_networks(parts: Parts) -> Networks:
    """Return the parts' own networks, seen in evaluation mode whatever mode they are in."""
    encoder, reasoner = parts.semantic_encoder, parts.reasoner
    return Networks(
        parts,
        "eager",
        encode=None if encoder is None else partial(_run, encoder),
        reason=None if reasoner is None else partial(_run, reasoner),
    )


def _run(network: nn.Module, *inputs: Tensor | None) -> Any:
    return evaluating(network)(*inputs)
