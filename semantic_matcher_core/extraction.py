"""From images to features: a function of networks, settings and images, and of nothing else.

The contract is one on every device: keypoints of an image come first and best first, a batch is padded to its image
with the most keypoints, and where all have as many, as a batch of one has, there is no padding and ``valid`` is
``None``. A descriptor that is not finite is no keypoint. On a GPU a recorded graph of :func:`extract` takes its place
(:mod:`~semantic_matcher_core.networks.graphs`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.device import resolve_precision
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors.base import Limits
from semantic_matcher_core.extractors.selection import is_wanted, keep_rows
from semantic_matcher_core.geometry.homography import warp_points
from semantic_matcher_core.inference import evaluating
from semantic_matcher_core.layers import finite_rows, side_by_side
from semantic_matcher_core.networks.networks import Networks
from semantic_matcher_core.precision import has_narrow_weights
from semantic_matcher_core.semantics import resize_for_encoder, sample_at_keypoints
from semantic_matcher_core.semantics.semantic_map import SemanticMap
from semantic_matcher_core.settings import Settings
from semantic_matcher_core.types import Features


def extract(
    networks: Networks,
    settings: Settings,
    images: Tensor,
    masks: Tensor | None = None,
    *,
    fixed_size: bool = False,
) -> Features:
    """Compute features of images.

    Args:
        networks: what runs them.
        settings: what decides the result.
        images: ``B x 3 x H x W`` RGB float in [0, 1], on the device of the networks.
        masks: ``B x H x W`` bool, true where keypoints are wanted, or ``None`` for everywhere.
        fixed_size: give ``max_keypoints`` rows and ``valid`` always, without waiting for the device (for CUDA graphs);
            a row whose descriptor is not finite is then not valid, wherever it stands.
    """
    return extract_with_map(networks, settings, images, masks, fixed_size=fixed_size)[0]


def extract_with_map(
    networks: Networks,
    settings: Settings,
    images: Tensor,
    masks: Tensor | None = None,
    *,
    semantic_map: SemanticMap | None = None,
    motion: Tensor | None = None,
    fixed_size: bool = False,
) -> tuple[Features, SemanticMap | None]:
    """Compute features of images, and the semantic map for use with a later image of the same scene.

    Args:
        networks, settings, images, masks, fixed_size: as for :func:`extract`.
        semantic_map: of an earlier image of this size and batch, to be looked up instead of running the encoder.
        motion: ``3 x 3`` homography from this image to that earlier one; ``None`` for none.

    Returns:
        The features, and the map they were looked up in; ``None`` without a reasoner.
    """
    if networks.reason is None:
        return local_features(networks, settings, images, masks, fixed_size=fixed_size), None
    if semantic_map is None:
        features, encoded = side_by_side(
            lambda: local_features(networks, settings, images, masks, fixed_size=fixed_size),
            lambda: encode(networks, settings, images),
            images.device,
            lambda found: [found.features],
        )
        semantic_map = encoded
    else:
        features = local_features(networks, settings, images, masks, fixed_size=fixed_size)
    places = features.keypoints if motion is None else warp_points(features.keypoints, motion, semantic_map.image_size)
    return reason(networks, features, sample(networks, settings, semantic_map, places)), semantic_map


def local_features(
    networks: Networks,
    settings: Settings,
    images: Tensor,
    masks: Tensor | None = None,
    *,
    fixed_size: bool = False,
) -> Features:
    """Compute what the extractor gives; arguments as for :func:`extract`."""
    extractor = evaluating(networks.parts.extractor)
    limits = Limits(settings.max_keypoints, settings.detection_threshold, fixed_size)
    with _autocast(extractor, settings, images.device):
        features = extractor.features(images, masks, limits=limits, dense=networks.dense)
    features = replace(features, made_by=extractor.name)
    finite = finite_rows(features.descriptors)
    # A broken row goes: attention would spread it to all others.
    usable = finite if masks is None else finite & is_wanted(features.keypoints, masks)
    if fixed_size:
        # In their places: what trims them sees that real rows do not come first, and extracts without recording.
        return replace(features, valid=usable if features.valid is None else usable & features.valid)
    return features if bool(usable.all()) else keep_rows(features, usable)


def encode(networks: Networks, settings: Settings, images: Tensor) -> SemanticMap:
    """Compute the semantic encoder's map of images.

    Raises:
        ConfigError: there is no semantic encoder.
    """
    parts = networks.parts
    if parts.reasoner is None or parts.semantic_encoder is None or networks.encode is None:
        raise ConfigError("a plain matcher has no semantic encoder; build one from a variant with a reasoner")
    fixed, patch = parts.reasoner.config.fix_dino_size, parts.semantic_encoder.patch_size
    size = fixed if fixed > 0 else settings.semantic_size
    resized, scale = resize_for_encoder(images, size, patch, registration=settings.registration)
    with _autocast(parts.semantic_encoder, settings, images.device):
        features = networks.encode(resized)
    return SemanticMap(features.float(), (images.shape[-2], images.shape[-1]), scale)


def sample(networks: Networks, settings: Settings, semantic_map: SemanticMap, places: Tensor) -> Tensor:
    """Look a semantic map up, ``B x N x Ds``, L2-normalised.

    Args:
        networks, settings: of the map.
        semantic_map: of :func:`encode`.
        places: ``B x N x 2`` (x, y) pixels of the map's image.
    """
    assert networks.parts.semantic_encoder is not None and networks.parts.reasoner is not None
    with torch.autocast(places.device.type, enabled=False):
        return sample_at_keypoints(
            semantic_map.features,
            places,
            semantic_map.image_size,
            patch_size=networks.parts.semantic_encoder.patch_size,
            scale=semantic_map.scale,
            registration=settings.registration,
            mode=networks.parts.reasoner.config.semantic_interpolation_mode,
        )


def reason(networks: Networks, features: Features, semantic: Tensor) -> Features:
    """Add to features what the reasoner makes of them.

    Args:
        networks: with a reasoner.
        features: of images.
        semantic: ``B x N x Ds`` semantic features at their keypoints.
    """
    assert networks.reason is not None
    # A caller's autocast changes nothing: the precision is the weights'.
    with torch.autocast(features.device.type, enabled=False):
        texture, semantic_out = networks.reason(features.descriptors, semantic, features.valid)
    return replace(
        features,
        reasoned=F.normalize(texture.float(), dim=-1),
        semantic=None if semantic_out is None else F.normalize(semantic_out.float(), dim=-1),
        made_by=networks.parts.made_by,
    )


def _autocast(part: nn.Module, settings: Settings, device: torch.device) -> torch.autocast:
    """Return autocast for parts whose weights are float32 at every precision, and which need not run in float32."""
    dtype = resolve_precision(settings.precision, device)
    wanted = dtype is not torch.float32 and not has_narrow_weights(part) and not getattr(part, "full_precision", False)
    return torch.autocast(device.type, dtype=dtype, enabled=wanted)
