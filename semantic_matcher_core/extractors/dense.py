"""What extractors with one dense network have in common: from images to its input, and from its maps to keypoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from semantic_matcher_core.extractors.base import Dense, Extractor, Limits
from semantic_matcher_core.extractors.options import check_max_side
from semantic_matcher_core.extractors.resizing import fit_long_side, keypoints_at_size
from semantic_matcher_core.extractors.selection import textured, zero_padding
from semantic_matcher_core.types import Features


class Found(NamedTuple):
    """Keypoints of a batch of B images, N rows each, best first.

    Attributes:
        keypoints: ``B x N x 2`` (x, y) pixels of the images as the network saw them, before padding.
        scores: ``B x N`` float32.
        descriptors: ``B x N x D`` float32.
        valid: ``B x N`` bool, or ``None`` where every row is real.
    """

    keypoints: Tensor
    scores: Tensor
    descriptors: Tensor
    valid: Tensor | None


class DenseExtractor(Extractor):
    """An extractor whose network gives dense maps: :meth:`prepare`, :meth:`dense`, :meth:`finish`.

    A subclass is its network and its conventions. What surrounds them is here: images larger than ``max_side`` are seen
    smaller, selection and sampling run in float32 whatever the network ran in, keypoints come back in pixels of the
    image as given, and rows of padding are zero.

    Args:
        max_keypoints: keep at most this many keypoints of each image.
        max_side: an image with a longer side is seen at this one, which bounds memory; ``None`` for no bound.
        fixed_size: always give ``max_keypoints`` rows, see ``selection.best_candidates``.

    Attributes:
        dense_channels: channels of what :meth:`dense` takes.
        dense_step: a number that both sides of it are multiples of.
        finds_in_flat: the network's scores rise where an image shows nothing too; no keypoint is taken there then.
    """

    dense_channels: int = 3
    dense_step: int = 1
    finds_in_flat: bool = False

    def __init__(self, max_keypoints: int = 2048, *, max_side: int | None = None, fixed_size: bool = False) -> None:
        super().__init__(max_keypoints)
        self.max_side = check_max_side(max_side)
        self.fixed_size = fixed_size

    @staticmethod
    def convert_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a published file's weights, named as in the bare network, as this module's, whose ``net`` that is.

        What is stored in half precision becomes float32.
        """
        return {
            name if name.startswith("net.") else f"net.{name}": tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Features:
        return self.features(images, masks)

    def features(
        self, images: Tensor, masks: Tensor | None = None, *, limits: Limits | None = None, dense: Dense | None = None
    ) -> Features:
        own: float | None = getattr(self, "detection_threshold", None)
        limits = limits or Limits(self.max_keypoints, own, self.fixed_size)
        if limits.detection_threshold is None:
            limits = replace(limits, detection_threshold=own)
        given = (images.shape[-2], images.shape[-1])
        images, masks = self.fit(images, masks)
        seen = (images.shape[-2], images.shape[-1])
        if self.finds_in_flat:
            masks = textured(images) if masks is None else masks & textured(images)
        maps = (dense or self.run_dense)(self.prepare(images))
        # The network may run in half precision; a position or a rank may not.
        with torch.autocast(images.device.type, enabled=False):
            found = self.finish([m.float() for m in maps], seen, masks, limits)
            return Features(
                keypoints=zero_padding(keypoints_at_size(found.keypoints, seen, given), found.valid),
                scores=found.scores,
                descriptors=zero_padding(found.descriptors, found.valid),
                image_size=given,
                valid=found.valid,
            )

    def fit(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Bring images and masks to the size at which they are seen: no longer than ``max_side``."""
        return fit_long_side(images, masks, self.max_side)

    def prepare(self, images: Tensor) -> Tensor:
        """Make the network's input, sides multiples of ``dense_step``, of ``B x 3 x H x W`` images in [0, 1]."""
        return images

    def dense_inputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all that :meth:`dense` takes: images, and ``1 x P x C`` positions where the network has such.

        Args:
            images: as :meth:`prepare` gives them.
        """
        return (images,)

    @abstractmethod
    def dense(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the network alone, from :meth:`dense_inputs` to its maps: what another runtime can do in its place."""

    def run_dense(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network on what :meth:`prepare` gave."""
        return self.dense(*self.dense_inputs(images))

    @abstractmethod
    def finish(self, maps: Sequence[Tensor], size: tuple[int, int], masks: Tensor | None, limits: Limits) -> Found:
        """Find and describe keypoints in the network's maps.

        Args:
            maps: what :meth:`dense` gave, in float32.
            size: (height, width) of the images as seen, before padding.
            masks: ``B x height x width`` bool, or ``None``.
            limits: which keypoints are kept; its detection threshold is set where the extractor has one.
        """
