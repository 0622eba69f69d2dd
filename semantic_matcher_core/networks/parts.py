"""The parts of a matcher: an extractor, and a semantic encoder and a reasoner, or LightGlue, that fit it."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from semantic_matcher_core.device import PRECISIONS
from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.extractors.dense import DenseExtractor
from semantic_matcher_core.matching.learned import LightGlueMatcher
from semantic_matcher_core.precision import has_narrow_weights, narrowed
from semantic_matcher_core.reasoning import Reasoner
from semantic_matcher_core.semantics import SemanticEncoder
from semantic_matcher_core.settings import Settings

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Parts:
    """What a matcher is made of. Several matchers may share parts: none changes them.

    Attributes:
        extractor: keypoints and descriptors.
        semantic_encoder, reasoner: both or neither; without them descriptors are matched as they are.
        lightglue: what matches instead of nearest neighbours, or ``None``; only without a reasoner.

    Raises:
        ConfigError: one of encoder and reasoner without the other, or LightGlue beside them, or one that was made for
            another extractor.
        ShapeError: the reasoner was made for other dimensions.
    """

    extractor: Extractor
    semantic_encoder: SemanticEncoder | None = None
    reasoner: Reasoner | None = None
    lightglue: LightGlueMatcher | None = None

    def __post_init__(self) -> None:
        if self.lightglue is not None:
            self._check_lightglue(self.lightglue)
        if (self.semantic_encoder is None) != (self.reasoner is None):
            raise ConfigError("a semantic encoder and a reasoner are only of use together; give both or neither")
        if self.semantic_encoder is None or self.reasoner is None:
            return
        config = self.reasoner.config
        for what, wants, has in (
            (
                f"extractor {self.extractor.name!r} gives descriptors",
                config.extractor_features_dim,
                self.extractor.descriptor_dim,
            ),
            (
                f"{self.semantic_encoder.name!r} gives features",
                config.semantic_features_dim,
                self.semantic_encoder.feature_dim,
            ),
        ):
            if wants != has:
                raise ShapeError(f"{what} of {has} dimensions, but the reasoner was made for {wants}")

    def _check_lightglue(self, lightglue: LightGlueMatcher) -> None:
        if self.reasoner is not None:
            raise ConfigError(
                "matcher 'lightglue' was trained on the extractor's own descriptors, and not on reasoned ones; take a "
                f"plain variant (dino 'none', plain:{self.extractor.name}), or matcher 'nearest'"
            )
        if lightglue.extractor != self.extractor.name:
            raise ConfigError(
                f"this LightGlue is for extractor {lightglue.extractor!r}, not for {self.extractor.name!r}"
            )

    @property
    def device(self) -> torch.device:
        """Where they are (for an extractor without parameters, the encoder decides, else the CPU)."""
        modules = (self.extractor, self.semantic_encoder, self.reasoner, self.lightglue)
        parameter = next((p for module in modules if module is not None for p in module.parameters()), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @property
    def made_by(self) -> str:
        """What their features say made them."""
        if self.semantic_encoder is None or self.reasoner is None:
            return self.extractor.name
        layers = self.reasoner.config.n_attention_layers
        return f"{self.extractor.name} with {self.semantic_encoder.name}, {layers} layers"

    def on(self, device: torch.device) -> Parts:
        """Return the same parts on a device; a part that is elsewhere is copied."""
        encoder, reasoner, lightglue = self.semantic_encoder, self.reasoner, self.lightglue
        return Parts(
            _on(self.extractor, device),
            None if encoder is None else _on(encoder, device),
            None if reasoner is None else _on(reasoner, device),
            None if lightglue is None else _on(lightglue, device),
        )

    def narrowed(self, precision: str) -> Parts:
        """Return parts whose large weights have the type of a precision, see :mod:`~semantic_matcher_core.precision`.

        Raises:
            ConfigError: they are narrow already, in another type: what was rounded off is lost.
        """
        encoder, reasoner, dtype = self.semantic_encoder, self.reasoner, PRECISIONS[precision]
        extractor = _narrow_extractor(self.extractor, dtype)
        if encoder is None or reasoner is None:
            return self if extractor is self.extractor else replace(self, extractor=extractor)
        narrow = {p.dtype for part in (encoder, reasoner) for p in part.parameters()} - {torch.float32}
        if narrow:
            # Of float16, what needs its range is bfloat16.
            if dtype in narrow and narrow <= {dtype, torch.bfloat16}:
                return self
            raise _rounded(narrow, dtype)
        if has_narrow_weights(encoder):
            encoder = narrowed(encoder, dtype)
        return Parts(extractor, encoder, narrowed(reasoner, dtype))

    def check(self, settings: Settings) -> None:
        """Raise where settings are of no use to these parts.

        Raises:
            ConfigError: a detection threshold for an extractor without one, a semantic size below one patch, or matcher
            'lightglue' where there is no LightGlue.
        """
        if settings.detection_threshold is not None and not hasattr(self.extractor, "detection_threshold"):
            raise ConfigError(f"extractor {self.extractor.name!r} has no detection_threshold; leave it out")
        if settings.matching.matcher == "lightglue" and self.lightglue is None:
            raise ConfigError(
                "this matcher has no LightGlue: build it with matcher='lightglue', of a plain variant such as "
                "plain:aliked-n16"
            )
        encoder = self.semantic_encoder
        if self.reasoner is None or encoder is None or self.reasoner.config.fix_dino_size > 0:
            return
        if settings.semantic_size < encoder.patch_size:
            raise ConfigError(
                f"semantic_size must be at least one patch ({encoder.patch_size} px), got {settings.semantic_size}"
            )

    def without_effect(self, settings: Settings, backend: str = "eager") -> dict[str, str]:
        """Return the settings that these parts have no use for, and that somebody chose, with a sentence for each."""
        name, device, encoder, reasoner = self.extractor.name, self.device.type, self.semantic_encoder, self.reasoner
        usual, found = Settings(), {}
        fixed = 0 if reasoner is None else reasoner.config.fix_dino_size
        if settings.semantic_size != usual.semantic_size and (encoder is None or fixed > 0):
            why = f"the checkpoint fixes it at {fixed}" if fixed > 0 else f"extractor {name!r} alone has no encoder"
            found["semantic_size"] = f"semantic_size {settings.semantic_size} has no effect: {why}"
        narrow, full = has_narrow_weights(self.extractor), getattr(self.extractor, "full_precision", False)
        on_gpu = device == "cuda" and (narrow or self.lightglue is not None)
        by_autocast = not (narrow or full) and next(self.extractor.parameters(), None) is not None
        if settings.precision != usual.precision and reasoner is None and not (on_gpu or by_autocast):
            why = f"extractor {name!r} runs in fp32 on {device}"
            found["precision"] = f"precision {settings.precision!r} has no effect: {why}"
        if backend in ("compile", "tensorrt") and reasoner is None and not isinstance(self.extractor, DenseExtractor):
            found["backend"] = f"backend {backend!r} has no effect: extractor {name!r} has no dense network to compile"
        return found


def _narrow_extractor(extractor: Extractor, dtype: torch.dtype) -> Extractor:
    """Choose float16 on a GPU for one that can, whichever narrow type is wanted: bfloat16 would move its keypoints."""
    if not has_narrow_weights(extractor) or extractor.device.type != "cuda":
        return extractor
    narrow = {p.dtype for p in extractor.parameters()} - {torch.float32}
    if narrow and dtype is torch.float32:
        raise _rounded(narrow, dtype)
    return extractor if narrow or dtype is torch.float32 else narrowed(extractor, torch.float16)


def _rounded(narrow: set[torch.dtype], wanted: torch.dtype) -> ConfigError:
    precision = next(name for name, dtype in PRECISIONS.items() if dtype is wanted)
    return ConfigError(
        f"the weights were rounded to {', '.join(map(str, narrow))} already, which precision {precision!r} cannot "
        "undo; build the matcher from float32 weights"
    )


def _on(module: Network, device: torch.device) -> Network:
    elsewhere = (t for t in itertools.chain(module.parameters(), module.buffers()) if t.device != device)
    return module if next(elsewhere, None) is None else copy.deepcopy(module).to(device)
