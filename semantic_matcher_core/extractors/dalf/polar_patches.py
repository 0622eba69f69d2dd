"""Polar patches deformed by a predicted thin-plate spline.

The published formulation builds, for each keypoint, its own control points and an N x 32 x 32 x 64 tensor of spline
kernels. But the polar grid is normalised to [0, 1] by its own extent before the spline is evaluated, so grid, control
points and kernels are the *same for every keypoint of every image*: one constant 1024 x 66 matrix. A patch grid is that
matrix times the keypoint's 66 x 2 parameters.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semantic_matcher_core.extractors.folding import FoldedSequential

PATCH_SIZE = 32
RADIUS_PX = 32.0
CONTROL_POINTS = 8
# The normalised grid is shrunk about its centre for conditioning, and grown back after the spline.
GRID_SCALE = 0.3


class PolarPatches(nn.Module):
    """Predicts a spline per keypoint from the backbone's map and samples the deformed polar patch around it.

    Args:
        in_channels: channels of the backbone's descriptor map.
    """

    grid: Tensor
    basis: Tensor

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.parameters_per_axis = CONTROL_POINTS**2 + 2
        self.fcn = FoldedSequential(
            nn.Conv2d(in_channels, in_channels * 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(in_channels * 2, affine=False),
            nn.ReLU(),
            nn.Conv2d(in_channels * 2, in_channels * 2, 3, bias=False),
            nn.BatchNorm2d(in_channels * 2, affine=False),
            nn.ReLU(),
            channels_last=True,
        )
        self.attn = nn.Sequential(
            nn.Linear(in_channels * 2, in_channels * 4),
            nn.BatchNorm1d(in_channels * 4, affine=False),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(in_channels * 4, in_channels * 4),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(in_channels * 4, self.parameters_per_axis * 2),
            nn.Tanh(),
        )
        # Training starts from the undeformed patch.
        for index in (0, 4, 7):
            layer = self.attn[index]
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, 0.0, 1e-5)
            nn.init.zeros_(layer.bias)
        grid = canonical_polar_grid()
        self.register_buffer("grid", grid, persistent=False)
        self.register_buffer("basis", spline_basis(grid), persistent=False)

    def parameter_map(self, feature_map: Tensor) -> Tensor:
        """Return ``B x C x h x w`` descriptor map to the map ``B x 2C x h-2 x w-2`` that splines are predicted from."""
        return self.fcn(feature_map)

    def forward(self, parameter_map: Tensor, grey: Tensor, keypoints: Tensor) -> Tensor:
        """Return patches around keypoints.

        Args:
            parameter_map: ``B x 2C x h x w``, see :meth:`parameter_map`.
            grey: ``B x 1 x H x W`` image.
            keypoints: ``B x N x 2`` pixels.

        Returns:
            ``B x N x 32 x 32`` patches; rows are angles, columns radii.
        """
        return self.sample(grey, keypoints, self.splines(parameter_map, grey, keypoints))

    def splines(self, parameter_map: Tensor, grey: Tensor, keypoints: Tensor) -> Tensor:
        """Return ``B x N x 66 x 2``: the parameters of each keypoint's spline; arguments as for :meth:`forward`."""
        size = keypoints.new_tensor([grey.shape[-1], grey.shape[-2]])
        at = (2.0 * keypoints / (size - 1.0) - 1.0)[:, :, None]
        sampled = F.grid_sample(parameter_map, at, mode="bilinear", align_corners=True)[..., 0].transpose(1, 2)
        theta = self.attn(sampled.reshape(-1, sampled.shape[-1]))
        return theta.view(grey.shape[0], -1, self.parameters_per_axis, 2)

    def sample(self, grey: Tensor, keypoints: Tensor, splines: Tensor) -> Tensor:
        """Return ``B x N x 32 x 32`` patches round keypoints, deformed by ``splines``; see :meth:`forward`."""
        displacement = torch.einsum("pk,bnkc->bnpc", self.basis, splines)
        offsets = ((self.grid + displacement - 0.5) / GRID_SCALE) * _extent_px()
        size = keypoints.new_tensor([grey.shape[-1], grey.shape[-2]])
        # Not (kp + 0.5): the published code centres patches half a pixel up and left, and was trained so.
        at = 2.0 * (keypoints[:, :, None] + offsets) / size - 1.0
        patches = F.grid_sample(grey, at, mode="bilinear", padding_mode="zeros", align_corners=False)
        return patches.view(grey.shape[0], -1, PATCH_SIZE, PATCH_SIZE)


def canonical_polar_grid() -> Tensor:
    """Return ``1024 x 2``: the polar grid of any keypoint, normalised to [0, 1] by its extent and shrunk about the
    centre.
    """
    steps = (torch.arange(PATCH_SIZE, dtype=torch.float64) + 0.5) / PATCH_SIZE
    angle, radius = torch.meshgrid(2.0 * math.pi * steps, RADIUS_PX * steps, indexing="ij")
    offsets = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).view(-1, 2)
    return (offsets / _extent_px() * GRID_SCALE + 0.5).float()


def spline_basis(grid: Tensor) -> Tensor:
    """Return ``1024 x 66``: reduced thin-plate-spline basis, control points being every fourth row and column of the
    grid.

    The spline's value at grid point p is ``sum_k basis[p, k] theta[k]``, with theta = (w_1 … w_63, a_0, a_x, a_y); the
    first kernel weight, which the reduced form leaves out, is minus the sum of the others.
    """
    points = grid.double()
    step = PATCH_SIZE // CONTROL_POINTS
    control = points.view(PATCH_SIZE, PATCH_SIZE, 2)[::step, ::step].reshape(-1, 2)
    distance = torch.cdist(points, control)
    kernel = distance.square() * torch.log(distance + 1e-6)
    affine = torch.cat([torch.ones_like(points[:, :1]), points], dim=1)
    return torch.cat([kernel[:, 1:] - kernel[:, :1], affine], dim=1).float()


def _extent_px() -> float:
    # Widest and tallest reach of the grid: outermost ring (31.5 px), nearest angle to an axis (half a step).
    outermost = RADIUS_PX * (1.0 - 0.5 / PATCH_SIZE)
    return 2.0 * outermost * math.cos(math.pi / PATCH_SIZE)
