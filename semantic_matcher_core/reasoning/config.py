"""What a reasoner is made of, and the published ``model_config.yaml`` that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from semantic_matcher_core.errors import ConfigError, check_choice
from semantic_matcher_core.semantics.sampling import INTERPOLATION_MODES
from semantic_matcher_core.settings import REGISTRATIONS, check_whole, is_whole

_DIMENSIONS = ("extractor_features_dim", "semantic_features_dim", "features_dim", "n_attention_layers", "num_heads")
_CHOICES = {
    "attention": ("full",),
    # The published code knows two more names, reads neither, and runs "alternating" whatever the file says.
    "attention_progression": ("alternating",),
    "semantic_interpolation_mode": INTERPOLATION_MODES,
}
_FLAGS = ("semantic_conditioning", "deep_supervision")


@dataclass(frozen=True)
class ReasonerConfig:
    """Configuration of a :class:`~semantic_matcher_core.reasoning.Reasoner`; defaults are those of published training.

    Attributes:
        extractor_features_dim: dimension of the local descriptors.
        semantic_features_dim: channels of the semantic encoder's map.
        features_dim: dimension inside the reasoner and of both of its outputs.
        n_attention_layers: attention blocks of each branch.
        num_heads: attention heads; divides ``features_dim``.
        attention: ``"full"``.
        attention_progression: ``"alternating"``: what the texture branch asks with, see ``Reasoner``.
        semantic_conditioning: whether matching multiplies by the similarity of the semantic branch.
        deep_supervision: whether training supervises every layer or only the last.
        semantic_interpolation_mode: how the semantic map is sampled: ``"bicubic"``, ``"bilinear"`` or ``"nearest"``.
        fix_dino_size: long side in pixels at which the semantic encoder sees the image; 0 or less for the usual one.

    Raises:
        ConfigError: a value is of the wrong type or out of range, or heads do not divide the dimension.
    """

    extractor_features_dim: int
    semantic_features_dim: int
    features_dim: int = 256
    n_attention_layers: int = 5
    num_heads: int = 1
    attention: str = "full"
    attention_progression: str = "alternating"
    semantic_conditioning: bool = True
    deep_supervision: bool = True
    semantic_interpolation_mode: str = "bicubic"
    fix_dino_size: int = -1

    def __post_init__(self) -> None:
        for name in _DIMENSIONS:
            check_whole(name, getattr(self, name))
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not is_whole(self.fix_dino_size):
            raise ConfigError(f"fix_dino_size must be a whole number of pixels, or -1, got {self.fix_dino_size!r}")
        if self.features_dim % self.num_heads:
            raise ConfigError(f"num_heads {self.num_heads} does not divide features_dim {self.features_dim}")


@dataclass(frozen=True)
class ModelConfig:
    """What ``model_config.yaml`` of a checkpoint folder says.

    Attributes:
        dino_weights: name of the semantic encoder.
        extractor_name: name of the extractor, as published configurations spell it.
        reasoner: configuration of the reasoner.
        extractor_options: the rest of that section: ``max_num_keypoints``, ``detection_threshold`` …
        registration: how the weights were trained to sample the semantic map, ``"exact"`` or ``"published"`` (see
            ``semantics.sampling``). Published files do not say, and mean the latter.

    Raises:
        ConfigError: ``registration`` is unknown.
    """

    dino_weights: str
    extractor_name: str
    reasoner: ReasonerConfig
    extractor_options: dict[str, Any] = field(default_factory=dict)
    registration: str = "published"

    def __post_init__(self) -> None:
        check_choice("registration", self.registration, REGISTRATIONS)

    @staticmethod
    def from_mapping(content: Any, dimensions: Mapping[str, int] | None = None) -> ModelConfig:
        """Read the published structure.

        Keys that are left out mean what they mean to the published code, whose class defaults are not those of its
        training (``num_heads`` 4, no ``semantic_conditioning``). Keys that nothing reads are ignored.

        Args:
            content: the parsed file.
            dimensions: by ``ReasonerConfig`` name, what a checkpoint's weights say of sizes the file leaves out.

        Raises:
            ConfigError: a section is no mapping, a value is wrong, or a size is neither in the file nor in the weights.
        """
        if not isinstance(content, Mapping):
            raise ConfigError(f"expected sections dino, extractor and reasoning, got {type(content).__name__}")
        dino, extractor, reasoning = (_section(content, name) for name in ("dino", "extractor", "reasoning"))
        values: dict[str, Any] = {"num_heads": 4, "semantic_conditioning": False, **(dimensions or {})}
        for item in fields(ReasonerConfig):
            # Dimensions and the kind of attention have a section; the rest lies at the top.
            for place in (content, reasoning):
                if place.get(item.name) is not None:
                    values[item.name] = place[item.name]
        for name in _DIMENSIONS:
            if name not in values:
                raise ConfigError(f"reasoning.{name} is missing")
        options = dict(extractor)
        return ModelConfig(
            dino_weights=_name(dino, "weights", "dinov2_vits14", "dino."),
            extractor_name=_name(options, "model_name", "aliked-n16", "extractor."),
            extractor_options={k: v for k, v in options.items() if k != "model_name"},
            reasoner=ReasonerConfig(**values),
            registration=_name(content, "registration", "published"),
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the published structure, every key written out."""
        reasoner = {item.name: getattr(self.reasoner, item.name) for item in fields(ReasonerConfig)}
        section = {name: reasoner.pop(name) for name in (*_DIMENSIONS, "attention")}
        return {
            "dino": {"weights": self.dino_weights, "allow_resize": True},
            "extractor": {"model_name": self.extractor_name, **self.extractor_options},
            "reasoning": section,
            **reasoner,
            "activate_timers": False,
            "registration": self.registration,
        }


def _section(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = content.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"section {name} must hold keys and values, got {section!r}")
    return section


def _name(section: Mapping[str, Any], key: str, default: str, prefix: str = "") -> str:
    value = section.get(key, default)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{prefix}{key} must be a name, got {value!r}")
    return value
