"""How much of each frame every later frame of its scene sees: ``covisibility.txt`` in the scene's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.io.atomic import atomic_output
from training.projection import covisibility, relative_pose
from training.scannet.scene import Scene

FILE_NAME = "covisibility.txt"


def scene_covisibility(scene: Scene, device: torch.device | str = "cpu", pairs_at_once: int = 256) -> Tensor:
    """``P x 3`` float64 rows (source id, target id, share) for all pairs of frames, source before target.

    All targets of a source are tested in one pass. The depth maps stay at their own size; they are read as if enlarged
    to the colour image's by nearest neighbour, which is how the published figures are defined.
    """
    depth = torch.stack([torch.from_numpy(scene.depth(frame)) for frame in scene.ids]).to(device)
    poses = torch.stack([torch.from_numpy(scene.pose(frame)) for frame in scene.ids]).to(device)
    camera = torch.from_numpy(scene.intrinsics).to(device)
    size = scene.colour(scene.ids[0]).shape[:2]
    rows: list[Tensor] = []
    ids = torch.tensor(scene.ids, dtype=torch.float64)
    for source in range(len(scene.ids) - 1):
        for start in range(source + 1, len(scene.ids), pairs_at_once):
            targets = slice(start, min(start + pairs_at_once, len(scene.ids)))
            # The source stays a batch of one: it is lifted into space once for all its targets.
            share = covisibility(
                depth[source][None],
                depth[targets],
                relative_pose(poses[source][None], poses[targets]),
                camera[None],
                camera[None],
                size=(size[0], size[1]),
            )
            rows.append(torch.stack([ids[source].expand(len(share)), ids[targets], share.cpu()], dim=1))
    return torch.cat(rows) if rows else torch.empty(0, 3, dtype=torch.float64)


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
