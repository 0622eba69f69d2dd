"""Training's inner loops next to the reference's formulation, as ratios: ``python -m benchmarks.training``.

Covisibility of a scene (the reference reads both frames and warps one pair at a time), the reasoner's loss with its
gradient (a loop over layers and samples, whole log-softmax matrices), and loading of pairs (a file opened for each).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import Timing, machine_description, time_interleaved
from training.data.rendered import noise_textures, pinhole, random_room, render
from training.data.scene_file import SceneFile, SceneFileWriter
from training.projection import relative_pose, warp_keypoints
from training.reasoner.loss import dual_softmax_loss
from training.reasoner.supervision import true_matches
from training.scannet.covisibility import scene_covisibility
from training.scannet.scene import Scene


def write_scene(folder: Path, frames: int, size: tuple[int, int] = (480, 640)) -> Scene:
    """A rendered room as an extracted scene: JPEG colour and 16-bit depth of a camera that turns round."""
    import cv2

    generator = torch.Generator().manual_seed(0)
    quads, textures = random_room(6, generator), noise_textures(6, generator)
    camera = pinhole(*size)
    for part in ("color", "depth", "poses", "intrinsics"):
        (folder / part).mkdir(parents=True)
    matrix = np.eye(4)
    matrix[:3, :3] = camera.numpy()
    np.savetxt(folder / "intrinsics" / "intrinsic_color.txt", matrix, fmt="%f")
    for frame in range(frames):
        angle = 0.12 * frame
        pose = torch.eye(4)
        pose[0, 0] = pose[2, 2] = np.cos(angle)
        pose[0, 2], pose[2, 0] = np.sin(angle), -np.sin(angle)
        view = render(quads, textures, pose, camera, size)
        pixels = (view.image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        cv2.imwrite(str(folder / "color" / f"{frame}.jpg"), pixels[..., ::-1])
        cv2.imwrite(str(folder / "depth" / f"{frame}.png"), (view.depth.numpy() * 1000).astype(np.uint16))
        np.savetxt(folder / "poses" / f"{frame}.txt", pose.numpy(), fmt="%f")
    return Scene(folder)


def reference_covisibility(scene: Scene) -> list[float]:
    """One pair at a time, each frame read again for every pair it is in."""
    lattice = torch.stack(torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij"), dim=-1)
    camera = torch.from_numpy(scene.intrinsics)[None]
    shares = []
    for position, source in enumerate(scene.ids):
        image = scene.colour(source)
        depth0, pose0 = torch.from_numpy(scene.depth(source))[None], torch.from_numpy(scene.pose(source))[None]
        for target in scene.ids[position + 1 :]:
            scene.colour(target)
            depth1, pose1 = torch.from_numpy(scene.depth(target))[None], torch.from_numpy(scene.pose(target))[None]
            points = lattice.reshape(1, -1, 2) * torch.tensor([image.shape[1] - 1.0, image.shape[0] - 1.0])
            valid = warp_keypoints(points, depth0, depth1, relative_pose(pose0, pose1), camera, camera).valid
            shares.append(valid.sum().item() / valid.shape[1])
    return shares


def reference_loss(layers0: Any, layers1: Any, warped: Tensor, valid: Tensor, keypoints1: Tensor) -> Tensor:
    """A loop over layers and samples over whole log-softmax matrices."""
    losses = []
    for (t0, s0), (t1, s1) in zip(layers0, layers1, strict=True):
        similarity = (t0 @ t1.mT) * (s0 @ s1.mT)
        rows, columns = F.log_softmax(similarity, dim=-1), F.log_softmax(similarity.mT, dim=-1)
        total = t0.new_zeros(())
        for b in range(len(t0)):
            distance = torch.cdist(keypoints1[b], warped[b])
            nearest, index1 = distance.min(dim=0)
            kept = (nearest <= 3) & valid[b]
            index0, index1 = torch.arange(len(kept))[kept], index1[kept]
            if len(index0):
                both = F.nll_loss(rows[b][index0], index1) + F.nll_loss(columns[b][index1], index0)
                total = total + both / 2 / len(t0)
        losses.append(total)
    return torch.stack(losses).mean()


class ReferenceLoader:
    """Opens the file for every item."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pair(self, name: str) -> dict[str, Any]:
        key0, key1 = name.split(":")
        with h5py.File(self.path, "r") as file:
            item = {f"image{i}": torch.tensor(file["images"][k][...]) for i, k in enumerate((key0, key1))}
            item |= {f"depth{i}": torch.tensor(file["depth"][k][...]) for i, k in enumerate((key0, key1))}
            item |= {f"K{i}": torch.tensor(file["K"][k][...]) for i, k in enumerate((key0, key1))}
            item |= {t: torch.tensor(file[t][name][...]) for t in ("T_0to1", "T_1to0")}
            return item


