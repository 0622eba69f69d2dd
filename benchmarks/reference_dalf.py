"""DALF's description of keypoints written the straightforward way, to measure and to check against.

Every keypoint gets its own normalised polar grid, control points and N x 1024 x 64 spline kernels, image by image
(facts: DALF, CVPR 2023, and its repository); the networks are those of the extractor given.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.dalf import Dalf


def polar_grids(keypoints: Tensor, height: int, width: int) -> Tensor:
    """Return ``N x 32 x 32 x 2`` sampling grids in [-1, 1], rows angles and columns radii of up to 32 px."""
    steps = (torch.arange(32, dtype=torch.float32) + 0.5) / 32
    angle, radius = torch.meshgrid(2 * math.pi * steps, 32.0 * steps, indexing="ij")
    x = keypoints[:, 0, None, None] * 2 / width - 1 + radius * angle.cos() * 2 / width
    y = keypoints[:, 1, None, None] * 2 / height - 1 + radius * angle.sin() * 2 / height
    return torch.stack([x, y], dim=-1)


def patches(dalf: Dalf, feature_map: Tensor, grey: Tensor, keypoints: Tensor) -> Tensor:
    """Return ``N x 1 x 32 x 32`` deformed patches of one image.

    Args:
        feature_map: ``1 x C x h x w`` descriptor map.
        grey: ``1 x 1 x H x W`` image.
        keypoints: ``N x 2`` pixels.
    """
    net, (height, width) = dalf.tps_net, grey.shape[-2:]
    count = len(keypoints)
    at = keypoints / torch.tensor([width - 1.0, height - 1.0]) * 2 - 1
    sampled = F.grid_sample(net.fcn(feature_map), at[None, None], mode="bilinear", align_corners=True)[0, :, 0].T
    theta = net.attn(sampled).view(count, -1, 2)

    grid = polar_grids(keypoints, height, width)
    low = grid.flatten(1, 2).amin(dim=1)[:, None, None]
    extent = grid.flatten(1, 2).amax(dim=1)[:, None, None] - low
    unit = (grid - low) / extent * 0.3 + 0.35
    control = unit[:, ::4, ::4].flatten(1, 2)
    points = unit.flatten(1, 2)
    distance = (points[:, :, None] - control[:, None]).square().sum(dim=-1).sqrt()
    kernels = distance.square() * torch.log(distance + 1e-6)
    weights, affine = theta[:, :-3], theta[:, -3:]
    weights = torch.cat([-weights.sum(dim=1, keepdim=True), weights], dim=1)
    homogeneous = torch.cat([torch.ones_like(points[..., :1]), points], dim=-1)
    moved = points + kernels @ weights + homogeneous @ affine
    warped = ((moved - 0.35) / 0.3).view_as(grid) * extent + low
    return F.grid_sample(grey.expand(count, -1, -1, -1), warped, align_corners=False)


def describe(dalf: Dalf, grey: Tensor, keypoints: Tensor) -> Tensor:
    """Return ``N x 128`` descriptors of one image by the ``ts-fl`` mode, given its keypoints."""
    return describe_at(dalf, grey, dalf.net(grey, fold=False)[1], keypoints)


def describe_at(dalf: Dalf, grey: Tensor, feature_map: Tensor, keypoints: Tensor) -> Tensor:
    """Describe as :func:`describe` does, with the descriptor map that the network has given."""
    invariant = dalf.hardnet(patches(dalf, feature_map, grey, keypoints))
    at = keypoints / torch.tensor([grey.shape[-1] - 1.0, grey.shape[-2] - 1.0]) * 2 - 1
    distinct = F.grid_sample(feature_map, at[None, None], mode="bicubic", align_corners=True)[0, :, 0].T
    joined = torch.cat([invariant, distinct], dim=1)
    return F.normalize(joined * dalf.fusion_layer(joined), dim=1)


def extract(dalf: Dalf, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``N x 2`` keypoints and ``N x 128`` descriptors of one image, ``1 x 3 x H x W`` in [0, 1], none near
    its edge.
    """
    grey = images.mean(dim=1, keepdim=True)
    heat, feature_map = dalf.net(grey, fold=False)
    height, width = heat.shape[-2:]
    neighbours = F.unfold(F.pad(heat, (1, 1, 1, 1), value=-1e30), 3).view(9, height, width)
    highest = torch.cat([neighbours[:4], neighbours[5:]]).amax(dim=0)
    found = (heat[0, 0] > dalf.threshold) & (heat[0, 0] - highest > (dalf.margin or 0.0))
    border = dalf.remove_borders
    inside = torch.zeros_like(found)
    inside[border : height - border, border : width - border] = True
    y, x = torch.nonzero(found & inside, as_tuple=True)
    best = heat[0, 0, y, x].argsort(descending=True, stable=True)[: dalf.max_keypoints]
    keypoints = torch.stack([x, y], dim=1)[best].float()
    return keypoints, describe_at(dalf, grey, feature_map, keypoints)


def plain_network(dalf: Dalf) -> Dalf:
    """Return a copy whose patch network runs layer after layer; the backbone is asked to when it is called."""
    plain = copy.deepcopy(dalf)
    network: Any = plain.hardnet
    network.features = torch.nn.Sequential(*network.features)
    return plain
