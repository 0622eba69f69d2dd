"""The core's matcher as the nodes' parameters ask for it."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from semantic_matcher_core.errors import ConfigError, SemanticMatcherError
from semantic_matcher_core.geometry.robust import check_poselib
from semantic_matcher_core.loading import check_matcher
from semantic_matcher_core.matching import MatcherConfig
from semantic_matcher_core.matching.calibrated import verify_calibrated
from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.variants import licence_notes, resolve_variant
from semantic_matcher_core.weights.hashing import sha256_of_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import SimpleNamespace

    from semantic_matcher_core.geometry.camera import Camera
    from semantic_matcher_core.semantics import SemanticEncoder
    from semantic_matcher_core.semantics.semantic_map import SemanticMap
    from semantic_matcher_core.types import Features, Matches


def name_refusal(settings: SimpleNamespace) -> str:
    """Return why the parameters that name the model cannot be meant, without loading anything; empty when they can."""
    try:
        check_matcher(model_name(settings), settings.matcher)
    except SemanticMatcherError as error:
        return str(error)
    return ""


def geometry_refusal(settings: SimpleNamespace) -> str:
    """Return why the geometric check that ``settings`` ask for cannot be made here; empty where it can."""
    if getattr(settings, "geometry", "none") != "none" and settings.geometry_backend == "poselib":
        try:
            check_poselib()
        except ConfigError as error:
            return str(error)
    return ""


def model_name(settings: SimpleNamespace) -> str:
    """Return the name of what ``settings`` ask for.

    Raises:
        SemanticMatcherError: as of :func:`name_refusal`.
    """
    return resolve_variant(settings.variant, settings.descriptor, settings.dino)


def verifier(
    settings: SimpleNamespace, cameras: tuple[Camera, Camera] | None = None
) -> Callable[[Matches], Matches] | None:
    """Return the geometric check that ``settings`` ask for; ``None`` for none, and while the cameras it needs are
    missing.
    """
    if settings.geometry == "none":
        return None
    options = {"threshold_px": settings.geometry_threshold, "backend": settings.geometry_backend}
    if settings.geometry == "essential":
        if cameras is None:
            return None
        return partial(verify_calibrated, camera0=cameras[0], camera1=cameras[1], **options)
    return partial(verify, kind=settings.geometry, **options)


class MatchingModel:
    """A loaded matcher, the device it was loaded for, and the run-time parameters that decide its results.

    To streams and trackers it is a matcher, always with the parameters of the moment.

    Attributes:
        matcher: the core's matcher; another one after each :meth:`apply`.
        device: where it runs while the node is active.
        load_seconds: how long loading took.
        weights_hash: SHA-256 over all parameters of the networks, "" where there are none.
    """

    def __init__(self, matcher: SemanticMatcher, load_seconds: float = 0.0) -> None:
        self.matcher = matcher
        self.device: torch.device = matcher.device
        self.load_seconds = load_seconds
        self.weights_hash = sha256_of_weights(matcher)
        self._own = matcher.settings
        self._frames: tuple[SemanticMatcher, SemanticMatcher] | None = None

    @classmethod
    def load(cls, settings: SimpleNamespace) -> MatchingModel:
        """Build the matcher that ``settings`` describe; nothing is downloaded.

        Raises:
            SemanticMatcherError: unknown names, weights that are not here, an absent device, a damaged checkpoint.
        """
        if settings.torch_threads > 0:
            torch.set_num_threads(settings.torch_threads)
        started = time.monotonic()
        matcher = SemanticMatcher.from_pretrained(
            model_name(settings),
            device=settings.device,
            precision=settings.precision,
            backend=settings.backend,
            max_keypoints=settings.max_keypoints,
            weights=settings.weights or None,
            matcher=settings.matcher,
        )
        model = cls(matcher, time.monotonic() - started)
        model.apply(settings)
        return model

    @property
    def variant(self) -> str:
        """The name of what runs."""
        return self.matcher.variant

    @property
    def semantic_encoder(self) -> SemanticEncoder | None:
        """The matcher's, ``None`` for plain descriptor matching."""
        return self.matcher.semantic_encoder

    def extract(self, image: Any, mask: Any = None) -> Features:
        """See :meth:`SemanticMatcher.extract <semantic_matcher_core.SemanticMatcher.extract>`."""
        return self.matcher.extract(image, mask)

    def extract_and_match(self, image: Any, references: Sequence[Features]) -> tuple[Features, list[Matches]]:
        """See :meth:`SemanticMatcher.extract_and_match <semantic_matcher_core.SemanticMatcher.extract_and_match>`."""
        return self.matcher.extract_and_match(image, references)

    def extract_turned(self, image: Any, *, rotation: str = "quarter") -> Features:
        """See :meth:`SemanticMatcher.extract_turned <semantic_matcher_core.SemanticMatcher.extract_turned>`."""
        return self.matcher.extract_turned(image, rotation=rotation)

    def extract_with_map(
        self,
        image: Any,
        mask: Any = None,
        *,
        semantic_map: SemanticMap | None = None,
        motion: torch.Tensor | None = None,
    ) -> tuple[Features, SemanticMap | None]:
        """See :meth:`SemanticMatcher.extract_with_map <semantic_matcher_core.SemanticMatcher.extract_with_map>`."""
        return self.matcher.extract_with_map(image, mask, semantic_map=semantic_map, motion=motion)

    def match(self, features0: Features, features1: Features) -> Matches:
        """See :meth:`SemanticMatcher.match <semantic_matcher_core.SemanticMatcher.match>`."""
        return self.matcher.match(features0, features1)

    def match_frames(self, features0: Features, features1: Features) -> Matches:
        """Match as :meth:`match` does, between images of one camera: without the band that holds between left and
        right.
        """
        if self._frames is None or self._frames[0] is not self.matcher:
            matching = replace(self.matcher.settings.matching, band_px=None)
            self._frames = (self.matcher, self.matcher.with_settings(matching=matching))
        return self._frames[1].match(features0, features1)

    def facts(self) -> dict[str, str]:
        """Return what a user wants to know of the running model, for logs and diagnostics."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""
        return {
            "variant": self.variant,
            "device": f"{self.device} ({name})" if name else str(self.device),
            "precision": self.matcher.precision,
            "backend": self.matcher.backend,
            "matcher": self.matcher.settings.matching.matcher,
            "weights (SHA-256)": self.weights_hash[:16] or "none",
        }

    def licence_notes(self) -> list[str]:
        """Return what the licences of the model's weights forbid, one sentence each."""
        return licence_notes(self.matcher)

    def refusal(self, settings: SimpleNamespace) -> str:
        """Return why this model cannot take ``settings``; empty when it can."""
        if settings.detection_threshold >= 0 and not hasattr(self.matcher.extractor, "detection_threshold"):
            name = self.matcher.extractor.name
            return f"detection_threshold is refused: extractor {name!r} has none; leave it at -1"
        try:
            self._matching(settings)
        except ConfigError as error:
            return str(error)
        return ""

    def apply(self, settings: SimpleNamespace) -> None:
        """Take the parameters that may change at run time; others are as they were at loading.

        Raises:
            ConfigError: a value that this model has no use for.
        """
        if reason := self.refusal(settings):
            raise ConfigError(reason)
        self.matcher = self.matcher.with_settings(
            max_keypoints=settings.max_keypoints,
            detection_threshold=settings.detection_threshold if settings.detection_threshold >= 0 else None,
            semantic_size=settings.semantic_size,
            matching=self._matching(settings),
        )

    def _matching(self, settings: SimpleNamespace) -> MatcherConfig:
        """Return the parameters as options of the matcher.

        Raises:
            ConfigError: one of another matcher than what runs.
        """
        own = self._own.matching
        return replace(
            own,
            guided=settings.guided,
            mutual=settings.mutual,
            ratio=settings.ratio or own.ratio,
            max_distance=settings.max_distance or own.max_distance,
            min_similarity=settings.min_similarity if settings.min_similarity > -1 else own.min_similarity,
            filter_threshold=settings.filter_threshold,
            depth_confidence=settings.depth_confidence or own.depth_confidence,
            width_confidence=settings.width_confidence or own.width_confidence,
            band_px=_band(settings),
        )

    def warm_up(self, width: int, height: int) -> None:
        """Run once on a grey image, so that the first real one does not pay for allocation and kernel selection."""
        if width == 0 or height == 0:
            return
        # A gradient has structure everywhere; a flat image would leave the later stages without keypoints.
        ramp = np.add.outer(np.arange(height), np.arange(width)) * 7 % 256
        image = ramp.astype(np.uint8)
        features = self.matcher.extract(image)
        self.matcher.match(features, features)
        if self.device.type == "cuda":
            self.matcher.extract_and_match(image, [features])  # which is recorded

    def device_memory(self) -> int | None:
        """Return bytes that torch holds on the GPU, of this process; ``None`` on a CPU."""
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else None

    def to_device(self) -> None:
        """Bring the networks to their device."""
        self.matcher.to(self.device)

    def to_host(self) -> None:
        """Free the device's memory; the networks stay in the host's."""
        if self.device.type != "cpu":
            self.matcher.to("cpu")
            self._empty_cache()

    def unload(self) -> None:
        """Free everything; the model cannot be used any more."""
        del self.matcher
        self._frames = None
        gc.collect()
        self._empty_cache()

    def _empty_cache(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _band(settings: SimpleNamespace) -> float | None:
    # The stereo node's alone.
    rectified = getattr(settings, "rectified", False)
    return (getattr(settings, "epipolar_band", 0.0) if rectified else 0.0) or None