def loss_inputs(batch: int, keypoints: int, layers: int, dim: int) -> tuple[Any, Any, Tensor, Tensor, Tensor]:
    """Random layer outputs of two views whose keypoints are a known shift apart."""
    generator = torch.Generator().manual_seed(0)
    sides = [
        [
            tuple(torch.randn(batch, keypoints, dim, generator=generator).requires_grad_() for _ in range(2))
            for _ in range(layers)
        ]
        for _ in range(2)
    ]
    keypoints0 = torch.rand(batch, keypoints, 2, generator=generator) * 500
    return (
        sides[0],
        sides[1],
        keypoints0 + 4,
        torch.rand(batch, keypoints, generator=generator) < 0.7,
        keypoints0.flip(1) + 4,
    )


def measure(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, Timing]]:
    """All comparisons; their results are compared too, and must agree."""
    cpu = torch.device("cpu")
    scene = write_scene(folder / "scene0000_00", args.frames)
    ours = scene_covisibility(scene)[:, 2].tolist()
    np.testing.assert_allclose(ours, reference_covisibility(scene), atol=1e-6)
    results = {
        f"covisibility, {args.frames} frames": time_interleaved(
            {"ours": lambda: scene_covisibility(scene), "reference": lambda: reference_covisibility(scene)},
            repeats=3,
            warmup=0,
            device=cpu,
        )
    }

    layers0, layers1, warped, valid, keypoints1 = loss_inputs(args.batch, args.keypoints, 5, 256)

    def our_loss() -> Tensor:
        positives = true_matches(warped, valid, keypoints1)
        loss = dual_softmax_loss(layers0, layers1, positives).mean()
        loss.backward()
        return loss.detach()

    def their_loss() -> Tensor:
        loss = reference_loss(layers0, layers1, warped, valid, keypoints1)
        loss.backward()
        return loss.detach()

    torch.testing.assert_close(our_loss(), their_loss(), rtol=1e-4, atol=1e-4)
    results[f"loss and gradient, batch {args.batch}, {args.keypoints} keypoints"] = time_interleaved(
        {"ours": our_loss, "reference": their_loss}, repeats=args.repeats, warmup=1, device=cpu
    )

    path, compact = folder / "scene.h5", folder / "compact.h5"
    names = _write_pairs(path, scene, compact=False)
    _write_pairs(compact, scene, compact=True)
    readers = {"ours": SceneFile(path), "reference": ReferenceLoader(path), "ours, compact": SceneFile(compact)}
    results["loading a pair, 512 x 512"] = time_interleaved(
        {kind: (lambda reader=reader: [reader.pair(n) for n in names]) for kind, reader in readers.items()},  # type: ignore[misc]
        repeats=args.repeats,
        warmup=1,
        device=cpu,
    )
    return results


def _write_pairs(path: Path, scene: Scene, *, compact: bool) -> list[str]:
    with SceneFileWriter(path, compact=compact) as writer:
        for frame in scene.ids[:6]:
            image = torch.from_numpy(scene.colour(frame)).permute(2, 0, 1).float() / 255
            image = F.interpolate(image[None], size=(512, 512), mode="bilinear")[0]
            depth = F.interpolate(torch.from_numpy(scene.depth(frame))[None, None], size=(512, 512))[0, 0]
            writer.add_image(str(frame), image, depth, torch.eye(4), torch.eye(3))
        names = [(str(a), str(b)) for a, b in zip(scene.ids[:5], scene.ids[1:6], strict=True)]
        for a, b in names:
            writer.add_pair(a, b, torch.eye(4)[:3], torch.eye(4)[:3], 0.5)
    return [f"{a}:{b}" for a, b in names]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--frames", type=int, default=30, help="frames of the covisibility scene")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--keypoints", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(args, Path(folder))
    print(machine_description(torch.device("cpu")) + "\n")
    print("| work | ours, ms | reference's way, ms | ratio |\n|---|---:|---:|---:|")
    for work, timings in results.items():
        theirs = timings["reference"].median_ms
        for kind, timing in timings.items():
            if kind != "reference":
                label = work if kind == "ours" else f"{work} ({kind.removeprefix('ours, ')})"
                print(f"| {label} | {timing.median_ms:.1f} | {theirs:.1f} | {theirs / timing.median_ms:.1f}× |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
