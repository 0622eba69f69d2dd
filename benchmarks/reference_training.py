"""Training's work done the straightforward way, to measure against.

As in the published descriptor-reasoning code (facts: arXiv 2410.09533 and its repository): covisibility reads both
frames anew for every pair, enlarges both depth maps and warps one pair; the loss loops over layers and samples over
whole log-softmax matrices; pairs are read from a file that is opened for each; features are exported one image at a
time in float32, read, computed and written in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor
from torch.nn import functional as F

from training.projection import relative_pose, warp_keypoints
from training.scannet.scene import Scene

Frame = tuple[Tensor, Tensor, Tensor]


def read_frame(scene: Scene, frame: int) -> Frame:
    """Return image as floats, depth enlarged to it, and pose."""
    image = torch.from_numpy(scene.colour(frame)).permute(2, 0, 1).float() / 255
    depth = torch.from_numpy(scene.depth(frame))
    depth = F.interpolate(depth[None, None], size=image.shape[-2:], mode="nearest")[0]
    return image, depth, torch.from_numpy(scene.pose(frame))[None]


def frame_covisibility(first: Frame, second: Frame, camera: Tensor) -> float:
    """Return share of a 32 x 32 lattice over the first frame that the second sees."""
    lattice = torch.stack(torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij"), dim=-1)
    height, width = first[0].shape[-2:]
    points = lattice.reshape(1, -1, 2) * torch.tensor([width - 1.0, height - 1.0])
    transform = relative_pose(first[2], second[2])
    valid = warp_keypoints(points, first[1], second[1], transform, camera, camera).valid
    return valid.sum().item() / valid.shape[1]


def covisibility_of_pairs(scene: Scene, pairs: Sequence[tuple[int, int]], read: Callable[[int], Frame]) -> list[float]:
    """Return one pair at a time; the target is read for each, the source once as long as it stays the same."""
    camera = torch.from_numpy(scene.intrinsics)[None]
    shares: list[float] = []
    last: tuple[int, Frame] | None = None
    for source, target in pairs:
        if last is None or last[0] != source:
            last = source, read(source)
        shares.append(frame_covisibility(last[1], read(target), camera))
    return shares


def loop_loss(
    layers0: Any, layers1: Any, warped: Tensor, valid: Tensor, keypoints1: Tensor, *, exact: bool = False
) -> Tensor:
    """Return the dual-softmax loss: a loop over layers and samples over whole log-softmax matrices.

    Unless ``exact``, its distances are off by up to a hundredth of a pixel, which at times decides about a keypoint.
    """
    mode = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist_if_necessary"
    losses = []
    for (t0, s0), (t1, s1) in zip(layers0, layers1, strict=True):
        similarity = torch.einsum("bnd,bmd->bnm", t0, t1) * torch.einsum("bnd,bmd->bnm", s0, s1)
        rows, columns = F.log_softmax(similarity, dim=-1), F.log_softmax(similarity.mT, dim=-1)
        total = t0.new_zeros(())
        for b in range(len(t0)):
            nearest, index1 = torch.cdist(keypoints1[b], warped[b], compute_mode=mode).min(dim=0)
            kept = (nearest <= 3) & valid[b]
            index0, index1 = torch.arange(len(kept), device=kept.device)[kept], index1[kept]
            if len(index0):
                both = F.nll_loss(rows[b][index0], index1) + F.nll_loss(columns[b][index1], index0)
                total = total + both / 2 / len(t0)
        losses.append(total)
    return torch.stack(losses).mean()


class ReferenceLoader:
    """Opens the scene's file, and those of its features where they are given, for every pair, and reads all of it."""

    def __init__(self, path: Path, local: Path | None = None, semantic: Path | None = None) -> None:
        self.path, self.local, self.semantic = path, local, semantic

    def pair(self, name: str) -> dict[str, Any]:
        keys = dict(enumerate(name.split(":")))
        with h5py.File(self.path, "r") as file:
            item = {
                f"{group.removesuffix('s')}{i}": _read(file, group, k) for group in _GROUPS for i, k in keys.items()
            }
            item |= {t: _read(file, t, name) for t in ("T_0to1", "T_1to0", "covis")}
        if self.local is not None:
            with h5py.File(self.local, "r") as file:
                item |= {f"{g}{i}": _read(file, g, k) for g in ("keypoints", "descriptors") for i, k in keys.items()}
        if self.semantic is not None:
            with h5py.File(self.semantic, "r") as file:
                for i, key in keys.items():
                    feature_map = _read(file, "features", key)[None]
                    size = torch.tensor(feature_map.shape[:1:-1]) * 14
                    grid = (item[f"keypoints{i}"] / size * 2 - 1)[None, None]
                    sampled = F.grid_sample(feature_map, grid, mode="bicubic", align_corners=False)
                    item[f"semantic{i}"] = F.normalize(sampled[0, :, 0], dim=0).T
        return item


_GROUPS = ("images", "depth", "K")


def _read(file: h5py.File, group: str, name: str) -> Tensor:
    return torch.tensor(file[group][name][...]).float()


@torch.no_grad()
def export_one_by_one(
    scene: Path, output: Path, names: Sequence[str], compute: Callable[[Tensor], dict[str, Tensor]]
) -> None:
    """Write features of a scene's images, one after the other."""
    output.unlink(missing_ok=True)
    with h5py.File(output, "w") as file:
        for name in names:
            with h5py.File(scene, "r") as source:
                image = torch.tensor(source["images"][name][...])[None]
            for group, values in compute(image).items():
                file.create_dataset(f"{group}/{name}", data=values.cpu().numpy())


def reference_layers(reasoner: Any, descriptors: Tensor, semantic: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return outputs of every layer of a ``reference.ReferenceReasoner``, attention weights computed and cloned
    besides.
    """
    p, e = reasoner.dino_reprojection(semantic), reasoner.extractor_reprojection(descriptors)
    texture, sem, layers, weights = e, p, [], []
    blocks = zip(reasoner.texture_attentions, reasoner.semantic_attentions, strict=True)
    for i, (texture_block, semantic_block) in enumerate(blocks):
        texture, texture_weights = texture_block(p if i % 2 == 0 else e, texture)
        sem, semantic_weights = semantic_block(p, sem)
        weights.append((texture_weights.clone(), semantic_weights.clone()))
        layers.append((texture.clone(), sem.clone()))
    return layers
