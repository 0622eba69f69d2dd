"""What decides a result: one frozen value. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

from semantic_matcher_core.errors import ConfigError, check_choice

MATCHERS = ("nearest", "lightglue")
GUIDED = ("auto", "always", "never")
FUSIONS = ("product", "sum", "concat")
REGISTRATIONS = ("exact", "published")
PRECISIONS = ("fp32", "fp16", "bf16")
BACKENDS = ("eager", "compile", "onnx", "tensorrt")
# What estimates the model of a geometric check, and what kind of model.
GEOMETRY_BACKENDS = ("magsac", "poselib")
GEOMETRIES = ("homography", "fundamental", "essential")
# Clockwise degrees at which the first image of a pair is looked at (``matching.turns``).
ROTATIONS: dict[str, tuple[int, ...]] = {
    "upright": (0,),
    "quarter": (0, 90, 180, 270),
    "any": (0, 45, 90, 135, 180, 225, 270, 315),
}


_OF_NEAREST = frozenset({"guided", "mutual", "ratio", "max_distance", "min_similarity", "fusion", "weights"})
_OF_LIGHTGLUE = frozenset({"filter_threshold", "depth_confidence", "width_confidence"})


@dataclass(frozen=True)
class MatcherConfig:
    """Options of the matcher; the defaults are those of the published reasoners.

    Distances are those of unit vectors: ``distance² = 2 (1 - similarity)``. Fused similarities are put into the same
    formula, as the published matcher does, although a sum of two of them can exceed 1.

    Attributes:
        matcher: ``"nearest"``, nearest neighbours by similarity, or ``"lightglue"``, a network that looks at both
            images (:mod:`~semantic_matcher_core.matching.learned`). Of what follows, each has its own, but for
            ``band_px``.
        guided: whether to search again, with less similarity for what lies elsewhere than the matches around say
            (:mod:`~semantic_matcher_core.matching.guided`): ``"always"``, ``"never"``, or ``"auto"``, as the extractor
            of a :class:`~semantic_matcher_core.SemanticMatcher` was made for (``compact`` with it, others without), and
            without where only features are given.
        mutual: keep a pair only when each is the other's nearest neighbour.
        ratio: keep a nearest neighbour only when its distance is at most ``ratio`` times that of the second nearest
            (Lowe 2004), in both directions when ``mutual``; in (0, 1]. Where there is no second one it is kept.
        max_distance: keep only matches at most this far apart; in (0, 2].
        min_similarity: keep only matches at least this similar (after fusion).
        fusion: how texture and semantic similarity become one: ``"product"``, ``"sum"`` (weighted), or ``"concat"``
            (that of the concatenated vectors, which is the sum of both).
        weights: of ``reasoned`` and ``semantic`` in the sum, in this order; only with ``fusion="sum"``.
        band_px: match only keypoints whose rows (y) differ by at most this many pixels, as those of rectified stereo
            images do; others are not even second nearest. ``None`` for no such restriction.
        filter_threshold: with LightGlue, keep matches whose probability is above this; in [0, 1).
        depth_confidence: with LightGlue, stop after a layer when this share of the keypoints is sure of itself; in
            (0, 1], 1 runs all layers; ``None`` for what its weights were published with.
        width_confidence: with LightGlue, drop keypoints on the way that are this sure to have no match; in (0, 1], 1
            drops none; ``None`` for what its weights were published with.
    """

    matcher: str = "nearest"
    guided: str = "auto"
    mutual: bool = True
    ratio: float | None = None
    max_distance: float | None = None
    min_similarity: float | None = None
    fusion: str = "product"
    weights: tuple[float, float] = (1.0, 1.0)
    band_px: float | None = None
    filter_threshold: float = 0.1
    depth_confidence: float | None = None
    width_confidence: float | None = None

    def __post_init__(self) -> None:
        _take_plain_numbers(self)
        check_choice("matcher", self.matcher, MATCHERS)
        check_choice("guided", self.guided, GUIDED)
        if not isinstance(self.mutual, bool):
            raise ConfigError(f"mutual must be true or false, got {self.mutual!r}")
        if self.ratio is not None and not (_is_number(self.ratio) and 0 < self.ratio <= 1):
            raise ConfigError(f"ratio must be in (0, 1], got {self.ratio!r}; leave it out for no ratio test")
        if self.max_distance is not None and not (_is_number(self.max_distance) and 0 < self.max_distance <= 2):
            raise ConfigError(f"max_distance must be in (0, 2], got {self.max_distance!r}; leave it out for no limit")
        if self.min_similarity is not None and not _is_number(self.min_similarity):
            raise ConfigError(f"min_similarity must be a number, got {self.min_similarity!r}")
        # Sums of weighted similarities may exceed 1.
        if self.min_similarity is not None and self.fusion == "product" and self.min_similarity > 1:
            raise ConfigError(f"min_similarity must be at most 1, got {self.min_similarity!r}: no match is as similar")
        if self.band_px is not None and not (_is_number(self.band_px) and self.band_px >= 0):
            raise ConfigError(f"band_px must be 0 or more pixels, got {self.band_px!r}; leave it out for no band")
        check_choice("fusion", self.fusion, FUSIONS)
        if not isinstance(self.weights, (tuple, list)) or len(self.weights) != 2:
            raise ConfigError(f"weights must be two numbers (of reasoned and semantic), got {self.weights!r}")
        if not all(_is_number(w) and w >= 0 for w in self.weights) or not any(self.weights):
            raise ConfigError(f"weights must be 0 or more and not both 0, got {self.weights!r}")
        object.__setattr__(self, "weights", (float(self.weights[0]), float(self.weights[1])))
        if self.fusion != "sum" and self.weights != (1.0, 1.0):
            raise ConfigError(f"weights {self.weights!r} are only used with fusion 'sum', not {self.fusion!r}")
        if not (_is_number(self.filter_threshold) and 0 <= self.filter_threshold < 1):
            raise ConfigError(f"filter_threshold must be in [0, 1), got {self.filter_threshold!r}")
        for name in ("depth_confidence", "width_confidence"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value <= 1):
                raise ConfigError(f"{name} must be in (0, 1], got {value!r}; leave it out for what was published")
        others = _OF_NEAREST if self.matcher == "lightglue" else _OF_LIGHTGLUE
        for item in fields(self):
            if item.name in others and getattr(self, item.name) != item.default:
                other = "nearest" if self.matcher == "lightglue" else "lightglue"
                raise ConfigError(
                    f"{item.name} is of matcher {other!r}, and has no use with {self.matcher!r}; leave it out"
                )


@dataclass(frozen=True)
class Settings:
    """What decides the result of a matcher, beside its networks. It changes only by making another.

    Two matchers with the same weights and equal settings give the same features and matches. A recorded CUDA graph and
    a resumed run are looked up by it, and diagnostics report it.

    Attributes:
        max_keypoints: keypoints of each image at most, the best by score.
        detection_threshold: a keypoint's score must be above it, in the extractor's own unit; ``None`` for the
            extractor's own.
        semantic_size: long side in pixels at which the semantic encoder sees the image, where the checkpoint does not
            fix it.
        registration: how the semantic map is sampled, ``"exact"`` or ``"published"``; see ``semantics.sampling``.
        precision: what the networks compute in, ``"fp32"``, ``"bf16"`` or ``"fp16"`` (GPU).
        matching: how two sets of features are matched.

    Raises:
        ConfigError: a value is out of range or unknown; the message names it.
    """

    max_keypoints: int = 2048
    detection_threshold: float | None = None
    semantic_size: int = 896
    registration: str = "exact"
    precision: str = "fp32"
    matching: MatcherConfig = field(default_factory=MatcherConfig)

    def __post_init__(self) -> None:
        _take_plain_numbers(self)
        check_max_keypoints(self.max_keypoints)
        if self.detection_threshold is not None and not _is_number(self.detection_threshold):
            raise ConfigError(f"detection_threshold must be a number or None, got {self.detection_threshold!r}")
        check_whole("semantic_size", self.semantic_size, unit=" of pixels")
        check_choice("registration", self.registration, REGISTRATIONS)
        check_choice("precision", self.precision, PRECISIONS)
        if not isinstance(self.matching, MatcherConfig):
            raise ConfigError(f"matching must be a MatcherConfig, got {type(self.matching).__name__}")

    @property
    def of_features(self) -> Settings:
        """The same without what matching alone depends on."""
        return replace(self, matching=MatcherConfig())


def turns_of(rotation: str) -> tuple[int, ...]:
    """Return the turns that a name stands for, clockwise degrees.

    Raises:
        ConfigError: it is none of :data:`ROTATIONS`.
    """
    check_choice("rotation", rotation, ROTATIONS)
    return ROTATIONS[rotation]


def check_max_keypoints(value: Any) -> int:
    """Return a number of keypoints as an int.

    Raises:
        ConfigError: it is no whole number from 1 up.
    """
    return check_whole("max_keypoints", value)


def check_whole(name: str, value: Any, least: int = 1, *, unit: str = "", otherwise: str = "") -> int:
    """Return a whole number as an int.

    Args:
        name: how the error calls it.
        value: from ``least`` up.
        unit, otherwise: what the error says behind "number", and behind the bound.

    Raises:
        ConfigError: it is none.
    """
    if not is_whole(value) or value < least:
        raise ConfigError(f"{name} must be a whole number{unit} from {least} up{otherwise}, got {value!r}")
    return int(value)


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number, which True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _take_plain_numbers(settings: Any) -> None:
    # NumPy's numbers become Python's: settings are compared, and written as JSON.
    for item in fields(settings):
        value = getattr(settings, item.name)
        if isinstance(value, Real) and type(value).__module__ != "builtins":
            object.__setattr__(settings, item.name, int(value) if isinstance(value, Integral) else float(value))
