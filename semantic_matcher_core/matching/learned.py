"""LightGlue between Features: which extractors it was trained for, its weights, and matches from its assignment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.errors import ConfigError, DeviceError, ShapeError
from semantic_matcher_core.extractors.resizing import keypoints_at_size
from semantic_matcher_core.matching.lightglue import Architecture, LightGlue, normalised_positions
from semantic_matcher_core.matching.sizes import size_seen
from semantic_matcher_core.matching.turns import turned_points
from semantic_matcher_core.settings import MatcherConfig
from semantic_matcher_core.types import Features, Matches


@dataclass(frozen=True)
class Published:
    """A LightGlue that was trained for an extractor.

    Attributes:
        weights: its name in the weights catalogue.
        architecture: its sizes.
        depth_confidence, width_confidence: those it was published with, see :class:`LightGlueMatcher`.
        options: of the extractor, as they were in training; they differ from its defaults.
        offset: added to keypoints, in pixels: where the pixel centres were in training.
    """

    weights: str
    architecture: Architecture
    depth_confidence: float = 0.95
    width_confidence: float = 0.99
    options: dict[str, Any] = field(default_factory=dict)
    offset: float = 0.0


_ALIKED = Published("lightglue-aliked", Architecture(128))
PUBLISHED: dict[str, Published] = {
    "superpoint": Published("lightglue-superpoint", Architecture(256), options={"legacy_sampling": True}),
    "disk": Published("lightglue-disk", Architecture(128)),
    "aliked-n16": _ALIKED,
    "aliked-n16rot": _ALIKED,
    "aliked-n32": _ALIKED,
    "sift": Published("lightglue-sift", Architecture(128, scale_and_orientation=True)),
    "dedode-B": Published(
        "lightglue-dedode-B", Architecture(256), options={"normalize_descriptors": False}, offset=0.5
    ),
    "dedode-G": Published(
        "lightglue-dedode-G", Architecture(256), options={"normalize_descriptors": False}, offset=0.5
    ),
    "xfeat": Published("lighterglue-xfeat", Architecture(64, 96, 6, 1), depth_confidence=1.0, width_confidence=0.95),
}


def published_for(extractor: str) -> Published:
    """Return the LightGlue of an extractor.

    Raises:
        ConfigError: none was trained for it; the message names those with one.
    """
    if extractor not in PUBLISHED:
        raise ConfigError(
            f"matcher 'lightglue' was not trained for extractor {extractor!r}; it was for {', '.join(PUBLISHED)}; "
            f"for {extractor!r} take matcher 'nearest'"
        )
    return PUBLISHED[extractor]


class _Inputs(NamedTuple):
    """Rows of an image that can be matched, positions and descriptors as the network takes them, and y in pixels."""

    rows: Tensor
    positions: Tensor
    descriptors: Tensor
    ordinates: Tensor


# Rows of both images that match, and how probable that is.
_Found = tuple[Tensor, Tensor, Tensor]


class LightGlueMatcher(nn.Module):
    """LightGlue (Lindenberger et al., ICCV 2023) for the features of one extractor.

    Each pair of a batch is matched by itself, so that its matches do not depend on the others.

    Args:
        extractor: its name, see ``PUBLISHED``.

    Raises:
        ConfigError: none was trained for that extractor.
    """

    def __init__(self, extractor: str) -> None:
        super().__init__()
        self.extractor = extractor
        self.published = published_for(extractor)
        self.net = LightGlue(self.published.architecture)

    def forward(self, features0: Features, features1: Features, config: MatcherConfig | None = None) -> Matches:
        """Match two batches of features, image by image.

        A row whose keypoint or descriptor holds NaN or infinity is left out, and changes no other.

        Args:
            features0, features1: of the extractor this was made for, of the same batch size.
            config: its thresholds, confidences and band; ``None`` for the defaults.

        Returns:
            Matches whose confidence is their probability; none where a side has no keypoints.

        Raises:
            ShapeError: batch sizes differ, or the features are of another extractor.
            DeviceError: the two are on different devices.
        """
        if len(features0) != len(features1):
            raise ShapeError(f"cannot match a batch of {len(features0)} images with a batch of {len(features1)}")
        if features0.device != features1.device:
            raise DeviceError(f"features are on {features0.device} and {features1.device}; move one with .to()")
        for features in (features0, features1):
            if features.made_by not in ("", self.extractor):
                raise ShapeError(f"LightGlue for {self.extractor!r} cannot match features made by {features.made_by!r}")
        config = config or MatcherConfig(matcher="lightglue")
        found = [self._match_pair(features0, features1, b, config) for b in range(len(features0))]
        none = torch.zeros(0, dtype=torch.int64, device=features0.device)
        columns = zip(*found, strict=True) if found else ((none,), (none,), (none.float(),))
        index0, index1, confidence = (torch.cat(list(parts)) for parts in columns)
        pair = torch.cat([torch.full_like(rows, b) for b, (rows, _, _) in enumerate(found)]) if found else none
        return Matches(
            indices=torch.stack((index0, index1), dim=1),
            keypoints0=features0.keypoints[pair, index0],
            keypoints1=features1.keypoints[pair, index1],
            confidence=confidence,
            pair=pair if len(features0) != 1 else None,
            batch_size=len(features0),
        )

    def _match_pair(self, features0: Features, features1: Features, image: int, config: MatcherConfig) -> _Found:
        """Return rows that match and their confidence; of a first image that was looked at turned or smaller, at the
        turn and size that fit.
        """
        second = self._inputs(features1, image)
        real = features0.real[image]
        turns, sizes = (None if t is None else t[image, real] for t in (features0.turn, features0.shrink))
        looks = [(turn, times) for times in _values(sizes) for turn in _values(turns)]
        candidates = [self._match_inputs(self._inputs(features0, image, *look), second, config) for look in looks]
        return max(candidates, key=lambda found: float(found[2].sum()))

    def _match_inputs(self, first: _Inputs, second: _Inputs, config: MatcherConfig) -> _Found:
        if not len(first.rows) or not len(second.rows):
            none = first.rows[:0]
            return none, none, none.float()
        # What is left out is as published; 1 runs all layers, and drops nothing.
        depth, width = (
            getattr(self.published if getattr(config, name) is None else config, name)
            for name in ("depth_confidence", "width_confidence")
        )
        scores, kept0, kept1, _ = self.net(
            first.positions,
            second.positions,
            first.descriptors,
            second.descriptors,
            depth_confidence=depth if depth < 1 else None,
            width_confidence=width if width < 1 else None,
        )
        (rows0, y0), (rows1, y1) = (
            (side.rows, side.ordinates) if kept is None else (side.rows[kept], side.ordinates[kept])
            for side, kept in ((first, kept0), (second, kept1))
        )
        scores = scores.float()
        if config.band_px is not None:
            scores = scores.masked_fill((y0[:, None] - y1).abs() > config.band_px, -torch.inf)
        best0, best1, confidence = mutual_matches(scores, config.filter_threshold)
        return rows0[best0], rows1[best1], confidence

    def _inputs(
        self, features: Features, image: int, degrees: int | None = None, times: float | None = None
    ) -> _Inputs:
        """Return usable rows of an image (of one turn and size), and what the network takes, as the image showed them
        when it was turned and made smaller.
        """
        dim = self.published.architecture.input_dim
        if features.descriptors.shape[-1] != dim:
            raise ShapeError(
                f"descriptors have {features.descriptors.shape[-1]} dimensions, but LightGlue for {self.extractor!r} "
                f"takes {dim}"
            )
        descriptors = features.descriptors[image].float()
        keypoints = features.keypoints[image].float()
        usable = descriptors.isfinite().all(dim=-1) & keypoints.isfinite().all(dim=-1)
        if features.valid is not None:
            usable &= features.valid[image]
        if degrees is not None and features.turn is not None:
            usable &= features.turn[image] == degrees
        given = seen = features.image_size
        if times is not None and features.shrink is not None:
            usable &= features.shrink[image] == times
            seen = size_seen(given, times)
        (rows,) = usable.nonzero(as_tuple=True)
        places, size = turned_points(keypoints_at_size(keypoints[rows], given, seen), degrees or 0, seen)
        positions = normalised_positions(places + self.published.offset, size)
        if self.published.architecture.scale_and_orientation:
            if features.scales is None or features.orientations is None:
                raise ShapeError(f"LightGlue for {self.extractor!r} needs scales and orientations, which are not there")
            angles = features.orientations[image, rows] + math.radians(degrees or 0)
            more = torch.stack((features.scales[image, rows] / (times or 1), angles % (2 * math.pi)), dim=-1)
            positions = torch.cat((positions, more.float()), dim=-1)
        return _Inputs(rows, positions, descriptors[rows], keypoints[rows, 1])


def _values(told: Tensor | None) -> list[Any]:
    """Return the turns, or sizes, that rows tell; one that is ``None`` where they are not told apart."""
    return [None] if told is None else told.unique().tolist() or [None]


def mutual_matches(scores: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows and columns that are each other's best and more probable than a threshold, and their probabilities.

    Args:
        scores: ``M x N`` log-probability.
        threshold: of the probability.
    """
    if not scores.numel():
        none = torch.zeros(0, dtype=torch.int64, device=scores.device)
        return none, none, none.float()
    best0, best1 = scores.argmax(dim=1), scores.argmax(dim=0)
    rows = torch.arange(len(best0), device=scores.device)
    confidence = scores[rows, best0].exp()
    (keep,) = ((best1[best0] == rows) & (confidence > threshold)).nonzero(as_tuple=True)
    return keep, best0[keep], confidence[keep]


def create_lightglue(
    extractor: str,
    *,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
    fetch: bool = False,
) -> LightGlueMatcher:
    """Return the LightGlue of an extractor with its published weights loaded, in evaluation mode.

    Args:
        extractor: its name, see ``PUBLISHED``.
        weights: a weights file, or a folder to search before the usual places; ``None`` for the usual places.
        device: see :func:`~semantic_matcher_core.device.resolve_device`.
        fetch: download the weights when they are not here; otherwise nothing touches the network.

    Raises:
        ConfigError: none was trained for that extractor.
        WeightsNotFoundError: its weights are not here (the message has the command that fetches them).
        CheckpointError: the weights file does not fit.
    """
    from semantic_matcher_core.weights import find_weights
    from semantic_matcher_core.weights.loading import Undrawn, load_state_dict_strictly

    with Undrawn():
        matcher = LightGlueMatcher(extractor)
    load_state_dict_strictly(matcher.net, find_weights(matcher.published.weights, weights, fetch=fetch))
    return matcher.eval().requires_grad_(False).to(resolve_device(device))
