"""From an extracted scene to its HDF5 file: pairs by covisibility, images resized and cropped square as published."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.scene_file import SceneFileWriter
from training.errors import DataError
from training.projection import relative_pose
from training.scannet.covisibility import read_pairs
from training.scannet.scene import Scene

SHORT_SIDE = 512


def build_scene(
    folder: str | Path,
    output: str | Path,
    *,
    least: float = 0.4,
    most: float = 0.8,
    short_side: int = SHORT_SIDE,
    storage: str = "published",
) -> int:
    """Write one scene's HDF5 file; how many pairs.

    Args:
        folder: the extracted scene, with its ``covisibility.txt``.
        output: ``<scene>.h5``.
        least, most: pairs strictly between these covisibilities are taken.
        short_side: images are resized so and cropped square from the top-left; 0 keeps them as they are.
        storage: see ``training.data.scene_file``.

    Raises:
        DataError: a file of the scene is missing or damaged; nothing is written.
    """
    scene = Scene(folder)
    pairs = read_pairs(scene.folder, least, most)
    if not pairs:
        raise DataError(f"{scene.folder} has no pair with a covisibility between {least} and {most}")
    poses: dict[int, Tensor] = {}
    with SceneFileWriter(output, storage=storage) as writer:
        for source, target, share in pairs:
            for frame in (source, target):
                if frame not in poses:
                    poses[frame] = torch.from_numpy(scene.pose(frame))
                    writer.add_image(_key(scene, frame), *_view(scene, frame, short_side, poses[frame]))
            writer.add_pair(
                _key(scene, source),
                _key(scene, target),
                relative_pose(poses[source], poses[target]),
                relative_pose(poses[target], poses[source]),
                share,
            )
    return len(pairs)


def resized_view(image: Tensor, depth: Tensor, camera: Tensor, short_side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return an image with its depth at another size, cropped square from the top-left, and the camera that fits.

    Args:
        image: ``3 x H x W``.
        depth: ``h x w`` metres; enlarged to the image by nearest neighbour first.
        camera: ``3 x 3``.
        short_side: target of the short side.

    Returns:
        ``3 x S x S``, ``S x S`` and ``3 x 3``. As published, the whole camera matrix is scaled by new height / old
        height, which ignores the rounding of the width.
    """
    height, width = image.shape[-2:]
    depth = F.interpolate(depth[None, None], size=(height, width), mode="nearest")
    # Truncated, not rounded, as published.
    size = (
        (int(height * short_side / width), short_side)
        if height > width
        else (short_side, int(width * short_side / height))
    )
    resized = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
    metres = F.interpolate(depth, size=size, mode="nearest")[0, 0]
    scaled = camera * (size[0] / height)
    scaled[2, 2] = 1.0
    side = min(size)
    return resized[:, :side, :side], metres[:side, :side], scaled


def _view(scene: Scene, frame: int, short_side: int, pose: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    image = torch.from_numpy(scene.colour(frame)).permute(2, 0, 1).float() / 255.0
    depth, camera = torch.from_numpy(scene.depth(frame)), torch.from_numpy(scene.intrinsics)
    if short_side:
        image, depth, camera = resized_view(image, depth, camera, short_side)
    else:
        depth = F.interpolate(depth[None, None], size=image.shape[-2:], mode="nearest")[0, 0]
    return image, depth, pose, camera


def _key(scene: Scene, frame: int) -> str:
    return scene.image_key(frame).replace("/", "_")
