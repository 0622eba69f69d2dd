"""Where points of one view are in the other, whatever the ground truth: depth and pose, or a known planar warp.

Both kinds answer the same two questions, :meth:`forward` and :meth:`back`, for batches of keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from semantic_matcher_core.geometry.thin_plate import displacement
from training.projection import Warped, warp_keypoints

_Batch = TypeVar("_Batch", bound="_TensorBatch")


class Correspondence(Protocol):
    """Ground truth between the two views of each pair of a batch."""

    def forward(self, keypoints: Tensor) -> Warped:
        """Return ``B x N x 2`` pixels of view 0 in view 1."""

    def back(self, keypoints: Tensor) -> Warped:
        """Return ``B x N x 2`` pixels of view 1 in view 0."""


class _TensorBatch:
    """Dataclasses of tensors whose first dimension is the batch."""

    def to(self: _Batch, device: torch.device | str) -> _Batch:
        """Return the same on another device."""
        return type(self)(*(getattr(self, f.name).to(device) for f in fields(self)))  # type: ignore[arg-type]

    @classmethod
    def stack(cls: type[_Batch], items: Sequence[_Batch]) -> _Batch:
        """Return one batch of several."""
        return cls(*(torch.cat([getattr(item, f.name) for item in items]) for f in fields(cls)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class DepthCorrespondence(_TensorBatch):
    """Ground truth from depth and pose; shapes as in :func:`~training.projection.warp_keypoints`."""

    depth0: Tensor
    depth1: Tensor
    transform01: Tensor
    transform10: Tensor
    camera0: Tensor
    camera1: Tensor

    def forward(self, keypoints: Tensor) -> Warped:
        return warp_keypoints(keypoints, self.depth0, self.depth1, self.transform01, self.camera0, self.camera1)

    def back(self, keypoints: Tensor) -> Warped:
        return warp_keypoints(keypoints, self.depth1, self.depth0, self.transform10, self.camera1, self.camera0)


@dataclass(frozen=True)
class PlanarCorrespondence(_TensorBatch):
    """Both views show one flat picture: view 0 through a homography, view 1 through a spline and a homography.

    Attributes:
        homography0: ``B x 3 x 3``, pixels of view 0 to pixels of the picture.
        homography1: ``B x 3 x 3``, bent pixels of view 1 to pixels of the picture.
        control: ``B x T x 2`` control points of the spline, in pixels of view 1 divided by ``extent``.
        theta: ``B x (T + 3) x 2`` its parameters (see ``geometry.thin_plate``); zeros for none.
        extent: ``B`` side length in pixels by which view 1's coordinates are normalised.
        size: ``B x 2`` (width, height) of the views.
    """

    homography0: Tensor
    homography1: Tensor
    control: Tensor
    theta: Tensor
    extent: Tensor
    size: Tensor

    def forward(self, keypoints: Tensor) -> Warped:
        at = projected(torch.linalg.inv(self.homography1), projected(self.homography0, keypoints))
        moved, converged = self._unbent(at)
        return Warped(moved, converged & self._inside(moved))

    def back(self, keypoints: Tensor) -> Warped:
        moved = projected(torch.linalg.inv(self.homography0), self.picture_points(keypoints))
        return Warped(moved, self._inside(moved))

    def picture_points(self, keypoints: Tensor) -> Tensor:
        """Return ``B x N x 2`` pixels of view 1 as pixels of the picture."""
        return projected(self.homography1, self.bent(keypoints))

    def bent(self, keypoints: Tensor) -> Tensor:
        """Return pixels of view 1 where the spline puts them, before the homography."""
        extent = self.extent[:, None, None]
        return keypoints + displacement(self.theta, self.control, keypoints / extent) * extent

    def _unbent(self, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Invert :meth:`bent` by Newton's method; also return where it arrived within a hundredth of a pixel."""
        if not bool(self.theta.any()):
            return wanted, torch.ones_like(wanted[..., 0], dtype=torch.bool)
        guess, step = wanted, 0.5
        for _ in range(8):
            error = wanted - self.bent(guess)
            columns = []
            for axis in range(2):
                offset = wanted.new_zeros(2)
                offset[axis] = step
                columns.append((self.bent(guess + offset) - self.bent(guess - offset)) / (2 * step))
            (a, c), (b, d) = columns[0].unbind(-1), columns[1].unbind(-1)
            determinant = a * d - b * c
            determinant = torch.where(determinant.abs() < 1e-3, torch.full_like(determinant, 1e-3), determinant)
            x, y = error.unbind(-1)
            guess = guess + torch.stack([d * x - b * y, a * y - c * x], dim=-1) / determinant[..., None]
        return guess, (wanted - self.bent(guess)).norm(dim=-1) < 1e-2

    def _inside(self, points: Tensor) -> Tensor:
        return ((points >= 0) & (points <= self.size[:, None] - 1)).all(dim=-1)


def projected(homography: Tensor, points: Tensor) -> Tensor:
    """Return ``B x N x 2`` points through ``B x 3 x 3`` homographies."""
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1) @ homography.transpose(1, 2)
    return homogeneous[..., :2] / homogeneous[..., 2:]
