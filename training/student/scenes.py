"""Rendered scenes with parallax and occlusion, many at once on one device: rooms or open ground with boxes, cylinders
and hills, photographs as textures. Rays are cast, so depth and correspondence are exact at any sub-pixel place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_FINER = 2
_BOXES, _CYLINDERS, _WAVES = 7, 3, 4
_MARCH, _BISECT = 40, 14
_FAR = 1e4


@dataclass(frozen=True, eq=False)
class Scenes:
    """B scenes, metres, y down.

    Attributes:
        corner, right, down: ``B x Q x 3`` rectangles: a corner and the edges from it, at right angles.
        cylinders: ``B x K x 5``: x, z, radius, top and bottom of upright ones.
        waves: ``B x W x 4``: height, wave numbers along x and z, phase; the ground is their sum below ``ground``.
        ground: ``B`` y of the middle of the ground; the ground of a room lies below its floor.
        texture: ``B x (Q + K + 1)`` int64, of rectangles, cylinders and ground.
        metres: ``B x (Q + K + 1)``, what one texture covers; it repeats mirrored.
    """

    corner: Tensor
    right: Tensor
    down: Tensor
    cylinders: Tensor
    waves: Tensor
    ground: Tensor
    texture: Tensor
    metres: Tensor

    def __len__(self) -> int:
        return len(self.corner)


@dataclass(frozen=True, eq=False)
class Cameras:
    """B pinhole cameras.

    Attributes:
        pose: ``B x 4 x 4`` camera to world.
        focal: ``B`` pixels; the principal point is the middle of the image.
    """

    pose: Tensor
    focal: Tensor

    def rays(self, pixels: Tensor, side: int) -> Tensor:
        """Return ``B x N x 3`` directions in the world whose length makes the ray's parameter the depth."""
        inside = (pixels - (side - 1) / 2) / self.focal[:, None, None]
        return torch.cat((inside, torch.ones_like(inside[..., :1])), dim=-1) @ self.pose[:, :3, :3].transpose(1, 2)

    def project(self, points: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Return ``B x N x 2`` pixels and ``B x N`` depth of ``B x N x 3`` points."""
        seen = (points - self.pose[:, None, :3, 3]) @ self.pose[:, :3, :3]
        depth = seen[..., 2]
        safe = torch.where(depth > 1e-3, depth, torch.full_like(depth, 1e-3))
        return seen[..., :2] / safe[..., None] * self.focal[:, None, None] + (side - 1) / 2, depth


def random_scenes(count: int, textures: int, generator: torch.Generator, device: torch.device) -> Scenes:
    """Make rooms (two in three) and open ground with hills, with boxes and cylinders that stand on it."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator, device=device)

    outside = uniform(0, 1) < 1 / 3
    room = torch.stack((uniform(4, 8), uniform(2.5, 3.5), uniform(4, 8)), dim=-1)
    room = torch.where(outside[:, None], room.new_tensor([40.0, 24.0, 40.0]), room)
    floor = torch.where(outside, torch.full_like(room[:, 1], 1.6), room[:, 1] / 2)
    centre = torch.zeros_like(room)
    centre[:, 1] = floor - room[:, 1] / 2
    faces = [_box_faces(centre[:, None], room[:, None], torch.zeros_like(uniform(0, 1, 1)))]
    # Boxes and cylinders stand in a ring about the cameras, and some boxes float.
    spread = torch.where(outside, torch.full_like(floor, 2.2), torch.ones_like(floor))[:, None]
    reach, angle = uniform(1.2, 3.2, _BOXES) * spread, uniform(0, 2 * math.pi, _BOXES)
    size = torch.stack((uniform(0.3, 1.6, _BOXES), uniform(0.3, 2.2, _BOXES), uniform(0.3, 1.6, _BOXES)), dim=-1)
    size = size * spread[..., None]
    lifted = (uniform(0, 1, _BOXES) < 0.25) * uniform(0, 1.2, _BOXES)
    place = torch.stack((reach * angle.cos(), floor[:, None] - size[..., 1] / 2 - lifted, reach * angle.sin()), dim=-1)
    faces.append(_box_faces(place, size, uniform(0, math.pi, _BOXES)))
    corner, right, down = (torch.cat([part[i] for part in faces], dim=1) for i in range(3))
    reach, angle = uniform(1.2, 3.2, _CYLINDERS) * spread, uniform(0, 2 * math.pi, _CYLINDERS)
    height = uniform(0.5, 2.6, _CYLINDERS) * spread
    bottom = floor[:, None].expand_as(height)
    cylinders = torch.stack(
        (reach * angle.cos(), reach * angle.sin(), uniform(0.1, 0.6, _CYLINDERS), bottom - height, bottom), dim=-1
    )
    waves = torch.stack(
        (
            uniform(0.05, 0.35, _WAVES),
            uniform(-1.5, 1.5, _WAVES),
            uniform(-1.5, 1.5, _WAVES),
            uniform(0, 2 * math.pi, _WAVES),
        ),
        dim=-1,
    )
    ground = torch.where(outside, floor - 0.2, floor + 50)
    number = corner.shape[1] + _CYLINDERS + 1
    texture = torch.randint(textures, (count, number), generator=generator, device=device)
    metres = uniform(0.8, 2.8, number) * torch.where(outside, 2.0, 1.0)[:, None]
    # Walls show their picture once or twice; what repeats without end has no right match.
    metres[:, :6] *= torch.where(outside, 7.0, 1.7)[:, None]
    return Scenes(corner, right, down, cylinders, waves, ground, texture, metres)


def random_cameras(count: int, side: int, generator: torch.Generator, device: torch.device) -> tuple[Cameras, Cameras]:
    """Return two cameras each that look at much the same: apart by up to 1.2 m and 60 degrees, rolled against each
    other.
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator, device=device)

    place = torch.stack((uniform(-0.7, 0.7), uniform(-0.4, 0.4), uniform(-0.7, 0.7)), dim=-1)
    direction = uniform(0, 2 * math.pi)
    target = place + torch.stack((2.5 * direction.cos(), uniform(-0.7, 0.7), 2.5 * direction.sin()), dim=-1)
    step = torch.stack((uniform(-1.2, 1.2), uniform(-0.4, 0.4), uniform(-1.2, 1.2)), dim=-1) * uniform(0.1, 1.0, 1)
    shift = torch.stack((uniform(-0.8, 0.8), uniform(-0.4, 0.4), uniform(-0.8, 0.8)), dim=-1)
    focal = side / 2 / torch.deg2rad(uniform(45, 85) / 2).tan()
    focal1 = focal * torch.exp(uniform(-0.25, 0.25))
    return (
        Cameras(_looking(place, target, uniform(-0.15, 0.15)), focal),
        Cameras(_looking(place + step, target + shift, uniform(-0.4, 0.4)), focal1),
    )


def render(scenes: Scenes, textures: Tensor, cameras: Cameras, side: int) -> Tensor:
    """Return ``B x 3 x side x side`` uint8 images, each pixel the mean of four rays.

    Args:
        textures: ``T x 3 x S x S`` uint8.
    """
    steps = (torch.arange(side * _FINER, device=textures.device) + 0.5) / _FINER - 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    pixels = torch.stack((x, y), dim=-1).view(1, -1, 2).expand(len(scenes), -1, -1)
    origin = cameras.pose[:, None, :3, 3]
    depth, which, metres = cast(scenes, origin, cameras.rays(pixels, side))
    image = _texture_at(textures, scenes.texture.gather(1, which), metres)
    image = image * (depth < _FAR)[..., None]
    image = image.transpose(1, 2).unflatten(2, (side * _FINER, side * _FINER))
    return F.avg_pool2d(image, _FINER).round().clamp(0, 255).byte()


def follow(scenes: Scenes, cameras0: Cameras, cameras1: Cameras, pixels: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return where pixels of the first cameras are seen by the second ones.

    Returns:
        ``B x N x 2`` pixels, and ``B x N`` bool: inside the image and hidden by nothing.
    """
    origin = cameras0.pose[:, None, :3, 3]
    rays = cameras0.rays(pixels, side)
    depth, _, _ = cast(scenes, origin, rays)
    points = origin + depth[..., None] * rays
    moved, there = cameras1.project(points, side)
    inside = ((moved > -0.5) & (moved < side - 0.5)).all(dim=-1) & (there > 0.05) & (depth < _FAR)
    seen, _, _ = cast(
        scenes, cameras1.pose[:, None, :3, 3], cameras1.rays(torch.where(inside[..., None], moved, 0), side)
    )
    return moved, inside & ((seen - there).abs() < 0.01 * there + 0.005)


def cast(scenes: Scenes, origin: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what rays hit first.

    Args:
        origin: ``B x 1 x 3``.
        rays: ``B x N x 3``.

    Returns:
        ``B x N`` parameter of the ray (``_FAR`` where it hits nothing), ``B x N`` int64 which surface, and
        ``B x N x 2`` place on it in units of its texture.
    """
    quads = scenes.corner.shape[1]
    normals = torch.linalg.cross(scenes.right, scenes.down)
    slope = rays @ normals.transpose(1, 2)
    offset = ((scenes.corner - origin) * normals).sum(dim=-1)[:, None]
    depth = offset / torch.where(slope.abs() < 1e-7, torch.full_like(slope, 1e-7), slope)
    hit = depth > 0.05
    for edge in (scenes.right, scenes.down):
        length = edge.square().sum(dim=-1)[:, None]
        along = (
            ((origin - scenes.corner) * edge).sum(dim=-1)[:, None] + depth * (rays @ edge.transpose(1, 2))
        ) / length
        hit &= (along >= 0) & (along <= 1)
    nearest, which = torch.where(hit, depth, _FAR).min(dim=-1)
    round_depth, round_which = _cast_cylinders(scenes.cylinders, origin, rays)
    closer = round_depth < nearest
    nearest, which = torch.where(closer, round_depth, nearest), torch.where(closer, round_which + quads, which)
    ground_depth = _cast_ground(scenes, origin, rays, nearest)
    closer = ground_depth < nearest
    number = scenes.texture.shape[1]
    nearest, which = torch.where(closer, ground_depth, nearest), which.masked_fill(closer, number - 1)
    return nearest, which, _place(scenes, which, origin + nearest[..., None].clamp(max=100) * rays)


def _cast_cylinders(cylinders: Tensor, origin: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
    x, z, radius, top, bottom = (part[:, None] for part in cylinders.unbind(-1))
    dx, dy, dz = (part[..., None] for part in rays.unbind(-1))
    ox, oz = origin[..., :1] - x, origin[..., 2:] - z
    a, b, c = dx**2 + dz**2, ox * dx + oz * dz, ox**2 + oz**2 - radius**2
    root = b**2 - a * c
    safe = a.clamp(min=1e-9)
    depth = torch.full_like(root, _FAR)
    for sign in (1, -1):  # the nearer one last, which wins
        at = (-b + sign * root.clamp(min=0).sqrt()) / safe
        height = origin[..., 1:2] + at * dy
        depth = torch.where((root > 0) & (at > 0.05) & (height > top) & (height < bottom), at, depth)
    return depth.min(dim=-1)


def _cast_ground(scenes: Scenes, origin: Tensor, rays: Tensor, limit: Tensor) -> Tensor:
    """March along each ray to where it first goes below the ground, and close in by bisection."""

    def below(at: Tensor, rays: Tensor) -> Tensor:
        """Return ``B x N x S`` whether rays are below the ground, at ``B x N x S`` of their parameter."""
        x, y, z = (origin[..., i, None] + at * rays[..., i, None] for i in range(3))
        amplitude, kx, kz, phase = (part[:, None, None] for part in scenes.waves.unbind(-1))
        hills = (amplitude * torch.sin(kx * x[..., None] + kz * z[..., None] + phase)).sum(dim=-1)
        return y > scenes.ground[:, None, None] + hills

    if not bool((scenes.ground < 40).any()):
        return torch.full_like(limit, _FAR)
    far = limit.clamp(max=40.0)
    steps = (torch.arange(_MARCH + 1, device=rays.device) / _MARCH) ** 2
    # All of a ray's steps at once are few large operations; some rays at a time, so that they fit.
    parts = max(1, rays.shape[1] * len(rays) // 2**20)
    firsts = [
        below(f[..., None] * steps[1:], r).to(torch.uint8).max(dim=-1)
        for f, r in zip(far.tensor_split(parts, dim=1), rays.tensor_split(parts, dim=1), strict=True)
    ]
    hit = torch.cat([first.values for first in firsts], dim=1) > 0
    first = torch.cat([first.indices for first in firsts], dim=1)  # of equal ones the first
    near, after = far * steps[first], far * steps[first + 1]
    for _ in range(_BISECT):
        middle = (near + after) / 2
        under = below(middle[..., None], rays)[..., 0]
        near, after = torch.where(under, near, middle), torch.where(under, middle, after)
    return torch.where(hit & (after > 0.05), after, _FAR)


def _place(scenes: Scenes, which: Tensor, points: Tensor) -> Tensor:
    """Return ``B x N x 2`` place of points on their surfaces, in units of their textures."""
    quads, number = scenes.corner.shape[1], scenes.texture.shape[1]
    flat = which.clamp(max=quads - 1)

    def of(values: Tensor) -> Tensor:
        return values.gather(1, flat[..., None].expand(-1, -1, 3))

    relative = points - of(scenes.corner)
    place = torch.stack(
        [
            (relative * of(edge)).sum(dim=-1) / of(edge).norm(dim=-1).clamp(min=1e-6)
            for edge in (scenes.right, scenes.down)
        ],
        dim=-1,
    )
    of_round = (which - quads).clamp(0, scenes.cylinders.shape[1] - 1)
    x, z, radius, top, _ = scenes.cylinders.gather(1, of_round[..., None].expand(-1, -1, 5)).unbind(-1)
    angle = torch.atan2(points[..., 2] - z, points[..., 0] - x)
    round_place = torch.stack((angle * radius, points[..., 1] - top), dim=-1)
    place = torch.where((which >= quads)[..., None], round_place, place)
    place = torch.where((which == number - 1)[..., None], points[..., ::2], place)
    return place / scenes.metres.gather(1, which)[..., None]


def _texture_at(textures: Tensor, which: Tensor, place: Tensor) -> Tensor:
    """Return ``B x N x 3`` bilinear texture values in 0 … 255; textures repeat mirrored."""
    side = textures.shape[-1]
    at = 1 - (place.remainder(2.0) - 1).abs()
    position = at * (side - 1)
    low = position.floor().long().clamp(0, side - 2)
    fraction = (position - low)[..., None]
    flat = textures.permute(0, 2, 3, 1).reshape(-1, 3)
    first = (which * side + low[..., 1]) * side + low[..., 0]

    def texel(dx: int, dy: int) -> Tensor:
        return flat[first + dy * side + dx].float()

    fx, fy = fraction[..., 0, :], fraction[..., 1, :]
    top = texel(0, 0) * (1 - fx) + texel(1, 0) * fx
    bottom = texel(0, 1) * (1 - fx) + texel(1, 1) * fx
    return top * (1 - fy) + bottom * fy


def _box_faces(centre: Tensor, size: Tensor, yaw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``B x 6N x 3`` corners and edges of the faces of ``B x N`` boxes, turned about the vertical."""
    c, s, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    axes = torch.stack(
        (torch.stack((c, zero, s), dim=-1), torch.stack((zero, one, zero), dim=-1), torch.stack((-s, zero, c), dim=-1)),
        dim=-2,
    )
    edges = [axes[:, :, i] * size[..., i : i + 1] for i in range(3)]
    corners, rights, downs = [], [], []
    first = centre - sum(edges) / 2
    for axis in range(3):
        u, v = [other for other in range(3) if other != axis]
        for side in (0, 1):
            corners.append(first + edges[axis] * side)
            rights.append(edges[u])
            downs.append(edges[v])
    return torch.cat(corners, dim=1), torch.cat(rights, dim=1), torch.cat(downs, dim=1)


def _looking(place: Tensor, target: Tensor, roll: Tensor) -> Tensor:
    """Return ``B x 4 x 4`` poses at places that look at targets, x right, y down, rolled about the axis."""
    ahead = F.normalize(target - place, dim=-1)
    down = torch.tensor([0.0, 1.0, 0.0], device=place.device).expand_as(ahead)
    right = F.normalize(torch.linalg.cross(down, ahead), dim=-1)
    below = torch.linalg.cross(ahead, right)
    c, s = roll.cos()[:, None], roll.sin()[:, None]
    pose = torch.eye(4, device=place.device).repeat(len(place), 1, 1)
    pose[:, :3, 0], pose[:, :3, 1] = right * c + below * s, below * c - right * s
    pose[:, :3, 2], pose[:, :3, 3] = ahead, place
    return pose
