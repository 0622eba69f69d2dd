"""Warping by depth and covisibility: the published results, and what the published code gets wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.projection import covisibility, relative_pose, warp_keypoints


def golden(shared: Path, name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(shared / "golden" / name).items()}


@pytest.mark.parametrize(("a", "b"), [(0, 1), (1, 0), (0, 2), (2, 0)])
def test_warp_is_the_published_one(shared: Path, a: int, b: int) -> None:
    data = golden(shared, "warp_kpts.npz")
    transform = relative_pose(data[f"pose{a}"], data[f"pose{b}"])[None]
    torch.testing.assert_close(transform, data[f"T_{a}to{b}"], atol=1e-6, rtol=0)
    depth0, depth1, camera = data[f"depth{a}"][None], data[f"depth{b}"][None], data["K"][None]
    before = depth0.clone()
    warped = warp_keypoints(data["keypoints"], depth0, depth1, transform, camera, camera)
    valid = data[f"valid_{a}to{b}"]
    assert torch.equal(warped.valid, valid)
    torch.testing.assert_close(warped.keypoints[valid], data[f"warped_{a}to{b}"][valid], atol=1e-4, rtol=0)
    assert torch.equal(depth0, before)  # the published code zeroes the caller's first row and column


def test_covisibility_is_the_published_one(shared: Path) -> None:
    data = golden(shared, "covisibility.npz")
    size = tuple(int(side) for side in data["color_hw"])
    depth = F.interpolate(data["depth_mm"].float()[:, None], size, mode="nearest")[:, 0] / 1000
    rows = data["covis"]
    source, target = (rows[:, column].long() // 15 for column in (0, 1))
    camera = data["K_color"][:3, :3].float().expand(len(rows), -1, -1)
    transform = relative_pose(data["poses"][source], data["poses"][target]).float()
    found = covisibility(depth[source], depth[target], transform, camera, camera)
    torch.testing.assert_close(found, rows[:, 2], atol=1e-9, rtol=0)


def plane_views(shift: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A wall at 2 m seen by two cameras ``shift`` metres apart, in the second one's right."""
    depth = torch.full((1, 60, 80), 2.0)
    camera = torch.tensor([[[100.0, 0.0, 40.0], [0.0, 100.0, 30.0], [0.0, 0.0, 1.0]]])
    transform = torch.eye(4)[None, :3].clone()
    transform[0, 0, 3] = -shift
    return depth, depth.clone(), transform, camera


def test_a_wall_moves_by_its_disparity_and_the_margin_is_lost() -> None:
    depth0, depth1, transform, camera = plane_views(0.2)
    keypoints = torch.tensor([[[50.0, 20.0], [70.5, 40.25], [8.0, 30.0], [0.2, 30.0]]])
    warped = warp_keypoints(keypoints, depth0, depth1, transform, camera, camera)
    torch.testing.assert_close(warped.keypoints[0, :2], keypoints[0, :2] - torch.tensor([10.0, 0.0]), atol=1e-3, rtol=0)
    assert warped.valid.tolist() == [[True, True, False, False]]


def test_keypoints_off_the_image_and_behind_the_camera_are_invalid() -> None:
    depth0, depth1, transform, camera = plane_views(0.0)
    keypoints = torch.tensor([[[90.0, 20.0], [-5.0, 10.0], [40.0, 200.0], [40.0, 30.0]]])
    assert warp_keypoints(keypoints, depth0, depth1, transform, camera, camera).valid.tolist() == [
        [False, False, False, True]
    ]
    transform[0, 2, 3] = -2.0  # the wall is in the second camera's plane
    assert not warp_keypoints(keypoints, depth0, depth1, transform, camera, camera).valid.any()


def test_occlusion_is_seen_in_the_depth() -> None:
    depth0, depth1, transform, camera = plane_views(0.0)
    depth1[:, :, 40:] = 1.0
    keypoints = torch.tensor([[[20.0, 30.0], [60.0, 30.0]]])
    assert warp_keypoints(keypoints, depth0, depth1, transform, camera, camera).valid.tolist() == [[True, False]]


def test_a_batch_equals_its_pairs() -> None:
    parts = [plane_views(shift) for shift in (0.0, 0.1, 0.3)]
    keypoints = torch.rand(3, 50, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([80.0, 60.0])
    stacked = [torch.cat([part[i] for part in parts]) for i in range(4)]
    batch = warp_keypoints(keypoints, stacked[0], stacked[1], stacked[2], stacked[3], stacked[3])
    for i, (d0, d1, t, k) in enumerate(parts):
        single = warp_keypoints(keypoints[i : i + 1], d0, d1, t, k, k)
        assert torch.equal(single.valid[0], batch.valid[i])
        torch.testing.assert_close(single.keypoints[0], batch.keypoints[i])
