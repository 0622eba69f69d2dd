"""Rendered scenes on one device: depth in closed form, one correspondence there and back, pixels that agree."""

from __future__ import annotations

import math

import pytest
import torch

from training.data.rendered import Quads, noise_textures
from training.data.rendered import render as render_slowly
from training.student import scenes as scenery
from training.student.scenes import Cameras, Scenes

_DEVICE = torch.device("cpu")


def scene(**parts: torch.Tensor) -> Scenes:
    """A wall 3 m ahead and nothing else, but for what is given."""
    content = {
        "corner": torch.tensor([[[-9.0, -9.0, 3.0]]]),
        "right": torch.tensor([[[18.0, 0, 0]]]),
        "down": torch.tensor([[[0, 18.0, 0]]]),
        "cylinders": torch.tensor([[[50.0, 50.0, 0.1, 0.0, 0.1]]]),
        "waves": torch.zeros(1, 1, 4),
        "ground": torch.tensor([100.0]),
        "texture": torch.tensor([[0, 1, 2]]),
        "metres": torch.full((1, 3), 2.0),
    }
    return Scenes(**(content | parts))


def test_the_old_renderer_agrees_about_rectangles() -> None:
    textures = noise_textures(2, torch.Generator().manual_seed(0), side=64)
    ours = scene()
    camera = Cameras(torch.eye(4)[None], torch.tensor([60.0]))
    side = 48
    y, x = torch.meshgrid(torch.arange(side) + 0.0, torch.arange(side) + 0.0, indexing="ij")
    pixels = torch.stack((x, y), dim=-1).view(1, -1, 2)
    depth, which, _ = scenery.cast(ours, torch.zeros(1, 1, 3), camera.rays(pixels, side))
    intrinsics = torch.tensor([[60.0, 0, 23.5], [0, 60.0, 23.5], [0, 0, 1]])
    quads = Quads(ours.corner[0], ours.right[0], ours.down[0], torch.tensor([0]))
    expected = render_slowly(quads, textures, torch.eye(4), intrinsics, (side, side))
    torch.testing.assert_close(depth.view(side, side), expected.depth)
    assert (which == 0).all()


def test_a_cylinder_and_flat_ground_have_the_depth_of_closed_form() -> None:
    ours = scene(
        cylinders=torch.tensor([[[0.0, 2.0, 0.5, -1.0, 1.0]]]), ground=torch.tensor([1.5]), waves=torch.zeros(1, 1, 4)
    )
    rays = torch.tensor([[[0.0, 0, 1], [0.1, 0, 1], [0, 1.0, 1], [0.0, -0.9, 1]]])
    depth, which, _ = scenery.cast(ours, torch.zeros(1, 1, 3), rays)
    # (0.1 t)² + (t - 2)² = 0.25
    oblique = (4 - math.sqrt(16 - 4 * 1.01 * 3.75)) / 2.02
    torch.testing.assert_close(depth[0], torch.tensor([1.5, oblique, 1.5, 3.0]), atol=1e-4, rtol=0)
    assert which[0].tolist() == [1, 1, 2, 0]


def test_hills_are_hit_where_they_are_high() -> None:
    waves = torch.tensor([[[0.3, 1.0, 0.5, 0.4], [0.2, -0.7, 1.1, 1.0]]])
    ours = scene(ground=torch.tensor([1.0]), waves=waves)
    rays = torch.tensor([[[0.1, 0.8, 1.0], [-0.3, 1.0, 1.0], [0.4, 0.6, 1.0]]])
    depth, which, _ = scenery.cast(ours, torch.zeros(1, 1, 3), rays)
    assert (which == 2).all()
    point = depth[0, :, None] * rays[0]
    height = 1.0 + sum(a * torch.sin(kx * point[:, 0] + kz * point[:, 2] + phase) for a, kx, kz, phase in waves[0])
    torch.testing.assert_close(point[:, 1], height, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def views() -> tuple[Scenes, tuple[Cameras, Cameras], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    textures = (noise_textures(12, generator, side=64) * 255).byte()
    scenes = scenery.random_scenes(6, 12, generator, _DEVICE)
    cameras = scenery.random_cameras(6, 96, generator, _DEVICE)
    images = torch.stack([scenery.render(scenes, textures, camera, 96) for camera in cameras], dim=1)
    return scenes, cameras, images, torch.rand(6, 400, 2, generator=generator) * 91 + 2


def test_what_is_followed_comes_back(views) -> None:
    scenes, cameras, _, pixels = views
    moved, seen = scenery.follow(scenes, *cameras, pixels, 96)
    assert 0.2 < seen.float().mean() < 0.99
    back, both = scenery.follow(scenes, *cameras[::-1], torch.where(seen[..., None], moved, 0.0), 96)
    both &= seen
    assert both.sum() > 0.98 * seen.sum()
    torch.testing.assert_close(back[both], pixels[both], atol=5e-3, rtol=0)


def test_pixels_agree_where_the_same_is_seen(views) -> None:
    scenes, cameras, images, pixels = views
    moved, seen = scenery.follow(scenes, *cameras, pixels, 96)

    def at(side: int, places: torch.Tensor) -> torch.Tensor:
        grid = ((places + 0.5) / 96 * 2 - 1)[:, None]
        return torch.nn.functional.grid_sample(images[:, side].float(), grid, align_corners=False)[:, :, 0].mT

    difference = (at(0, pixels) - at(1, torch.where(seen[..., None], moved, 0.0))).abs().mean(dim=-1)
    assert difference[seen].median() < 6
    assert difference[~seen].median() > 20
    assert images.float().std(dim=(2, 3, 4)).min() > 10


def test_nothing_behind_a_camera_is_seen() -> None:
    ahead, behind = torch.eye(4)[None], torch.diag(torch.tensor([-1.0, 1, -1, 1]))[None]
    cameras = [Cameras(pose, torch.tensor([50.0])) for pose in (ahead, behind)]
    pixels = torch.rand(1, 50, 2) * 60
    _, seen = scenery.follow(scene(), *cameras, pixels, 64)
    assert not seen.any()
