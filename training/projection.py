"""Where a keypoint of one view is seen in another, by depth and pose.

The rules of validity are those of the published ScanNet training (reasoning/datasets/utils.py of the descriptor
reasoning repository), because its losses and covisibility figures depend on them; its defects are not: the caller's
depth is left as it was, and a keypoint off the image is invalid instead of an error.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DEPTH_AGREEMENT_M = 0.2
# Published; it moves a point at 1 m by a hundred-thousandth of its pixel coordinate.
PROJECTION_EPSILON = 1e-5
# Points along each side of the lattice that covisibility is measured on, as published.
LATTICE = 32


class Warped(NamedTuple):
    """Keypoints in the other view.

    Attributes:
        keypoints: ``B x N x 2`` pixels; meaningless where not valid.
        valid: ``B x N`` bool: has depth, lands inside the image, and the depth seen there agrees.
    """

    keypoints: Tensor
    valid: Tensor


def relative_pose(pose0: Tensor, pose1: Tensor) -> Tensor:
    """Return ``… x 3 x 4`` transform from camera 0 to camera 1, from two ``… x 4 x 4`` camera-to-world poses in
    metres.
    """
    rotation = pose1[..., :3, :3].transpose(-1, -2)
    return torch.cat(
        [rotation @ pose0[..., :3, :3], rotation @ (pose0[..., :3, 3:] - pose1[..., :3, 3:])],
        dim=-1,
    )


def warp_keypoints(
    keypoints: Tensor,
    depth0: Tensor,
    depth1: Tensor,
    transform: Tensor,
    intrinsics0: Tensor,
    intrinsics1: Tensor,
    size: tuple[int, int] | None = None,
) -> Warped:
    """Return keypoints of view 0 as view 1 sees them. One view 0 (a batch of one) may meet many views 1.

    Args:
        keypoints: ``B x N x 2`` pixels of view 0.
        depth0, depth1: ``B x H x W`` metres, 0 where none was measured; row 0 and column 0 count as not measured.
        transform: ``B x 3 x 4`` (or 4 x 4) from camera 0 to camera 1, metres.
        intrinsics0, intrinsics1: ``B x 3 x 3``.
        size: ``(height, width)`` of the images, where the depth maps are smaller: they are read as if enlarged to it by
            nearest neighbour. ``None``: the depth maps have the images' size.
    """
    size = size or (depth1.shape[-2], depth1.shape[-1])
    return project(lift(keypoints, depth0, intrinsics0, size), depth1, transform, intrinsics1, size)


class Lifted(NamedTuple):
    """Keypoints in the space of their camera.

    Attributes:
        points: ``B x 3 x N`` metres.
        measured: ``B x N`` bool, where there was depth.
    """

    points: Tensor
    measured: Tensor


def lift(keypoints: Tensor, depth: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> Lifted:
    """Return ``B x N x 2`` pixels into space; arguments as of :func:`warp_keypoints`."""
    metres = _depth_at(depth, (keypoints - 0.5).round().long().clamp(min=0), *size)
    homogeneous = torch.cat([keypoints, torch.ones_like(keypoints[..., :1])], dim=-1) * metres[..., None]
    return Lifted(torch.linalg.inv(intrinsics) @ homogeneous.transpose(1, 2), metres > 0)


def project(
    lifted: Lifted,
    depth1: Tensor,
    transform: Tensor,
    intrinsics1: Tensor,
    size: tuple[int, int],
    views1: Tensor | None = None,
) -> Warped:
    """Return keypoints in space as views 1 see them; arguments as of :func:`warp_keypoints`.

    Args:
        views1: ``B`` which maps of ``depth1`` are meant, where it holds others too; ``None`` for all in turn.
    """
    height, width = size
    in_camera1 = transform[:, :3, :3] @ lifted.points + transform[:, :3, 3:4]
    projected = (intrinsics1 @ in_camera1).transpose(1, 2)
    warped = projected[..., :2] / (projected[..., 2:] + PROJECTION_EPSILON)

    seen = _depth_at(depth1, _whole(warped), height, width, views1)
    x, y = warped.unbind(-1)
    inside = (x > 0) & (x < width) & (y > 0) & (y < height)
    agrees = (in_camera1[:, 2] - seen).abs() < DEPTH_AGREEMENT_M
    return Warped(warped, lifted.measured & inside & agrees)


def covisibility(
    depth0: Tensor,
    depth1: Tensor,
    transform: Tensor,
    intrinsics0: Tensor,
    intrinsics1: Tensor,
) -> Tensor:
    """Return ``B`` shares of a lattice over view 0 that view 1 sees; arguments as :func:`warp_keypoints`."""
    points = lattice((depth0.shape[-2], depth0.shape[-1]), depth0).expand(depth0.shape[0], -1, -1)
    warped = warp_keypoints(points, depth0, depth1, transform, intrinsics0, intrinsics1)
    return warped.valid.double().mean(dim=1)


def lattice(size: tuple[int, int], like: Tensor) -> Tensor:
    """Return ``1 x 32² x 2`` pixels evenly over an image of ``(height, width)``, corners included."""
    down, across = (torch.linspace(0, side - 1, LATTICE, device=like.device, dtype=like.dtype) for side in size)
    y, x = torch.meshgrid(down, across, indexing="ij")
    return torch.stack([x, y], dim=-1).view(1, -1, 2)


def _whole(keypoints: Tensor) -> Tensor:
    # What cannot be represented (behind the camera, far off, NaN) must not land on a pixel by overflow.
    return torch.nan_to_num(keypoints.round(), nan=-1.0).clamp(-1.0, 2.0**20).long()


def _depth_at(depth: Tensor, pixels: Tensor, height: int, width: int, views: Tensor | None = None) -> Tensor:
    """Return ``B x N`` depth at whole pixels of a ``height x width`` image; 0 outside, in row 0 and in column 0."""
    rows, columns = depth.shape[-2:]
    x, y = pixels.unbind(-1)
    measured = (x > 0) & (x < width) & (y > 0) & (y < height)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    if (rows, columns) != (height, width):
        x, y = x * columns // width, y * rows // height
    at = y * columns + x
    if views is None:
        found = depth.flatten(1).gather(1, at)
    else:
        found = depth.take(at + (views * (rows * columns))[:, None])
    return found.masked_fill(~measured, 0)
