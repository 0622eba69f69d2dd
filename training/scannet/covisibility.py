"""How much of each frame every later frame of its scene sees: ``covisibility.txt`` in the scene's folder."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.io.atomic import atomic_output
from training.errors import DataError
from training.frustum import cannot_see, depth_range
from training.projection import Lifted, lattice, lift, project, relative_pose
from training.scannet.scene import Scene

FILE_NAME = "covisibility.txt"


@dataclass(frozen=True)
class SceneFrames:
    """What of a scene decides about covisibility.

    Attributes:
        ids: ``F`` numbers of the frames.
        depth: ``F x h x w`` metres, at the depth camera's size.
        poses: ``F x 4 x 4`` camera to world.
        camera: ``3 x 3`` of the colour images.
        size: ``(height, width)`` of the colour images.
    """

    ids: list[int]
    depth: Tensor
    poses: Tensor
    camera: Tensor
    size: tuple[int, int]


def scene_covisibility(scene: Scene, device: torch.device | str = "cpu", pairs_at_once: int | None = None) -> Tensor:
    """Return ``P x 3`` float64 rows (source id, target id, share) for all pairs of frames, source before target.

    Each frame is read once. The depth maps stay at their own size; they are read as if enlarged to the colour image's
    by nearest neighbour, which is how the published figures are defined.
    """
    return frames_covisibility(read_frames(scene), device, pairs_at_once)


def read_frames(scene: Scene) -> SceneFrames:
    """Depth and pose of all frames, decoded in threads.

    Raises:
        DataError: a file is missing or damaged, or depth maps differ in size.
    """
    first = torch.from_numpy(scene.depth(scene.ids[0]))
    depth = torch.empty(len(scene.ids), *first.shape)

    def read(place: int) -> None:
        values = torch.from_numpy(scene.depth(scene.ids[place]))
        if values.shape != first.shape:
            raise DataError(
                f"{scene.folder}: depth of frame {scene.ids[place]} is {tuple(values.shape)}, of others "
                f"{tuple(first.shape)}"
            )
        depth[place] = values

    # Decoding leaves Python's lock free.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(read, range(len(scene.ids))))
    poses = torch.stack([torch.from_numpy(scene.pose(frame)) for frame in scene.ids])
    height, width = scene.colour(scene.ids[0]).shape[:2]
    return SceneFrames(scene.ids, depth, poses, torch.from_numpy(scene.intrinsics), (height, width))


def frames_covisibility(
    frames: SceneFrames, device: torch.device | str = "cpu", pairs_at_once: int | None = None
) -> Tensor:
    """Compute what :func:`scene_covisibility` does: each frame is lifted into space once, and pairs that cannot see
    each other are told from their poses alone.
    """
    depth, poses, camera = (t.to(device) for t in (frames.depth, frames.poses, frames.camera))
    count = len(depth)
    # On a CPU what a pass works on stays in the cache; a GPU wants much at once.
    pairs_at_once = pairs_at_once or (64 if depth.device.type == "cpu" else 4096)
    points = lattice(frames.size, depth).expand(count, -1, -1)
    lifted = lift(points, depth, camera[None].expand(count, -1, -1), frames.size)
    ranges = torch.stack([depth_range(frame) for frame in depth])
    sources, targets = torch.triu_indices(count, count, offset=1, device=depth.device)
    transform = relative_pose(poses[sources], poses[targets])
    unseen = cannot_see(ranges[sources], transform, camera, camera, ranges[targets, 1], frames.size)
    shares = torch.zeros(len(sources), dtype=torch.float64, device=depth.device)
    for chunk in (~unseen).nonzero()[:, 0].split(pairs_at_once):
        source = Lifted(lifted.points[sources[chunk]], lifted.measured[sources[chunk]])
        warped = project(source, depth, transform[chunk], camera[None], frames.size, targets[chunk])
        shares[chunk] = warped.valid.double().mean(dim=1)
    ids = torch.tensor(frames.ids, dtype=torch.float64)
    return torch.stack([ids[sources.cpu()], ids[targets.cpu()], shares.cpu()], dim=1)


def write_covisibility(folder: str | Path, device: torch.device | str = "cpu") -> int:
    """Write a scene's ``covisibility.txt`` (published layout: ``source,target,share`` lines); how many pairs."""
    scene = Scene(folder)
    rows = scene_covisibility(scene, device)
    with atomic_output(scene.folder / FILE_NAME) as temporary:
        lines = (f"{int(source)},{int(target)},{share!r}\n" for source, target, share in rows.tolist())
        temporary.write_text("".join(lines), encoding="ascii")
    return len(rows)


def read_pairs(folder: str | Path, least: float = 0.4, most: float = 0.8) -> list[tuple[int, int, float]]:
    """Return pairs whose covisibility lies strictly between ``least`` and ``most``, in the file's order."""
    rows = np.loadtxt(Path(folder) / FILE_NAME, delimiter=",", ndmin=2)
    if rows.size == 0:
        return []
    kept = rows[(rows[:, 2] > least) & (rows[:, 2] < most)]
    return [(int(source), int(target), float(share)) for source, target, share in kept]
