"""A batch of training pairs: padded features, images where features are yet to be computed, and the ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from training.correspondence import Correspondence
from training.errors import DataError
from training.reasoner.sampler import Place


@dataclass(frozen=True)
class View:
    """One side of the pairs, or of one pair (then without the batch dimension and ``valid``).

    Attributes:
        image: ``B x 3 x H x W`` in [0, 1], where something is to be computed of it.
        keypoints: ``B x N x 2`` pixels.
        descriptors: ``B x N x D``.
        valid: ``B x N`` bool, false for padding; ``None`` where every row is real.
        semantic: ``B x N x C`` semantic features at the keypoints.
    """

    image: Tensor | None = None
    keypoints: Tensor | None = None
    descriptors: Tensor | None = None
    valid: Tensor | None = None
    semantic: Tensor | None = None


@dataclass(frozen=True)
class Pair:
    """One training pair.

    Attributes:
        name: to tell it by.
        place: epoch and index it was asked by.
        view0, view1: its two sides.
        truth: where points of one are in the other, as a batch of one.
        size: ``(height, width)`` of both images.
    """

    name: str
    place: Place
    view0: View
    view1: View
    truth: Correspondence
    size: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Several pairs; attributes as :class:`Pair`."""

    names: list[str]
    places: list[Place]
    view0: View
    view1: View
    truth: Correspondence
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> Batch:
        """Return the same on another device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the same in memory that a GPU reads from directly."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor by its name, e.g. ``view0.keypoints`` and ``truth.depth0``."""
        return {
            f"{part}.{item.name}": value
            for part in ("view0", "view1", "truth")
            for item in fields(getattr(self, part))
            if isinstance(value := getattr(getattr(self, part), item.name), Tensor)
        }

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> Batch:
        def applied(part: Any) -> Any:
            values = {item.name: getattr(part, item.name) for item in fields(part)}
            return replace(part, **{k: function(v) for k, v in values.items() if isinstance(v, Tensor)})

        return replace(self, view0=applied(self.view0), view1=applied(self.view1), truth=applied(self.truth))


def collate(pairs: Sequence[Pair]) -> Batch:
    """Return one batch; keypoints are padded to the longest of each side.

    Raises:
        DataError: the images are not of one size.
    """
    sizes = {pair.size for pair in pairs}
    if len(sizes) > 1:
        named = ", ".join(f"{pair.name}: {pair.size}" for pair in pairs)
        raise DataError(f"the images of a batch must share their size; use batch_size 1, or resize them ({named})")
    truths = [pair.truth for pair in pairs]
    return Batch(
        [pair.name for pair in pairs],
        [pair.place for pair in pairs],
        _collated([pair.view0 for pair in pairs]),
        _collated([pair.view1 for pair in pairs]),
        type(truths[0]).stack(truths),  # type: ignore[attr-defined]
        pairs[0].size,
    )


def _collated(views: Sequence[View]) -> View:
    def stacked(name: str) -> Tensor | None:
        tensors = [getattr(view, name) for view in views]
        if tensors[0] is None:
            return None
        if name == "image":
            return torch.stack(tensors)
        padded = tensors[0].new_zeros((len(tensors), max(len(t) for t in tensors), *tensors[0].shape[1:]))
        for row, tensor in zip(padded, tensors, strict=True):
            row[: len(tensor)] = tensor
        return padded

    valid = None
    if views[0].keypoints is not None:
        counts = torch.tensor([len(view.keypoints) for view in views if view.keypoints is not None])
        if counts.unique().numel() > 1:
            valid = torch.arange(int(counts.max())) < counts[:, None]
    return View(stacked("image"), stacked("keypoints"), stacked("descriptors"), valid, stacked("semantic"))
