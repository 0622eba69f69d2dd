"""Which views cannot see anything of another one, told from poses and ranges of depth alone."""

from __future__ import annotations

import torch
from torch import Tensor

from training.projection import DEPTH_AGREEMENT_M, PROJECTION_EPSILON

# Of the largest number in a comparison: a hundred times what single precision may be off by.
_SLACK = 1e-4


def depth_range(depth: Tensor) -> Tensor:
    """Return ``2``: nearest and farthest measured depth of a map, metres; infinity and 0 where nothing was measured."""
    return torch.stack([depth.masked_fill(depth <= 0, torch.inf).amin(), depth.amax()])


def cannot_see(
    range0: Tensor,
    transform: Tensor,
    intrinsics0: Tensor,
    intrinsics1: Tensor,
    farthest1: Tensor,
    size: tuple[int, int],
) -> Tensor:
    """Return ``T`` bool: true where no keypoint of view 0 can have a valid warp (``projection.warp_keypoints``) into
    view 1.

    All that a view 0 measured lies in a frustum with eight corners. A view is ruled out where one plane parts them from
    every place that it accepts; that is certain, not an estimate. Views whose pose is not finite are never ruled out.

    Args:
        range0: ``T x 2``, :func:`depth_range` of the views 0.
        transform: ``T x 3 x 4`` from the cameras 0 to the cameras 1.
        intrinsics0, intrinsics1: ``3 x 3``.
        farthest1: ``T`` largest depths of the views 1, metres.
        size: ``(height, width)`` of the images.
    """
    height, width = size
    nothing = range0[:, 0] > range0[:, 1]
    range0 = range0.masked_fill(nothing[:, None], 1.0).double()
    transform, intrinsics1, farthest1 = (t.double() for t in (transform, intrinsics1, farthest1))
    corners = _frustum(range0, intrinsics0.double(), height, width)
    in_camera1 = transform[:, :, :3] @ corners + transform[:, :, 3:]
    x, y, w = (intrinsics1 @ in_camera1).unbind(dim=1)
    w = w + PROJECTION_EPSILON
    z = in_camera1[:, 2]
    far = farthest1[:, None] + DEPTH_AGREEMENT_M
    pixels = _SLACK * (x.abs() + y.abs() + (width + height) * w.abs()).amax(dim=1, keepdim=True)
    metres = _SLACK * (1 + z.abs().amax(dim=1, keepdim=True) + far)

    def all_beyond(distance: Tensor, slack: Tensor) -> Tensor:
        return (distance >= slack).all(dim=1)

    # Accepted in front of the camera: 0 < x < width w, 0 < y < height w, and not farther than the farthest depth.
    front = [all_beyond(d, pixels) for d in (-x, x - width * w, -y, y - height * w)]
    front += [all_beyond(-w, metres), all_beyond(z - far, metres)]
    # And behind it, as the rules have it, where depth agrees by less than its tolerance.
    behind = [all_beyond(d, pixels) for d in (x, width * w - x, y, height * w - y)]
    behind += [all_beyond(w, metres), all_beyond(-z - DEPTH_AGREEMENT_M, metres)]
    return nothing | (torch.stack(front).any(dim=0) & torch.stack(behind).any(dim=0))


def _frustum(depths: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Return ``T x 3 x 8`` corners, in the camera, of what an image of this size can show between ``T x 2`` depths."""
    corners = [[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]]
    outline = torch.tensor(corners, dtype=torch.float64, device=depths.device)
    rays = torch.linalg.inv(intrinsics) @ outline
    return torch.cat([rays * depths[:, side, None, None] for side in (0, 1)], dim=2)
