"""How much of each frame every later frame of its scene sees: ``covisibility.txt`` in the scene's folder."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.io.atomic import atomic_output
from training.errors import DataError
from training.frustum import cannot_see, depth_range
from training.projection import covisibility, relative_pose
from training.scannet.scene import Scene

FILE_NAME = "covisibility.txt"


def scene_covisibility(scene: Scene, device: torch.device | str = "cpu", pairs_at_once: int = 64) -> Tensor:
    """``P x 3`` float64 rows (source id, target id, share) for all pairs of frames, source before target.

    Each frame is read once, and all targets of a source are tested in few passes, but for those that cannot see it. The
    depth maps stay at their own size; they are read as if enlarged to the colour image's by nearest neighbour, which is
    how the published figures are defined.
    """
    depth = _all_depth(scene).to(device)
    poses = torch.stack([torch.from_numpy(scene.pose(frame)) for frame in scene.ids]).to(device)
    camera = torch.from_numpy(scene.intrinsics).to(device)
    height, width = scene.colour(scene.ids[0]).shape[:2]
    ranges = torch.stack([depth_range(frame) for frame in depth])
    ids = torch.tensor(scene.ids, dtype=torch.float64)
    rows: list[Tensor] = []
    for source in range(len(scene.ids) - 1):
        targets = torch.arange(source + 1, len(scene.ids), device=depth.device)
        transform = relative_pose(poses[source][None], poses[targets])
        unseen = cannot_see(ranges[source], transform, camera, camera, ranges[targets, 1], (height, width))
        shares = torch.zeros(len(targets), dtype=torch.float64, device=depth.device)
        for some in (~unseen).nonzero()[:, 0].split(pairs_at_once):
            # The source stays a batch of one: it is lifted into space once for all its targets.
            shares[some] = covisibility(
                depth[source][None],
                depth,
                transform[some],
                camera[None],
                camera[None],
                size=(height, width),
                views1=targets[some],
            )
        rows.append(torch.stack([ids[source].expand(len(targets)), ids[source + 1 :], shares.cpu()], dim=1))
    return torch.cat(rows) if rows else torch.empty(0, 3, dtype=torch.float64)


def _all_depth(scene: Scene) -> Tensor:
    """``F x h x w`` metres; all maps have the first one's size."""
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
    return depth


def write_covisibility(folder: str | Path, device: torch.device | str = "cpu") -> int:
    """Write a scene's ``covisibility.txt`` (published layout: ``source,target,share`` lines); how many pairs."""
    scene = Scene(folder)
    rows = scene_covisibility(scene, device)
    with atomic_output(scene.folder / FILE_NAME) as temporary:
        lines = (f"{int(source)},{int(target)},{share!r}\n" for source, target, share in rows.tolist())
        temporary.write_text("".join(lines), encoding="ascii")
    return len(rows)


def read_pairs(folder: str | Path, least: float = 0.4, most: float = 0.8) -> list[tuple[int, int, float]]:
    """Pairs whose covisibility lies strictly between ``least`` and ``most``, in the file's order."""
    rows = np.loadtxt(Path(folder) / FILE_NAME, delimiter=",", ndmin=2)
    if rows.size == 0:
        return []
    kept = rows[(rows[:, 2] > least) & (rows[:, 2] < most)]
    return [(int(source), int(target), float(share)) for source, target, share in kept]
