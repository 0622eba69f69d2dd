"""Random views of pictures: where a view looks, and how the second of a pair differs from the first."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.student.config import DataConfig


def first_views(sizes: Tensor, config: DataConfig, generator: torch.Generator, centres: Tensor | None = None) -> Tensor:
    """Return ``B x 3 x 3`` homographies from pixels of a view to pixels of its picture: place, scale, a small or any
    turn.

    Args:
        sizes: ``B x 2`` (width, height) of the pictures.
        config: how large and how turned.
        generator: draws, on the sizes' device.
        centres: ``B x 2`` pixels of the picture that the view's middle shows; ``None``: anywhere.
    """
    count, device, side = len(sizes), sizes.device, config.view
    least = side / (1.15 * sizes.amin(dim=1))
    low, high = (torch.maximum(least, torch.full_like(least, bound)) for bound in config.scale)
    scale = low * (high / low) ** _uniform(count, generator, device)
    half = (side / (2 * scale))[:, None]
    if centres is None:
        room = (sizes - 2 * half).clamp(min=0)
        centres = (sizes - room) / 2 + room * torch.rand(count, 2, generator=generator, device=device) - 0.5
    angle = (_uniform(count, generator, device) * 2 - 1) * math.radians(10)
    anywhere = _uniform(count, generator, device) < config.turn
    angle = torch.where(anywhere, _uniform(count, generator, device) * 2 * math.pi, angle)
    return similarity(angle, 1 / scale, centres, side)


def second_views(count: int, config: DataConfig, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return ``B x 3 x 3`` homographies from pixels of the second view to pixels of the first."""
    side, difficulty = config.view, config.difficulty
    angle = (_uniform(count, generator, device) * 2 - 1) * math.radians(config.tilt)
    zoom = ((_uniform(count, generator, device) * 2 - 1) * difficulty).exp()
    draw = torch.rand(count, 5, 2, generator=generator, device=device) * 2 - 1
    corners = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], device=device) * (side - 1)
    turned = corners @ rotation(angle).transpose(1, 2) * zoom[:, None, None]
    target = turned + draw[:, :4] * side * 0.2 * difficulty + draw[:, 4:] * side * 0.3 * difficulty
    middle = (side - 1) / 2
    return through_corners((corners + middle).expand(count, -1, -1), target + middle)


def turns_of(homographies: Tensor, side: int) -> Tensor:
    """Return ``B`` angles in radians, 0 … π, by which ``B x 3 x 3`` homographies turn the middle of a view."""
    middle = homographies.new_tensor([(side - 1) / 2, (side - 1) / 2, 1.0])
    u, v, w = (homographies @ middle).unbind(-1)
    # The derivative of (u, v) / w along x and y, times w²; its sign is that of w², so the angle is the same.
    du, dv, dw = homographies[:, 0, :2], homographies[:, 1, :2], homographies[:, 2, :2]
    a, b = du * w[:, None] - u[:, None] * dw, dv * w[:, None] - v[:, None] * dw
    return torch.atan2(b[:, 0] - a[:, 1], a[:, 0] + b[:, 1]).abs()


def similarity(angle: Tensor, scale: Tensor, centres: Tensor, side: int) -> Tensor:
    """Return ``B x 3 x 3``: turn and scale about a view's middle, which goes to ``centres``."""
    matrix = rotation(angle) * scale[:, None, None]
    shift = centres - (matrix @ centres.new_full((2, 1), (side - 1) / 2))[..., 0]
    homography = torch.eye(3, device=centres.device).repeat(len(centres), 1, 1)
    homography[:, :2, :2], homography[:, :2, 2] = matrix, shift
    return homography


def rotation(angle: Tensor) -> Tensor:
    """Return ``B x 2 x 2``."""
    c, s = angle.cos(), angle.sin()
    return torch.stack((torch.stack((c, -s), dim=-1), torch.stack((s, c), dim=-1)), dim=-2)


def through_corners(source: Tensor, target: Tensor) -> Tensor:
    """Return ``B x 3 x 3`` homographies that take ``B x 4 x 2`` points to others (direct linear transform)."""
    x, y = source.double().unbind(-1)
    u, v = target.double().unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows_u = torch.stack((x, y, one, zero, zero, zero, -u * x, -u * y), dim=-1)
    rows_v = torch.stack((zero, zero, zero, x, y, one, -v * x, -v * y), dim=-1)
    solved = torch.linalg.solve(torch.cat((rows_u, rows_v), dim=1), torch.cat((u, v), dim=1))
    return torch.cat((solved, torch.ones_like(solved[:, :1])), dim=1).view(-1, 3, 3).float()


def _uniform(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(count, generator=generator, device=device)
