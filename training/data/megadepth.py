"""MegaDepth in its common layout to scene files: ``python -m training.data.megadepth``.

Scene lists are ``.npz``, depth maps ``.h5``. A list holds ``image_paths``, ``depth_paths`` (relative to the data
folder), ``intrinsics`` (3 x 3), ``poses`` (4 x 4, world to camera) and ``pair_infos``: rows of (two image numbers,
overlap, …).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.io.atomic import make_folder
from semantic_matcher_core.io.images import read_image
from training.cli import console, run_command
from training.data.scene_file import SceneFileWriter
from training.errors import DataError
from training.projection import relative_pose
from training.scannet.build_h5 import resized_view

_KEYS = ("image_paths", "depth_paths", "intrinsics", "poses", "pair_infos")


def build_scene(
    scene_list: str | Path,
    data_path: str | Path,
    output: str | Path,
    *,
    least: float = 0.4,
    most: float = 0.8,
    pairs: int = 200,
    short_side: int = 512,
    seed: int = 0,
) -> int:
    """Write one scene's HDF5 file (compact layout); how many pairs.

    Args:
        scene_list: ``.npz`` of the scene.
        data_path: folder that its paths start from.
        output: ``<scene>.h5``.
        least, most: pairs whose overlap lies strictly between are taken.
        pairs: at most this many, chosen by ``seed``.
        short_side: images are resized so and cropped square.

    Raises:
        DataError: the list or a file it names is missing or damaged; nothing is written.
    """
    scene = _read_list(Path(scene_list))
    chosen = [(int(p[0][0]), int(p[0][1]), float(p[1])) for p in scene["pair_infos"] if least < float(p[1]) < most]
    if not chosen:
        raise DataError(f"{scene_list} has no pair with an overlap between {least} and {most}")
    if len(chosen) > pairs:
        kept = np.sort(np.random.default_rng(seed).choice(len(chosen), pairs, replace=False))
        chosen = [chosen[i] for i in kept]
    poses: dict[int, Tensor] = {}
    with SceneFileWriter(output, storage="compact") as writer:
        for first, second, overlap in chosen:
            for number in (first, second):
                if number not in poses:
                    poses[number] = torch.linalg.inv(torch.from_numpy(np.asarray(scene["poses"][number], np.float64)))
                    image, depth, camera = _view(scene, Path(data_path), number, short_side)
                    writer.add_image(_key(scene, number), image, depth, poses[number].float(), camera)
            writer.add_pair(
                _key(scene, first),
                _key(scene, second),
                relative_pose(poses[first], poses[second]).float(),
                relative_pose(poses[second], poses[first]).float(),
                overlap,
            )
    return len(chosen)


def command(
    lists: Annotated[list[Path], typer.Argument(help="Scene lists (.npz).")],
    data_path: Annotated[Path, typer.Option(help="Folder that the lists' paths start from.")],
    output: Annotated[Path, typer.Option(help="Folder for <split>/<scene>.h5.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    pairs: Annotated[int, typer.Option(min=1, help="At most this many pairs of each scene.")] = 200,
) -> None:
    """Write MegaDepth scenes as scene files; finished ones are left as they are."""
    make_folder(output / split)
    for path in lists:
        target = output / split / f"{path.stem}.h5"
        if target.is_file():
            continue
        console.print(f"{path.stem}: {build_scene(path, data_path, target, pairs=pairs)} pairs")


def _read_list(path: Path) -> dict[str, Any]:
    # Object arrays are pickles, and these lists hold them; only plain types may come out of one.
    from training.data.restricted_npz import read_npz

    content = read_npz(path)
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise DataError(f"{path} is no MegaDepth scene list: {missing[0]!r} is missing")
    return content


def _view(scene: dict[str, Any], root: Path, number: int, short_side: int) -> tuple[Tensor, Tensor, Tensor]:
    image = torch.from_numpy(read_image(root / str(scene["image_paths"][number]))).permute(2, 0, 1).float() / 255.0
    path = root / str(scene["depth_paths"][number])
    try:
        with h5py.File(path, "r") as file:
            depth = torch.from_numpy(np.asarray(file["depth"], np.float32))
    except (OSError, KeyError) as error:
        raise DataError(f"{path} is missing or holds no 'depth': {error}") from error
    # Lists speak of images that were made smaller; depth and intrinsics have the size of the undistorted originals.
    if image.shape[-2:] != depth.shape:
        image = F.interpolate(image[None], size=tuple(depth.shape), mode="bilinear", align_corners=False)[0]
    camera = torch.from_numpy(np.asarray(scene["intrinsics"][number], np.float32))
    return resized_view(image, depth, camera, short_side)


def _key(scene: dict[str, Any], number: int) -> str:
    return str(scene["image_paths"][number]).replace("/", "_").replace(":", "_")


if __name__ == "__main__":
    run_command(command)
