"""SemanticMatcher: image -> Features -> Matches."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from semantic_matcher_core.backends import apply_backend, check_backend
from semantic_matcher_core.device import is_slow, resolve_device, resolve_precision
from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.geometry.homography import warp_points
from semantic_matcher_core.inference import inference
from semantic_matcher_core.inputs import as_image_batch, as_mask_batch
from semantic_matcher_core.matching import MatcherConfig, match_features
from semantic_matcher_core.matching.turns import extract_turned
from semantic_matcher_core.optimisations import is_enabled
from semantic_matcher_core.precision import has_narrow_weights, narrowed
from semantic_matcher_core.reasoning import Reasoner
from semantic_matcher_core.semantics import SemanticEncoder, resize_for_encoder, sample_at_keypoints
from semantic_matcher_core.semantics.semantic_map import SemanticMap
from semantic_matcher_core.settings import check_registration, turns_of
from semantic_matcher_core.types import Features, Matches
from semantic_matcher_core.variants.names import DEFAULT_VARIANT

if TYPE_CHECKING:
    from semantic_matcher_core.cuda.extraction import CudaExtraction


_log = logging.getLogger(__name__)


class SemanticMatcher(nn.Module):
    """Matches images by local features, and by what they are part of where a reasoner is given.

    Build one with :meth:`from_pretrained` or :meth:`from_parts`.

    Attributes:
        extractor, semantic_encoder, reasoner: the parts; the last two are ``None`` for plain descriptor matching.
        matching: how two sets of features are matched; may be replaced at any time.
        variant: the name this matcher was built from, or "".
    """

    def __init__(
        self,
        extractor: Extractor,
        semantic_encoder: SemanticEncoder | None = None,
        reasoner: Reasoner | None = None,
        *,
        matching: MatcherConfig | None = None,
        semantic_size: int = 896,
        registration: str = "exact",
        precision: str = "fp32",
        variant: str = "",
    ) -> None:
        super().__init__()
        if (semantic_encoder is None) != (reasoner is None):
            raise ConfigError("a semantic encoder and a reasoner are only of use together; give both or neither")
        check_registration(registration)
        if semantic_encoder is not None and reasoner is not None:
            config = reasoner.config
            for what, wants, has in (
                (
                    f"extractor {extractor.name!r} gives descriptors",
                    config.extractor_features_dim,
                    extractor.descriptor_dim,
                ),
                (
                    f"{semantic_encoder.name!r} gives features",
                    config.semantic_features_dim,
                    semantic_encoder.feature_dim,
                ),
            ):
                if wants != has:
                    raise ShapeError(f"{what} of {has} dimensions, but the reasoner was made for {wants}")
            if semantic_size < semantic_encoder.patch_size:
                raise ConfigError(
                    f"semantic_size must be at least one patch ({semantic_encoder.patch_size} px), got {semantic_size}"
                )
        self.extractor = extractor
        self.semantic_encoder = semantic_encoder
        self.reasoner = reasoner
        self.matching = matching or MatcherConfig()
        self.semantic_size = semantic_size
        self.registration = registration
        self.precision = precision
        self.variant = variant
        self.backend = "eager"
        self._cuda: CudaExtraction | None = None
        self.eval()

    @classmethod
    def from_parts(
        cls,
        extractor: Extractor,
        semantic_encoder: SemanticEncoder | None = None,
        reasoner: Reasoner | None = None,
        *,
        device: str | torch.device = "auto",
        precision: str = "fp32",
        backend: str = "eager",
        **options: Any,
    ) -> SemanticMatcher:
        """A matcher from parts; without a reasoner it is plain descriptor matching, through the same code.

        Args:
            extractor: keypoints and descriptors.
            semantic_encoder, reasoner: both or neither; their dimensions must fit.
            device: where to run, see :func:`~semantic_matcher_core.device.resolve_device`.
            precision: ``fp32``, ``bf16`` or ``fp16`` (GPU only): what the networks compute in; results stay float32.
                DINOv2 and the reasoner are copied with weights of that type; an extractor whose keypoints would move
                (XFeat's) stays float32.
            backend: what runs the networks, see :func:`~semantic_matcher_core.backends.apply_backend`.
            options: ``matching`` (:class:`~semantic_matcher_core.matching.MatcherConfig`), ``semantic_size`` (long
                side in pixels at which the semantic encoder sees the image), ``registration``
                (``"exact"`` or ``"published"``, see ``semantics.sampling``), ``variant`` (a name for logs).

        Raises:
            ConfigError, ShapeError: the parts or options do not fit together.
            DeviceError: device or precision are not available here.
        """
        check_backend(backend)
        resolved = resolve_device(device)
        dtype = resolve_precision(precision, resolved)
        if is_slow(dtype, resolved):
            _log.warning("precision %r is slower than 'fp32' here: this CPU has no instructions for it", precision)
        if semantic_encoder is not None and has_narrow_weights(semantic_encoder):
            semantic_encoder = narrowed(semantic_encoder, dtype)
        if reasoner is not None:
            reasoner = narrowed(reasoner, dtype)
        matcher = cls(extractor, semantic_encoder, reasoner, precision=precision, **options).to(resolved)
        apply_backend(matcher, backend)
        matcher.backend = backend
        return matcher

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = DEFAULT_VARIANT,
        *,
        device: str | torch.device = "auto",
        precision: str = "fp32",
        backend: str = "eager",
        max_keypoints: int | None = None,
        weights: str | Path | None = None,
        fetch: bool = False,
        **options: Any,
    ) -> SemanticMatcher:
        """A published variant, a checkpoint folder or zip, or ``plain:<extractor>``.

        Args:
            name_or_path: a catalogue name (:func:`~semantic_matcher_core.variants.list_variants`), a folder with
                ``model_config.yaml`` and a ``.pt``, a ``.zip`` of one, or ``plain:<extractor>``.
            device, precision, backend: see :meth:`from_parts`.
            max_keypoints: keypoints per image; ``None`` for what the variant's configuration says (2048 for plain).
            weights: a folder to search for weights before the usual places.
            fetch: download what is not here; otherwise nothing touches the network.
            options: as in :meth:`from_parts`.

        Raises:
            UnknownNameError: no such variant or extractor; the message lists those that exist.
            WeightsNotFoundError: weights are not here; the message has the command that fetches them and the plain
                alternative.
            CheckpointError: the checkpoint is damaged or does not fit.
        """
        from semantic_matcher_core.variants import build_parts

        check_backend(backend)
        resolved = resolve_device(device)
        resolve_precision(precision, resolved)
        extractor, encoder, reasoner, defaults = build_parts(
            name_or_path, max_keypoints=max_keypoints, weights=weights, fetch=fetch, device=resolved
        )
        return cls.from_parts(
            extractor,
            encoder,
            reasoner,
            device=resolved,
            precision=precision,
            backend=backend,
            **{**defaults, **options},
        )

    @property
    def device(self) -> torch.device:
        """Where the networks run (for an extractor without parameters, the reasoner decides, else the CPU)."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @inference
    def extract(self, image: Any, mask: Any = None) -> Features:
        """Keypoints with local, and where there is a reasoner reasoned and semantic, descriptors.

        Args:
            image: ``H x W x 3`` or ``H x W`` uint8 array (RGB), ``B x 3 x H x W`` tensor (uint8, or float in [0, 1]),
                or the path of a file.
            mask: ``H x W`` (or ``B x H x W``), non-zero where keypoints are wanted.

        Raises:
            ImageError: shape, type or value range is none of those.
        """
        gpu = self._gpu()
        if gpu is not None and gpu.can_replay(self, mask):
            return gpu.replayed(self, self._images(image))
        return self.extract_with_map(image, mask)[0]

    @inference
    def extract_turned(self, image: Any, mask: Any = None, *, rotation: str = "quarter") -> Features:
        """:meth:`extract` at several turns: features of an image that others are matched with, however they are turned.

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
        if len(turns) == 1:
            return self.extract(image, mask)
        images = self._images(image)
        masks = None if mask is None else as_mask_batch(mask, images)
        return extract_turned(self.features_of, images, masks, turns)

    @inference
    def extract_with_map(
        self,
        image: Any,
        mask: Any = None,
        *,
        semantic_map: SemanticMap | None = None,
        motion: torch.Tensor | None = None,
    ) -> tuple[Features, SemanticMap | None]:
        """:meth:`extract`, and the semantic map for use with a later image of the same scene.

        Args:
            image, mask: as for :meth:`extract`.
            semantic_map: of an earlier image of this size and batch, to be looked up instead of running the semantic
                encoder.
            motion: ``3 x 3`` homography from this image to that earlier one; ``None`` for none.

        Returns:
            The features, and the map they were looked up in; ``None`` for a plain matcher.

        Raises:
            ImageError: shape, type or value range is none of those.
        """
        images = self._images(image)
        masks = None if mask is None else as_mask_batch(mask, images)
        if self.reasoner is None:
            return self.local_features(images, masks), None
        if semantic_map is None:
            features, semantic_map = self._features_and_map(images, masks)
        else:
            features = self.local_features(images, masks)
        places = features.keypoints
        if motion is not None:
            places = warp_points(places, motion, semantic_map.image_size)
        return self._reasoned(features, self._sample(semantic_map, places), self.reasoner), semantic_map

    def _images(self, image: Any) -> torch.Tensor:
        gpu = self._gpu()
        uploaded = None if gpu is None else gpu.uploaded(image)
        return as_image_batch(image, self.device) if uploaded is None else uploaded

    @inference
    def local_features(self, images: torch.Tensor, masks: torch.Tensor | None = None) -> Features:
        """What the extractor gives, at the matcher's precision.

        Args:
            images: ``B x 3 x H x W`` RGB float in [0, 1], on the matcher's device.
            masks: ``B x H x W`` bool, true where keypoints are wanted.
        """
        with self._autocast(self.extractor):
            return self.extractor(images, masks)

    @inference
    def features_of(self, images: torch.Tensor, masks: torch.Tensor | None = None) -> Features:
        """:meth:`extract`, of images that are on the device already; arguments as for :meth:`local_features`."""
        if self.reasoner is None:
            return self.local_features(images, masks)
        features, semantic_map = self._features_and_map(images, masks)
        return self._reasoned(features, self._sample(semantic_map, features.keypoints), self.reasoner)

    def _features_and_map(self, images: torch.Tensor, masks: torch.Tensor | None) -> tuple[Features, SemanticMap]:
        gpu = self._gpu()
        if gpu is not None and is_enabled("streams"):
            return gpu.side_by_side(self, images, masks)
        return self.local_features(images, masks), self.semantic_map(images)

    def _gpu(self) -> CudaExtraction | None:
        """What a GPU does otherwise than the CPU; ``None`` on the CPU."""
        device = self.device
        if device.type != "cuda":
            return None
        if self._cuda is None:
            from semantic_matcher_core.cuda.extraction import CudaExtraction

            self._cuda = CudaExtraction(device)
        return self._cuda

    def _apply(self, fn: Any, recurse: bool = True) -> SemanticMatcher:
        # Recorded graphs read the weights where they were.
        self._cuda = None
        return super()._apply(fn, recurse)

    @inference
    def match(self, features0: Features, features1: Features) -> Matches:
        """Matches between two (batches of) features of this matcher.

        Raises:
            ShapeError: batch sizes or descriptor dimensions differ.
        """
        return match_features(features0, features1, self.matching)

    def match_images(self, image0: Any, image1: Any, *, rotation: str = "upright") -> Matches:
        """:meth:`extract` both, then :meth:`match`; the first one turned as ``rotation`` says
        (:meth:`extract_turned`), where the second may be."""
        return self.match(self.extract_turned(image0, rotation=rotation), self.extract(image1))

    @inference
    def semantic_features(self, images: torch.Tensor, features: Features) -> torch.Tensor:
        """Semantic features at keypoints, as the reasoner takes them.

        Args:
            images: ``B x 3 x H x W`` RGB float in [0, 1], on the matcher's device.
            features: of these images.

        Returns:
            ``B x N x Ds`` float32, L2-normalised.

        Raises:
            ConfigError: this matcher has no semantic encoder.
        """
        return self._sample(self.semantic_map(images), features.keypoints)

    @inference
    def semantic_map(self, images: torch.Tensor) -> SemanticMap:
        """The semantic encoder's map of images.

        Args:
            images: ``B x 3 x H x W`` RGB float in [0, 1], on the matcher's device.

        Raises:
            ConfigError: this matcher has no semantic encoder.
        """
        if self.reasoner is None or self.semantic_encoder is None:
            raise ConfigError("a plain matcher has no semantic encoder; build one from a variant with a reasoner")
        fixed, encoder = self.reasoner.config.fix_dino_size, self.semantic_encoder
        size = fixed if fixed > 0 else self.semantic_size
        resized, scale = resize_for_encoder(images, size, encoder.patch_size, registration=self.registration)
        with self._autocast(encoder):
            feature_map = encoder(resized)
        return SemanticMap(feature_map.float(), (images.shape[-2], images.shape[-1]), scale)

    def _sample(self, semantic_map: SemanticMap, places: torch.Tensor) -> torch.Tensor:
        assert self.semantic_encoder is not None and self.reasoner is not None
        with torch.autocast(self.device.type, enabled=False):
            return sample_at_keypoints(
                semantic_map.features,
                places,
                semantic_map.image_size,
                patch_size=self.semantic_encoder.patch_size,
                scale=semantic_map.scale,
                registration=self.registration,
                mode=self.reasoner.config.semantic_interpolation_mode,
            )

    def _reasoned(self, features: Features, semantic: torch.Tensor, reasoner: Reasoner) -> Features:
        # A caller's autocast changes nothing: the precision is the matcher's.
        with torch.autocast(self.device.type, enabled=False):
            texture, semantic_out = reasoner(features.descriptors, semantic, features.valid)
        return replace(
            features,
            reasoned=nn.functional.normalize(texture.float(), dim=-1),
            semantic=None if semantic_out is None else nn.functional.normalize(semantic_out.float(), dim=-1),
        )

    def _autocast(self, part: nn.Module) -> torch.autocast:
        """For parts whose weights are float32 at every precision, and which do not want to run in float32."""
        dtype = resolve_precision(self.precision, self.device)
        wanted = (
            dtype is not torch.float32 and not has_narrow_weights(part) and not getattr(part, "full_precision", False)
        )
        return torch.autocast(self.device.type, dtype=dtype, enabled=wanted)
