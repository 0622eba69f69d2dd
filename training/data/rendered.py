"""Rendered RGB-D scenes: textured walls and boxes with known depth and pose, in the scene-file layout.

They make every path of training and evaluation run, and be tested, with no data set at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.scene_file import SceneFileWriter
from training.errors import DataError
from training.projection import covisibility, relative_pose

# Metres of wall that one texture covers; it repeats mirrored beyond.
_TEXTURE_METRES = 2.0
_ROOM = (5.0, 3.0, 5.0)


@dataclass(frozen=True)
class Quads:
    """Textured rectangles in space.

    Attributes:
        corner: ``Q x 3`` metres.
        right, down: ``Q x 3`` edges from the corner, metres, at right angles.
        texture: ``Q`` int64, which texture each shows.
    """

    corner: Tensor
    right: Tensor
    down: Tensor
    texture: Tensor


@dataclass(frozen=True)
class View:
    """One rendered frame.

    Attributes:
        image: ``3 x H x W`` in [0, 1].
        depth: ``H x W`` metres along the optical axis.
        pose: ``4 x 4`` camera to world.
        camera: ``3 x 3`` intrinsics.
    """

    image: Tensor
    depth: Tensor
    pose: Tensor
    camera: Tensor


def random_room(textures: int, generator: torch.Generator, boxes: int = 6) -> Quads:
    """Return a room of 5 x 3 x 5 m, centred on the origin (y down), with boxes on its floor.

    Args:
        textures: how many textures there are to choose from.
        generator: decides sizes, places and textures.
        boxes: how many.
    """
    width, height, length = _ROOM
    centre = [(0.0, 0.0, 0.0)]
    sizes = [(width, height, length)]
    for _ in range(boxes):
        size = (0.3 + torch.rand(3, generator=generator) * torch.tensor([0.9, 1.2, 0.9])).tolist()
        # Towards the walls: the cameras walk in the middle.
        angle, reach = (torch.rand(2, generator=generator) * torch.tensor([2 * math.pi, 0.6])).tolist()
        x, z = (1.5 + reach) * math.cos(angle), (1.5 + reach) * math.sin(angle)
        centre.append((x, height / 2 - size[1] / 2, z))
        sizes.append((size[0], size[1], size[2]))
    quads = [_box(torch.tensor(c), torch.tensor(s)) for c, s in zip(centre, sizes, strict=True)]
    corner, right, down = (torch.cat([q[i] for q in quads]) for i in range(3))
    return Quads(corner, right, down, torch.randint(textures, (len(corner),), generator=generator))


def random_pose(generator: torch.Generator) -> Tensor:
    """Return a camera near the middle of the room, roughly level, looking anywhere: ``4 x 4`` camera to world."""
    turn, tilt, roll, *place = torch.rand(6, generator=generator).tolist()
    yaw, pitch, bank = 2 * math.pi * turn, 0.5 * (tilt - 0.5), 0.4 * (roll - 0.5)
    pose = torch.eye(4)
    pose[:3, :3] = _rotation(1, yaw) @ _rotation(0, pitch) @ _rotation(2, bank)
    pose[:3, 3] = (torch.tensor(place) - 0.5) * torch.tensor([1.6, 0.8, 1.6])
    return pose


def nearby_pose(pose: Tensor, generator: torch.Generator, amount: float = 1.0) -> Tensor:
    """Return a pose within about half a metre and 30 degrees of another, times ``amount``."""
    yaw, pitch, bank = ((torch.rand(3, generator=generator) - 0.5) * torch.tensor([1.0, 0.5, 0.5]) * amount).tolist()
    moved = pose.clone()
    moved[:3, :3] = pose[:3, :3] @ _rotation(1, yaw) @ _rotation(0, pitch) @ _rotation(2, bank)
    moved[:3, 3] += pose[:3, :3] @ ((torch.rand(3, generator=generator) - 0.5) * torch.tensor([1.0, 0.4, 0.8]) * amount)
    return moved


def pinhole(height: int, width: int, field_of_view_deg: float = 65.0) -> Tensor:
    """Return ``3 x 3`` intrinsics with the principal point in the middle."""
    focal = width / 2 / math.tan(math.radians(field_of_view_deg) / 2)
    return torch.tensor([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])


def render(quads: Quads, textures: Tensor, pose: Tensor, camera: Tensor, size: tuple[int, int]) -> View:
    """Return one view by ray casting.

    Args:
        quads: the scene.
        textures: ``T x 3 x S x S`` in [0, 1].
        pose: ``4 x 4`` camera to world.
        camera: ``3 x 3``.
        size: ``(height, width)``.
    """
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) + 0.0, torch.arange(width) + 0.0, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(-1, 3) @ torch.linalg.inv(camera).T
    directions = rays @ pose[:3, :3].T  # their length makes the ray parameter the depth
    normals = torch.linalg.cross(quads.right, quads.down)
    slope = directions @ normals.T
    offset = ((quads.corner - pose[:3, 3]) * normals).sum(dim=1)
    depth = offset / torch.where(slope.abs() < 1e-9, torch.full_like(slope, 1e-9), slope)
    # Position of the hit within each rectangle, in [0, 1] along both edges.
    relative = pose[:3, 3] - quads.corner
    along = []
    for edge in (quads.right, quads.down):
        length = edge.square().sum(dim=1)
        along.append(((relative * edge).sum(dim=1) + depth * (directions @ edge.T)) / length)
    hit = (depth > 0.05) & (along[0] >= 0) & (along[0] <= 1) & (along[1] >= 0) & (along[1] <= 1)
    depth = depth.masked_fill(~hit, torch.inf)
    nearest, which = depth.min(dim=1)
    rows = torch.arange(len(which))
    metres = torch.stack(
        [along[i][rows, which] * edge.norm(dim=1)[which] for i, edge in enumerate((quads.right, quads.down))], dim=1
    )
    seen = torch.isfinite(nearest)
    image = _texture_at(textures, quads.texture[which], metres) * seen[:, None]
    return View(
        image.T.reshape(3, height, width),
        nearest.masked_fill(~seen, 0).view(height, width),
        pose,
        camera,
    )


def write_rendered_scene(
    path: str | Path,
    textures: Tensor,
    *,
    pairs: int = 20,
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
    least: float = 0.4,
    most: float = 0.8,
) -> None:
    """Write a scene file of pairs of views of one random room.

    Args:
        path: ``<scene>.h5``.
        textures: ``T x 3 x S x S`` in [0, 1]: photos, or :func:`noise_textures`.
        pairs: how many, with covisibility strictly between ``least`` and ``most``.
        size: ``(height, width)`` of the images.
        seed: everything random follows from it.

    Raises:
        DataError: such pairs cannot be found (the bounds are too narrow).
    """
    generator = torch.Generator().manual_seed(seed)
    quads, camera = random_room(len(textures), generator), pinhole(*size)
    found = 0
    with SceneFileWriter(path, storage="compact") as writer:
        for attempt in range(40 * pairs):
            if found == pairs:
                return
            first = random_pose(generator)
            second = nearby_pose(first, generator, amount=0.6 + 0.8 * (attempt % 3) / 2)
            views = [render(quads, textures, pose, camera, size) for pose in (first, second)]
            forward, back = relative_pose(first, second), relative_pose(second, first)
            share = covisibility(
                views[0].depth[None], views[1].depth[None], forward[None], camera[None], camera[None]
            ).item()
            if not least < share < most:
                continue
            keys = [f"room{seed:04d}_{found:04d}_{side}" for side in "ab"]
            for key, view in zip(keys, views, strict=True):
                writer.add_image(key, view.image, view.depth, view.pose, view.camera)
            writer.add_pair(keys[0], keys[1], forward, back, share)
            found += 1
        raise DataError(
            f"only {found} of {pairs} pairs with a covisibility between {least} and {most} could be rendered"
        )


def noise_textures(count: int, generator: torch.Generator, side: int = 256) -> Tensor:
    """Return ``count x 3 x side x side`` textures of coloured blotches at many scales, for where no photos are at
    hand.
    """
    textures = torch.zeros(count, 3, side, side)
    for octave in range(1, 7):
        cells = 2**octave + 1
        noise = torch.rand(count, 3, cells, cells, generator=generator)
        textures += F.interpolate(noise, size=(side, side), mode="bicubic", align_corners=True) / octave**0.5
    low, high = textures.amin(dim=(2, 3), keepdim=True), textures.amax(dim=(2, 3), keepdim=True)
    return (textures - low) / (high - low)


def _box(centre: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return corners and edges of the six faces of an axis-aligned box."""
    corners, rights, downs = [], [], []
    for axis in range(3):
        u, v = [other for other in range(3) if other != axis]
        for side in (-0.5, 0.5):
            corner = centre - size / 2
            corner[axis] = centre[axis] + side * size[axis]
            corners.append(corner)
            rights.append(torch.eye(3)[u] * size[u])
            downs.append(torch.eye(3)[v] * size[v])
    return torch.stack(corners), torch.stack(rights), torch.stack(downs)


def _rotation(axis: int, angle: float) -> Tensor:
    u, v = [other for other in range(3) if other != axis]
    matrix = torch.eye(3)
    matrix[u, u] = matrix[v, v] = math.cos(angle)
    matrix[u, v], matrix[v, u] = -math.sin(angle), math.sin(angle)
    return matrix


def _texture_at(textures: Tensor, which: Tensor, metres: Tensor) -> Tensor:
    """Return ``P x 3`` bilinear texture values; textures repeat mirrored every two metres."""
    at = (metres / _TEXTURE_METRES % 2.0 - 1.0).abs()  # triangle wave in [0, 1]
    side = textures.shape[-1]
    position = at * (side - 1)
    low = position.floor().long().clamp(max=side - 2)
    fraction = position - low
    flat = textures.permute(0, 2, 3, 1).reshape(-1, 3)

    def texel(dx: int, dy: int) -> Tensor:
        return flat[(which * side + low[:, 1] + dy) * side + low[:, 0] + dx]

    fx, fy = fraction[:, :1], fraction[:, 1:]
    top = texel(0, 0) * (1 - fx) + texel(1, 0) * fx
    bottom = texel(0, 1) * (1 - fx) + texel(1, 1) * fx
    return top * (1 - fy) + bottom * fy
