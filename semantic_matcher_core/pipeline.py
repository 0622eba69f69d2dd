"""SemanticMatcher: image -> Features -> Matches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semantic_matcher_core import extraction
from semantic_matcher_core.device import is_slow, resolve_device, resolve_precision
from semantic_matcher_core.errors import ConfigError, ShapeError, check_choice, did_you_mean
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.extractors.resizing import features_at_size, fit_long_side
from semantic_matcher_core.inference import evaluating, inference
from semantic_matcher_core.inputs import as_image_batch, as_mask_batch
from semantic_matcher_core.loading import load_parts, make_networks
from semantic_matcher_core.matching import MatcherConfig, match_features
from semantic_matcher_core.matching.learned import LightGlueMatcher
from semantic_matcher_core.matching.sizes import at_sizes
from semantic_matcher_core.matching.turns import extract_turned
from semantic_matcher_core.networks import Networks, Parts
from semantic_matcher_core.networks.graphs import RecordedExtraction
from semantic_matcher_core.reasoning import Reasoner
from semantic_matcher_core.semantics import SemanticEncoder
from semantic_matcher_core.semantics.semantic_map import SemanticMap
from semantic_matcher_core.settings import BACKENDS, Settings, turns_of
from semantic_matcher_core.types import Features, Matches
from semantic_matcher_core.variants.names import DEFAULT_VARIANT

_log = logging.getLogger(__name__)
_SETTINGS = frozenset(item.name for item in fields(Settings))
_OF_MATCHING = frozenset(item.name for item in fields(MatcherConfig))


class SemanticMatcher(nn.Module):
    """Matches images by local features, and by what they are part of where a reasoner is given.

    Build one with :meth:`from_pretrained` or :meth:`from_parts`. What decides its results stays as it is;
    :meth:`with_settings` makes another one on the same networks. Several threads may use one matcher, and several
    matchers may share parts: nothing that a call does is seen by another.

    Attributes:
        extractor, semantic_encoder, reasoner, lightglue: the parts; encoder and reasoner are ``None`` for plain
            matching, ``lightglue`` where nearest neighbours are matched.
        settings: what decides the results, beside the parts; its fields are attributes, too.
        backend: what runs the networks.
        variant: the name this matcher was built from, or "".
    """

    extractor: Extractor
    semantic_encoder: SemanticEncoder | None
    reasoner: Reasoner | None
    lightglue: LightGlueMatcher | None

    def __init__(self, networks: Networks, settings: Settings, variant: str = "") -> None:
        super().__init__()
        parts = networks.parts
        self.extractor, self.semantic_encoder, self.reasoner = parts.extractor, parts.semantic_encoder, parts.reasoner
        self.lightglue = parts.lightglue
        self._networks, self._settings, self.variant = networks, _decided(settings, parts), variant
        self._recorded = RecordedExtraction(extraction.extract)
        # Its own mode alone: those of the parts are their owner's, and extraction goes by neither.
        self.training = False

    @classmethod
    def from_parts(
        cls,
        extractor: Extractor,
        semantic_encoder: SemanticEncoder | None = None,
        reasoner: Reasoner | None = None,
        lightglue: LightGlueMatcher | None = None,
        *,
        device: str | torch.device = "auto",
        precision: str = "fp32",
        backend: str = "eager",
        onnx_folder: str | Path | None = None,
        variant: str = "",
        **settings: Any,
    ) -> SemanticMatcher:
        """Make a matcher from parts; without a reasoner it is plain descriptor matching, through the same code.

        The parts stay as they are: several matchers may share them, and one that is on another device is copied.

        Args:
            extractor: keypoints and descriptors.
            semantic_encoder, reasoner: both or neither; their dimensions must fit.
            lightglue: of this extractor, see :func:`~semantic_matcher_core.matching.learned.create_lightglue`; matches
                instead of nearest neighbours. Only without a reasoner.
            device: where to run, see :func:`~semantic_matcher_core.device.resolve_device`.
            precision: ``fp32``, ``bf16`` or ``fp16`` (GPU only): what the networks compute in; results stay float32.
                DINOv2 and the reasoner are copied with weights of that type; an extractor whose keypoints would move
                (XFeat's) stays float32.
            backend: what runs the networks, see :func:`~semantic_matcher_core.loading.make_networks`.
            onnx_folder: with backend ``"onnx"``, where the graphs are; ``None`` for where ``export`` puts those of the
                variant.
            variant: a name for logs, and for finding graphs.
            settings: fields of :class:`~semantic_matcher_core.settings.Settings`, such as ``matching``
                (:class:`~semantic_matcher_core.matching.MatcherConfig`) and ``semantic_size``; ``max_keypoints`` is the
                extractor's unless given.

        Raises:
            ConfigError, ShapeError: the parts or settings do not fit together.
            DeviceError: device or precision are not available here.
        """
        check_choice("backend", backend, BACKENDS)
        resolved = resolve_device(device)
        resolve_precision(precision, resolved)
        parts = Parts(extractor, semantic_encoder, reasoner, lightglue).on(resolved)
        # What is not given is the extractor's, or the default.
        matching = MatcherConfig(matcher="nearest" if lightglue is None else "lightglue")
        usual = Settings(max_keypoints=extractor.max_keypoints, precision=precision, matching=matching)
        chosen = _replaced(usual, settings)
        parts.check(chosen)
        idle = parts.without_effect(chosen, backend)
        for text in idle.values():
            _log.warning(text)
        if "precision" not in idle and is_slow(resolve_precision(precision, resolved), resolved):
            _log.warning("precision %r is slower than 'fp32' here: this CPU has no instructions for it", precision)
        options = {} if onnx_folder is None else {"onnx_folder": onnx_folder}
        parts = parts.narrowed(precision)
        return cls(make_networks(parts, backend, precision=precision, variant=variant, **options), chosen, variant)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_VARIANT,
        *,
        device: str | torch.device = "auto",
        precision: str = "fp32",
        backend: str = "eager",
        onnx_folder: str | Path | None = None,
        max_keypoints: int | None = None,
        weights: str | Path | None = None,
        fetch: bool = False,
        matcher: str | None = None,
        **settings: Any,
    ) -> SemanticMatcher:
        """Load a published variant, a checkpoint folder or zip, or ``plain:<extractor>``.

        Args:
            name_or_path: a catalogue name (:func:`~semantic_matcher_core.variants.list_variants`), a folder with
                ``model_config.yaml`` and a ``.pt``, a ``.zip`` of one, or ``plain:<extractor>``.
            device, precision, backend, onnx_folder: see :meth:`from_parts`.
            max_keypoints: keypoints per image; ``None`` for what the variant's configuration says (2048 for plain).
            weights: a folder to search for weights before the usual places.
            fetch: download what is not here; otherwise nothing touches the network.
            matcher: ``"nearest"`` or ``"lightglue"``, for short; otherwise ``matching`` says it.
            settings: as in :meth:`from_parts`.

        Raises:
            UnknownNameError: no such variant or extractor; the message lists those that exist.
            WeightsNotFoundError: weights are not here; the message has the command that fetches them and the plain
                alternative.
            CheckpointError: the checkpoint is damaged or does not fit.
        """
        check_choice("backend", backend, BACKENDS)
        resolved = resolve_device(device)
        resolve_precision(precision, resolved)
        if matcher is not None:
            settings["matching"] = replace(settings.get("matching") or MatcherConfig(), matcher=matcher)
        matching = settings.get("matching")
        parts, defaults = load_parts(
            name_or_path,
            max_keypoints=max_keypoints,
            weights=weights,
            fetch=fetch,
            device=resolved,
            lightglue=isinstance(matching, MatcherConfig) and matching.matcher == "lightglue",
        )
        return cls.from_parts(
            parts.extractor,
            parts.semantic_encoder,
            parts.reasoner,
            parts.lightglue,
            device=resolved,
            precision=precision,
            backend=backend,
            onnx_folder=onnx_folder,
            **{**defaults, **settings},
        )

    def with_settings(self, **settings: Any) -> SemanticMatcher:
        """Return a matcher with other settings, on the same networks; this one stays as it is.

        Args:
            settings: fields of :class:`~semantic_matcher_core.settings.Settings`. Another ``precision`` has networks of
                its own.

        Raises:
            ConfigError: a value is of no use to these parts, or the weights were rounded to another precision already.
        """
        chosen = _replaced(self._settings, settings)
        networks = self._networks
        networks.parts.check(chosen)
        if chosen.precision != self.precision:
            if self.precision != "fp32":
                raise ConfigError(
                    f"this matcher's weights were rounded to {self.precision!r}; build another for {chosen.precision!r}"
                )
            return SemanticMatcher.from_parts(
                self.extractor,
                self.semantic_encoder,
                self.reasoner,
                self.lightglue,
                device=self.device,
                backend=self.backend,
                variant=self.variant,
                **{item.name: getattr(chosen, item.name) for item in fields(Settings)},
            )
        before = networks.parts.without_effect(self._settings)
        for name, text in networks.parts.without_effect(chosen).items():
            if before.get(name) != text:
                _log.warning(text)
        other = SemanticMatcher(networks, chosen, self.variant)
        other._recorded = self._recorded
        return other

    def with_backend(self, backend: str, **options: Any) -> SemanticMatcher:
        """Return a matcher whose networks something else runs, on the same parts; this one stays as it is.

        Args:
            backend, options: see :func:`~semantic_matcher_core.loading.make_networks`.

        Raises:
            ConfigError, DeviceError, CheckpointError: the backend cannot run here, or not these parts.
        """
        networks = make_networks(self.parts, backend, precision=self.precision, variant=self.variant, **options)
        return SemanticMatcher(networks, self._settings, self.variant)

    @property
    def settings(self) -> Settings:
        """What decides the results, beside the parts."""
        return self._settings

    @property
    def networks(self) -> Networks:
        """What runs the networks."""
        return self._networks

    @property
    def parts(self) -> Parts:
        """The parts, with weights of the matcher's precision."""
        return self._networks.parts

    @property
    def backend(self) -> str:
        """What runs the networks: ``"eager"``, ``"compile"``, ``"onnx"`` or ``"tensorrt"``."""
        return self._networks.backend

    @property
    def device(self) -> torch.device:
        """Where the networks run (for an extractor without parameters, the reasoner decides, else the CPU)."""
        return self._networks.parts.device

    @inference
    def extract(self, image: Any, mask: Any = None) -> Features:
        """Compute keypoints with local, and where there is a reasoner reasoned and semantic, descriptors.

        Args:
            image: ``H x W x 3`` or ``H x W`` uint8 array (RGB), ``B x 3 x H x W`` tensor (uint8, or float in [0, 1]),
                or the path of a file.
            mask: ``H x W`` (or ``B x H x W``), non-zero where keypoints are wanted.

        Returns:
            Features on the matcher's device; of one image without padding.

        Raises:
            ImageError: shape, type or value range is none of those.
            ForkError: this process was forked from one that had used torch.
        """
        return self._extract(*self._given(image, mask))

    @inference
    def extract_turned(self, image: Any, mask: Any = None, *, rotation: str = "quarter") -> Features:
        """Run :meth:`extract` at several turns: features of an image that others are matched with, however they are
        turned.

        Matching takes the rows of the turn that fits; indices are rows of all of them. It takes as many extractions as
        there are turns, once: an image that many are matched with is worth it.

        Args:
            image, mask: as for :meth:`extract`.
            rotation: ``"upright"`` (as :meth:`extract`), ``"quarter"`` (four turns) or ``"any"`` (eight).

        Raises:
            ImageError: shape, type or value range is none of those.
            ConfigError: no such rotation.
        """
        turns = turns_of(rotation)
        return self._extract_turned(*self._given(image, mask), turns)

    @inference
    def extract_at_sizes(self, image: Any, mask: Any = None, *, rotation: str = "upright") -> Features:
        """Run :meth:`extract_turned` at several sizes: features of an image that others are matched with, however small
        they show it.

        The image is seen as it is, and at half and a quarter of that where its long side is then 96 pixels or more.
        Matching takes the rows of the size (and turn) that fits; indices are rows of all of them.

        Args:
            image, mask: as for :meth:`extract`.
            rotation: as for :meth:`extract_turned`.

        Raises:
            ImageError: shape, type or value range is none of those.
            ConfigError: no such rotation.
        """
        turns = turns_of(rotation)
        images, masks = self._given(image, mask)
        given = (images.shape[-2], images.shape[-1])

        def seen(side: int) -> Features:
            smaller, smaller_masks = fit_long_side(images, masks, side)
            return features_at_size(self._extract_turned(smaller.clamp(0, 1), smaller_masks, turns), given)

        return at_sizes(seen, max(given))

    @inference
    def extract_with_map(
        self, image: Any, mask: Any = None, *, semantic_map: SemanticMap | None = None, motion: Tensor | None = None
    ) -> tuple[Features, SemanticMap | None]:
        """Run :meth:`extract`, and keep the semantic map for use with a later image of the same scene.

        Args:
            image, mask: as for :meth:`extract`.
            semantic_map, motion: see :func:`~semantic_matcher_core.extraction.extract_with_map`.

        Returns:
            The features, and the map they were looked up in; ``None`` for a plain matcher.

        Raises:
            ImageError: shape, type or value range is none of those.
        """
        images, masks = self._given(image, mask)
        return extraction.extract_with_map(
            self._networks, self._settings, images, masks, semantic_map=semantic_map, motion=motion
        )

    @inference
    def match(self, features0: Features, features1: Features) -> Matches:
        """Match two (batches of) features of this matcher.

        Raises:
            ShapeError: batch sizes, descriptor dimensions or what made them differ, or these are no features.
        """
        for given in (features0, features1):
            if not isinstance(given, Features):
                raise ShapeError(
                    f"match takes what extract gave (Features), got {type(given).__name__}; for images: match_images"
                )
        matching = self._settings.matching
        if matching.matcher == "nearest" or self.lightglue is None:
            return match_features(features0, features1, matching)
        dtype = resolve_precision(self.precision, self.device)
        # On a CPU narrow types gain nothing here; a caller's own autocast changes nothing either.
        narrow = self.device.type == "cuda" and dtype is not torch.float32
        with torch.autocast(self.device.type, dtype=dtype if narrow else None, enabled=narrow):
            return evaluating(self.lightglue)(features0, features1, matching)

    @inference
    def extract_and_match(self, image: Any, references: Sequence[Features]) -> tuple[Features, list[Matches]]:
        """Run :meth:`extract`, and :meth:`match` of each of some earlier features with what it gives: a frame of a
        stream.

        On a GPU the features stay there and the matches come to the host, with a single wait for it.

        Args:
            image: as for :meth:`extract`; one.
            references: of one image each; they are the first side of its matches.

        Returns:
            The image's features, and for each reference the matches, on the host.

        Raises:
            ImageError: shape, type or value range is none of those.
            ShapeError, DeviceError: a reference is of another kind of features, or elsewhere.
        """
        images, _ = self._given(image, None)
        found = None
        if images.device.type == "cuda":
            found = self._recorded.step(self._networks, self._settings, images, references)
        if found is not None:
            return found
        features = self._extract(images, None)
        return features, [self.match(reference, features).to("cpu") for reference in references]

    def match_images(self, image0: Any, image1: Any, *, rotation: str = "upright", smaller: bool = False) -> Matches:
        """Run :meth:`extract` on both, then :meth:`match`; the first one turned as ``rotation`` says
        (:meth:`extract_turned`), where the second may be, and with ``smaller`` at several sizes
        (:meth:`extract_at_sizes`), where the second may show it small.
        """
        extract = self.extract_at_sizes if smaller else self.extract_turned
        return self.match(extract(image0, rotation=rotation), self.extract(image1))

    @inference
    def semantic_features(self, images: Tensor, features: Features) -> Tensor:
        """Compute semantic features at keypoints, as the reasoner takes them.

        Args:
            images: ``B x 3 x H x W`` RGB float in [0, 1], on the matcher's device.
            features: of these images.

        Returns:
            ``B x N x Ds`` float32, L2-normalised.

        Raises:
            ConfigError: this matcher has no semantic encoder.
        """
        semantic_map = extraction.encode(self._networks, self._settings, images)
        return extraction.sample(self._networks, self._settings, semantic_map, features.keypoints)

    def _extract(self, images: Tensor, masks: Tensor | None) -> Features:
        run = self._recorded if images.device.type == "cuda" else extraction.extract
        return run(self._networks, self._settings, images, masks)

    def _extract_turned(self, images: Tensor, masks: Tensor | None, turns: Sequence[int]) -> Features:
        return self._extract(images, masks) if len(turns) == 1 else extract_turned(self._extract, images, masks, turns)

    def _given(self, image: Any, mask: Any) -> tuple[Tensor, Tensor | None]:
        images = as_image_batch(image, self.device)
        return images, None if mask is None else as_mask_batch(mask, images)

    def _apply(self, fn: Any, recurse: bool = True) -> SemanticMatcher:
        if fn(torch.empty(0, dtype=torch.float32)).dtype is not torch.float32:
            raise ConfigError("what a matcher computes in is its precision: with_settings(precision='bf16'), or 'fp16'")
        # Recorded graphs read the weights where they were.
        self._recorded = RecordedExtraction(extraction.extract)
        return super()._apply(fn, recurse)

    def __getattr__(self, name: str) -> Any:
        if name in _SETTINGS:
            return getattr(self._settings, name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SETTINGS:
            raise AttributeError(
                f"{name} of a matcher stays as it is; make another on the same networks: with_settings({name}=…)"
            )
        super().__setattr__(name, value)


def _decided(settings: Settings, parts: Parts) -> Settings:
    """Return settings with a guided search, where they leave it to the extractor and it was made for that."""
    matching = settings.matching
    if matching.guided != "auto" or matching.matcher != "nearest" or not parts.extractor.guided:
        return settings
    return replace(settings, matching=replace(matching, guided="always"))


def _replaced(settings: Settings, given: Mapping[str, Any]) -> Settings:
    if unknown := sorted(set(given) - _SETTINGS):
        hint = did_you_mean(unknown[0], _SETTINGS)
        if unknown[0] in _OF_MATCHING:
            hint = f"of semantic_matcher_core.matching: matching=MatcherConfig({unknown[0]}=…);"
        known = f"there are {', '.join(sorted(_SETTINGS))}"
        raise ConfigError(f"there is no setting {', '.join(unknown)}; {hint}{' ' * bool(hint)}{known}")
    return replace(settings, **given)
