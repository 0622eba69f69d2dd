"""Rendered scenes are what they say: their depth and poses explain their pixels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from training.data.rendered import (
    Quads,
    nearby_pose,
    noise_textures,
    pinhole,
    random_pose,
    random_room,
    render,
    write_rendered_scene,
)
from training.data.scene_file import SceneFile
from training.errors import DataError
from training.projection import warp_keypoints


def test_a_wall_has_the_depth_and_texture_of_closed_form() -> None:
    textures = noise_textures(1, torch.Generator().manual_seed(0))
    wall = Quads(
        torch.tensor([[-4.0, -4.0, 2.0]]), torch.tensor([[8.0, 0, 0]]), torch.tensor([[0, 8.0, 0]]), torch.tensor([0])
    )
    camera = pinhole(60, 80)
    view = render(wall, textures, torch.eye(4), camera, (60, 80))
    torch.testing.assert_close(view.depth, torch.full((60, 80), 2.0), atol=1e-5, rtol=0)
    # The pixel at (x, y) sees the wall at 2 (x - cx) / f metres; the texture has 256 texels in two metres.
    x, y = 50, 20
    metres = torch.tensor([(x - 39.5) / camera[0, 0] * 2 + 4, (y - 29.5) / camera[1, 1] * 2 + 4])
    position = (metres / 2 % 2 - 1).abs() * 255
    grid = (position / 255 * 2 - 1).view(1, 1, 1, 2)
    expected = F.grid_sample(textures, grid, align_corners=True)[0, :, 0, 0]
    torch.testing.assert_close(view.image[:, y, x], expected, atol=1e-4, rtol=0)


def test_two_views_agree_where_depth_says_they_see_the_same() -> None:
    generator = torch.Generator().manual_seed(3)
    textures = noise_textures(8, generator)
    quads, camera = random_room(8, generator), pinhole(120, 160)
    pose0 = random_pose(generator)
    pose1 = nearby_pose(pose0, generator)
    view0, view1 = (render(quads, textures, pose, camera, (120, 160)) for pose in (pose0, pose1))
    assert (view0.depth > 0).all()  # a closed room
    keypoints = torch.rand(1, 800, 2, generator=generator) * torch.tensor([158.0, 118.0]) + 1
    keypoints = keypoints.round()
    transform = (torch.linalg.inv(pose1) @ pose0)[None, :3]
    warped = warp_keypoints(keypoints, view0.depth[None], view1.depth[None], transform, camera[None], camera[None])
    seen = warped.valid[0]
    assert 0.2 < seen.float().mean() < 1
    at = (warped.keypoints[0, seen] / torch.tensor([159.0, 119.0]) * 2 - 1)[None, :, None]
    there = F.grid_sample(view1.image[None], at, align_corners=True)[0, :, :, 0].T
    here = view0.image[:, keypoints[0, seen, 1].long(), keypoints[0, seen, 0].long()].T
    error = (there - here).abs().mean(dim=1)
    assert error.median() < 0.02
    assert error.median() < 0.2 * (here - here.flip(0)).abs().mean()


def test_scene_file_has_the_pairs_asked_for_and_is_reproducible(tmp_path: Path) -> None:
    textures = noise_textures(4, torch.Generator().manual_seed(0), side=64)
    for name in ("a", "b"):
        write_rendered_scene(tmp_path / f"{name}.h5", textures, pairs=3, size=(48, 64), seed=5)
    first, second = SceneFile(tmp_path / "a.h5"), SceneFile(tmp_path / "b.h5")
    assert len(first.pair_keys) == 3
    for key in first.pair_keys:
        one, two = first.pair(key), second.pair(key)
        assert 0.4 < one["covis"] < 0.8
        assert torch.equal(one["image0"], two["image0"])
        assert torch.equal(one["T_0to1"], two["T_0to1"])


def test_impossible_bounds_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    textures = noise_textures(1, torch.Generator().manual_seed(0), side=16)
    with pytest.raises(DataError, match="could be rendered"):
        write_rendered_scene(tmp_path / "a.h5", textures, pairs=1, size=(16, 16), least=0.99, most=0.991)
    assert not list(tmp_path.glob("*.h5"))
