"""Training's inner loops next to the reference's formulation, as ratios: ``python -m benchmarks.training``.

``covisibility`` of a rendered scene (colour 1296 x 968, depth 640 x 480, as ScanNet's), ``loss`` with its gradient and
a whole training ``step``, ``loading`` of pairs, and ``export`` of features. Results of the first two and of loading are
compared too, and must agree. What the reference does is told in ``reference_training.py``. All of it runs on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.reference import ReferenceReasoner, reference_dino, reference_xfeat
from benchmarks.reference_training import (
    ReferenceLoader,
    covisibility_of_pairs,
    export_one_by_one,
    loop_loss,
    read_frame,
    reference_layers,
)
from benchmarks.timing import Timing, machine_description, time_interleaved
from training.data.rendered import noise_textures, pinhole, random_room, render
from training.data.scene_file import STORAGES, SceneFile, SceneFileWriter
from training.features.cache import FeatureCacheWriter, cache_path
from training.reasoner.config import DataConfig, ModelSection
from training.reasoner.loss import dual_softmax_loss
from training.reasoner.sources import ScenePairs
from training.reasoner.supervision import true_matches
from training.scannet.covisibility import frames_covisibility, read_frames, scene_covisibility
from training.scannet.scene import Scene

Results = dict[str, dict[str, Timing]]
CPU = torch.device("cpu")
COLOUR, DEPTH = (968, 1296), (480, 640)
# XFeat's 2048 keypoints of 512 x 512 views have true matches for 0.45 times the share that both views show.
OVERLAP, REPEATED = 0.6, 0.31
# Pairs loaded in one go.
LOADED = 8


def write_scene(folder: Path, frames: int) -> Scene:
    """Return a rendered room as an extracted scene: JPEG colour and 16-bit depth of a camera that turns round, with
    noise.
    """
    generator = torch.Generator().manual_seed(0)
    quads, textures = random_room(6, generator), noise_textures(6, generator)
    camera = pinhole(*DEPTH)
    for part in ("color", "depth", "poses", "intrinsics"):
        (folder / part).mkdir(parents=True)

    def write_frame(frame: int) -> None:
        angle = 0.12 * frame
        pose = torch.eye(4)
        pose[0, 0] = pose[2, 2] = np.cos(angle)
        pose[0, 2], pose[2, 0] = np.sin(angle), -np.sin(angle)
        view = render(quads, textures, pose, camera, DEPTH)
        random = np.random.default_rng(frame)
        pixels = cv2.resize(view.image.permute(1, 2, 0).numpy() * 255, COLOUR[::-1])
        pixels = (pixels + random.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
        millimetres = view.depth.numpy() * 1000 + random.normal(0, 2, DEPTH) * (view.depth.numpy() > 0)
        cv2.imwrite(str(folder / "color" / f"{frame}.jpg"), pixels[..., ::-1])
        cv2.imwrite(str(folder / "depth" / f"{frame}.png"), millimetres.clip(0).astype(np.uint16))
        np.savetxt(folder / "poses" / f"{frame}.txt", pose.numpy(), fmt="%f")

    with ThreadPoolExecutor() as pool:
        list(pool.map(write_frame, range(frames)))
    matrix = np.eye(4)
    matrix[:3, :3] = pinhole(*COLOUR).numpy()
    np.savetxt(folder / "intrinsics" / "intrinsic_color.txt", matrix, fmt="%f")
    return Scene(folder)


def measure_covisibility(scene: Scene, args: argparse.Namespace) -> Results:
    """Return all pairs of the scene; of the reference an even sample of whole sources is timed and scaled up."""
    rows = scene_covisibility(scene)
    sources = scene.ids[:: max(1, len(scene.ids) // args.sources)]
    pairs = [(a, b) for a in sources for b in scene.ids if b > a]
    memory = {frame: read_frame(scene, frame) for frame in scene.ids}
    expected = covisibility_of_pairs(scene, pairs, memory.__getitem__)
    shares = {(int(a), int(b)): share for a, b, share in rows.tolist()}
    np.testing.assert_allclose([shares[pair] for pair in pairs], expected, atol=1e-6)
    scale = len(rows) / len(pairs)
    unseen = float((rows[:, 2] == 0).double().mean())
    work = f"covisibility, {len(scene.ids)} frames, {len(rows)} pairs ({unseen:.0%} see nothing of each other)"
    frames = read_frames(scene)
    candidates: dict[str, tuple[Callable[[], object], Callable[[int], Any]]] = {
        "": (lambda: scene_covisibility(scene), partial(read_frame, scene)),
        ", both with all frames in memory": (lambda: frames_covisibility(frames), memory.__getitem__),
    }
    found = {}
    for note, (ours, read) in candidates.items():
        pair: dict[str, Callable[[], object]] = {
            "ours": ours,
            "reference": partial(covisibility_of_pairs, scene, pairs, read),
        }
        timings = time_interleaved(pair, repeats=args.repeats, warmup=0, device=CPU)
        found[work + note] = timings | {"reference": timings["reference"].scaled(scale)}
    return found


def keypoint_truth(batch: int, keypoints: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return keypoints of view 0 in view 1, whether both views show them, and the keypoints of view 1."""
    generator = torch.Generator().manual_seed(0)
    warped, others = torch.rand(2, batch, keypoints, 2, generator=generator) * 512
    shown, repeated = (torch.rand(batch, keypoints, generator=generator) for _ in range(2))
    found = (repeated < REPEATED)[..., None]
    noise = torch.randn(batch, keypoints, 2, generator=generator)
    order = torch.randperm(keypoints, generator=generator)
    return warped, shown < OVERLAP, torch.where(found, warped + noise, others)[:, order]


