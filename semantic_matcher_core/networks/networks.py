"""The three callables that everything else of a matcher is built around."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from semantic_matcher_core.extractors.base import Dense
from semantic_matcher_core.inference import evaluating
from semantic_matcher_core.networks.parts import Parts

Encode = Callable[[Tensor], Tensor]
Reason = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True, eq=False)
class Networks:
    """What runs the networks of some parts. The parts stay as they are, and several networks may share them.

    Attributes:
        parts: whose networks they are; what surrounds a network (selection, sampling) is still theirs.
        backend: what made them: ``"eager"``, ``"compile"``, ``"onnx"`` or ``"tensorrt"``.
        dense: what an extractor's ``prepare`` gave to its dense maps; ``None`` where it has no dense network of its
            own, or runs that itself.
        encode: images ``B x 3 x h x w``, sides multiples of the encoder's patch, to a map ``B x C x h/p x w/p``;
            ``None`` without a semantic encoder.
        reason: as :meth:`Reasoner.forward <semantic_matcher_core.reasoning.Reasoner.forward>`; ``None`` without one.
        origin: what tells them from other networks that the backend makes of the same parts (of an export to ONNX, the
            SHA-256 of its manifest); "" where there are no others.
    """

    parts: Parts
    backend: str
    dense: Dense | None = None
    encode: Encode | None = None
    reason: Reason | None = None
    origin: str = ""


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
