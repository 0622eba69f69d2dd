"""Views that are ruled out see nothing, and many that see nothing are ruled out."""

from __future__ import annotations

import torch
from torch import Tensor

from training.frustum import cannot_see, depth_range
from training.projection import covisibility, relative_pose, warp_keypoints

SIZE = (48, 64)


def camera(focal: float = 50.0) -> Tensor:
    return torch.tensor([[focal, 0.3, 31.0], [0.0, 1.1 * focal, 25.0], [0.0, 0.0, 1.0]])


def random_poses(count: int, spread: float, generator: torch.Generator) -> Tensor:
    turns, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator))
    turns[:, :, 0] *= torch.linalg.det(turns)[:, None]
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, :3, :3], poses[:, :3, 3] = turns, torch.randn(count, 3, generator=generator) * spread
    return poses


def ruled_out_and_share(nearest: float, farthest: float, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    depth = nearest + (farthest - nearest) * torch.rand(400, *SIZE, generator=generator)
    depth[torch.rand(400, *SIZE, generator=generator) < 0.2] = 0
    poses = random_poses(400, spread, generator)
    transform = relative_pose(poses[:1], poses)
    ruled_out = cannot_see(
        depth_range(depth[0]).expand(400, -1), transform, camera(), camera(), depth.flatten(1).amax(dim=1), SIZE
    )
    return ruled_out, covisibility(depth[:1], depth, transform, camera()[None], camera()[None])


def test_what_is_ruled_out_sees_nothing_and_much_of_that_is_found() -> None:
    # The last: so near that points behind the camera agree with depth, as the published rules have it.
    for nearest, farthest, spread, least in ((0.5, 4.0, 1.0, 0.3), (2.0, 3.0, 6.0, 0.3), (0.02, 0.3, 0.05, 0.05)):
        for seed in range(3):
            ruled_out, share = ruled_out_and_share(nearest, farthest, spread, seed)
            assert not share[ruled_out].any()
            assert share[~ruled_out].any()
            assert ruled_out.sum() >= least * (share == 0).sum()


def test_a_point_behind_the_camera_that_the_rules_accept_is_not_ruled_out() -> None:
    depth = torch.full((1, *SIZE), 0.1)
    back = torch.eye(4)
    back[2, 3] = 0.15  # 5 cm behind camera 1, where it measured nothing
    nothing = torch.zeros(1, *SIZE)
    transform = relative_pose(torch.eye(4)[None], back[None])
    where = torch.tensor([[[31.0, 25.0]]])
    accepted = warp_keypoints(where, depth, nothing, transform, camera()[None], camera()[None]).valid
    assert accepted.all()
    assert not cannot_see(depth_range(depth[0])[None], transform, camera(), camera(), nothing.amax()[None], SIZE).any()


def test_lost_poses_are_kept_and_a_view_without_depth_sees_nothing() -> None:
    poses = torch.eye(4).repeat(2, 1, 1)
    poses[1] = torch.nan
    transform = relative_pose(torch.eye(4)[None], poses)
    far = torch.tensor([3.0, 3.0])
    measured = torch.tensor([[1.0, 2.0]]).expand(2, -1)
    assert cannot_see(measured, transform, camera(), camera(), far, SIZE).tolist() == [False, False]
    nothing = depth_range(torch.zeros(SIZE)).expand(2, -1)
    assert cannot_see(nothing, transform, camera(), camera(), far, SIZE).tolist() == [True, True]