def measure_loss(args: argparse.Namespace) -> Results:
    """Measure loss and gradient of five layers' outputs."""
    generator = torch.Generator().manual_seed(0)
    sides: list[list[tuple[Any, ...]]] = [
        [
            tuple(
                (torch.randn(args.batch, args.keypoints, 256, generator=generator) * 0.3).requires_grad_() for _ in "ts"
            )
            for _ in range(5)
        ]
        for _ in range(2)
    ]
    warped, valid, keypoints1 = keypoint_truth(args.batch, args.keypoints)
    outputs = [tensor for layers in sides for pair in layers for tensor in pair]

    def loss_and_gradient(loss: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        value = loss()
        return value.detach(), *torch.autograd.grad(value, outputs)

    candidates = {
        "ours": lambda: loss_and_gradient(
            lambda: dual_softmax_loss(sides[0], sides[1], true_matches(warped, valid, keypoints1)).mean()
        ),
        "reference": lambda: loss_and_gradient(lambda: loop_loss(sides[0], sides[1], warped, valid, keypoints1)),
    }
    ours = candidates["ours"]()
    theirs = loss_and_gradient(lambda: loop_loss(sides[0], sides[1], warped, valid, keypoints1, exact=True))
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).norm() <= 1e-4 * other.norm()
    del ours, theirs
    matches = len(true_matches(warped, valid, keypoints1).pair) / args.batch
    work = f"loss and gradient, {args.batch} pairs of {args.keypoints} keypoints ({matches:.0f} true matches), 5 layers"
    return {work: time_interleaved(candidates, repeats=args.repeats, warmup=0, device=CPU)}


def measure_step(args: argparse.Namespace) -> Results:
    """Measure forward pass of both views, loss, gradients and Adam's step, from cached features."""
    from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig

    torch.manual_seed(0)
    reasoner = Reasoner(ReasonerConfig(64, 384)).train()
    plain = ReferenceReasoner(reasoner).train()
    inputs = [
        tuple(F.normalize(torch.randn(args.batch, args.keypoints, d), dim=-1) for d in (64, 384)) for _ in range(2)
    ]
    warped, valid, keypoints1 = keypoint_truth(args.batch, args.keypoints)
    optimizers = [torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-5) for model in (reasoner, plain)]

    def ours() -> None:
        layers = [reasoner.forward_layers(descriptors, semantic, None) for descriptors, semantic in inputs]
        loss = dual_softmax_loss(layers[0], layers[1], true_matches(warped, valid, keypoints1)).mean()
        _step(optimizers[0], loss)

    def reference() -> None:
        layers = [reference_layers(plain, *view) for view in inputs]
        _step(optimizers[1], loop_loss(layers[0], layers[1], warped, valid, keypoints1))

    work = f"training step, {args.batch} pairs of {args.keypoints} keypoints, 5 layers"
    candidates = {"ours": ours, "reference": reference}
    return {work: time_interleaved(candidates, repeats=args.repeats, warmup=0, device=CPU)}


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def measure_loading(files: dict[str, Path], folder: Path, args: argparse.Namespace) -> Results:
    """Return random pairs of a scene of 512 x 512 views, the files being in the system's cache."""
    readers: dict[str, Any] = {kind: SceneFile(path) for kind, path in files.items()}
    readers["reference"] = ReferenceLoader(files["published"])
    keys = readers["published"].pair_keys
    names = [keys[i] for i in np.random.default_rng(0).permutation(len(keys))[:LOADED]]
    first, second = (readers[kind].pair(names[0]) for kind in ("published", "reference"))
    for key in ("image0", "depth1", "K0", "T_1to0"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
    candidates = {
        kind: (lambda reader=reader: [reader.pair(name) for name in names]) for kind, reader in readers.items()
    }
    timings = time_interleaved(candidates, repeats=args.repeats, warmup=1, device=CPU)
    size = {kind: path.stat().st_size / files["published"].stat().st_size for kind, path in files.items()}
    results = {
        f"loading {LOADED} pairs with images and depth, {kind} storage ({size[kind]:.0%} of the size)": {
            "ours": timings[kind],
            "reference": timings["reference"],
        }
        for kind in files
    }
    for storage in ("published", "compact"):
        work = f"loading {LOADED} training pairs with cached features, {storage} storage"
        results[work] = _measure_cached(files, storage, names, folder / storage, args)
    return results


def _measure_cached(
    files: dict[str, Path], storage: str, names: list[str], root: Path, args: argparse.Namespace
) -> dict[str, Timing]:
    """Return what a reasoner is trained on: depth and poses, keypoints, descriptors, and DINOv2 features at the
    keypoints.

    Features of the compact storage are kept in half precision.
    """
    scene = SceneFile(files[storage])
    (root / "train").mkdir(parents=True)
    (root / "train" / "scene.h5").symlink_to(files[storage])
    generator = np.random.default_rng(0)
    paths = []
    for method, shapes in (
        ("xfeat-scannet-n2048", {"keypoints": (2048, 2), "descriptors": (2048, 64)}),
        ("dino-scannet-dinov2_vits14", {"features": (384, 36, 36), "global_descriptor": (384,)}),
    ):
        paths.append(cache_path(root, method, "train", "scene"))
        paths[-1].parent.mkdir(parents=True)
        writer = FeatureCacheWriter(paths[-1], tuple(shapes), {}, half=storage == "compact")
        for key in scene.image_keys:
            values = {name: generator.random(shape, dtype=np.float32) for name, shape in shapes.items()}
            if "keypoints" in values:
                values["keypoints"] *= 511
            writer.add(key, values)
        writer.commit()
    data = DataConfig(
        source="scenes",
        root=str(root),
        extractor_cache="xfeat-scannet-n2048",
        semantic_cache="dino-scannet-dinov2_vits14",
    )
    pairs = ScenePairs([root / "train" / "scene.h5"], data, "train", ModelSection())
    reference = ReferenceLoader(files["published"], *paths)
    places = [(0, scene.pair_keys.index(name)) for name in names]
    mine, other = pairs[places[0]], reference.pair(names[0])
    truth: Any = mine.truth
    if storage == "published":
        torch.testing.assert_close(mine.view0.descriptors, other["descriptors0"], rtol=0, atol=0)
        torch.testing.assert_close(truth.depth1[0], other["depth1"], rtol=0, atol=0)
    candidates = {
        "ours": lambda: [pairs[place] for place in places],
        "reference": lambda: [reference.pair(name) for name in names],
    }
    return time_interleaved(candidates, repeats=args.repeats, warmup=1, device=CPU)


def measure_export(path: Path, folder: Path, args: argparse.Namespace) -> Results:
    """Measure XFeat with 2048 keypoints and DINOv2 S, with random weights, which take as long."""
    from semantic_matcher_core.extractors.xfeat import XFeat
    from semantic_matcher_core.semantics.dinov2 import DinoV2
    from training.features.export import LocalFeatures, SemanticFeatures, export_scenes

    torch.manual_seed(0)
    xfeat, dino = XFeat(2048, detection_threshold=0.0).eval(), DinoV2("dinov2_vits14").eval()
    their_xfeat = reference_xfeat(xfeat, CPU)
    their_dino: Any = reference_dino(dino, CPU)
    names = SceneFile(path).image_keys

    def their_features(image: Tensor) -> dict[str, Tensor]:
        found = their_xfeat.detectAndCompute(image, top_k=2048)[0]
        return {"keypoints": found["keypoints"], "descriptors": found["descriptors"]}

    def their_map(image: Tensor) -> dict[str, Tensor]:
        # To the lower multiples of 14 by nearest neighbour, as published.
        size = [side // 14 * 14 for side in image.shape[-2:]]
        found = their_dino.forward_features(F.interpolate(image, size))
        return {"features": found["x_norm_patchtokens"][0], "global_descriptor": found["x_norm_clstoken"][0]}

    results = {}
    for name, method, compute in (
        ("XFeat", LocalFeatures(xfeat, "xfeat"), their_features),
        ("DINOv2 S", SemanticFeatures(dino), their_map),
    ):

        def ours(method: Any = method, name: str = name) -> None:
            (folder / name / path.name).unlink(missing_ok=True)
            export_scenes([path], folder / name, method, batch_size=args.export_batch)

        candidates: dict[str, Callable[[], object]] = {
            "ours": ours,
            "reference": partial(export_one_by_one, path, folder / f"{name}.h5", names, compute),
        }
        timings = time_interleaved(candidates, repeats=args.repeats, warmup=1, device=CPU)
        rates = " and ".join(f"{len(names) / timings[kind].best_ms * 1e3:.1f}" for kind in candidates)
        results[f"export of {name}, {len(names)} images, 512 x 512 ({rates} images/s)"] = timings
    return results


def write_scene_file(path: Path, scene: Scene, *, storage: str, images: int) -> None:
    """Write a scene file of ``images`` images of 512 x 512, in all pairs."""
    with SceneFileWriter(path, storage=storage) as writer:
        for frame in scene.ids[:images]:
            image = torch.from_numpy(scene.colour(frame)).permute(2, 0, 1).float() / 255
            image = F.interpolate(image[None], size=(512, 512), mode="bilinear")[0]
            depth = F.interpolate(torch.from_numpy(scene.depth(frame))[None, None], size=(512, 512))[0, 0]
            writer.add_image(str(frame), image, depth, torch.eye(4), torch.eye(3))
        for a, b in combinations(scene.ids[:images], 2):
            writer.add_pair(str(a), str(b), torch.eye(4)[:3], torch.eye(4)[:3], 0.5)


def measure(args: argparse.Namespace, folder: Path) -> Results:
    results: Results = {}
    if {"covisibility", "loading", "export"} & set(args.only):
        scene = write_scene(folder / "scene0000_00", args.frames if "covisibility" in args.only else args.images)
        if "covisibility" in args.only:
            results |= measure_covisibility(scene, args)
        files = {storage: folder / f"{storage}.h5" for storage in STORAGES}
        for storage, path in files.items():
            write_scene_file(path, scene, storage=storage, images=args.images)
        if "loading" in args.only:
            results |= measure_loading(files, folder / "cached", args)
        if "export" in args.only:
            results |= measure_export(files["published"], folder / "features", args)
    if "loss" in args.only:
        results |= measure_loss(args)
    if "step" in args.only:
        results |= measure_step(args)
    return results


_PARTS = ("covisibility", "loss", "step", "loading", "export")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, help="parts to measure")
    parser.add_argument("--frames", type=int, default=100, help="frames of the covisibility scene")
    parser.add_argument("--sources", type=int, default=5, help="of them, whose pairs the reference is timed on")
    parser.add_argument("--batch", type=int, default=2, help="pairs of a training step")
    parser.add_argument("--keypoints", type=int, default=2048)
    parser.add_argument(
        "--images", type=int, default=24, help="of the scene to load pairs of and to export features of"
    )
    parser.add_argument("--export-batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of torch and OpenCV; 0 leaves their choice")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
        cv2.setNumThreads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(args, Path(folder))
    print(f"{machine_description(CPU)}; best of repeated runs, which other work on the machine disturbs least.\n")
    print("| work | ours, ms | reference's way, ms | ratio |\n|---|---:|---:|---:|")
    for work, timings in results.items():
        ours, theirs = timings["ours"].best_ms, timings["reference"].best_ms
        print(f"| {work} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.1f}× |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
