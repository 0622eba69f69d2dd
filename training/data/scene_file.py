"""Scenes in HDF5, in the published layout, and two more that store the same in less space.

One file a scene: groups ``images``, ``depth``, ``pose`` (4 x 4), ``K`` (3 x 3) by image key (path with ``/`` as ``_``);
``T_0to1``, ``T_1to0`` (3 x 4) and ``covis`` by ``key0:key1``. Images and depth are stored

- ``published``: 3 x H x W float32 in [0, 1], H x W float32 metres;
- ``compact``: 3 x H x W uint8 and H x W float16, a third of that, and as fast to read;
- ``small``: JPEG files (bytes) and float16 in compressed chunks, a tenth or less, slower to read.

The reader takes all of them, and compressed ones of either of the first two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from semantic_matcher_core.errors import ImageError, check_choice
from semantic_matcher_core.io.encoding import encode_image
from semantic_matcher_core.io.hdf5 import Hdf5Writer
from semantic_matcher_core.io.images import decode_image
from training.data.hdf5_reading import GroupReader
from training.errors import DataError

IMAGE_GROUPS = ("images", "depth", "pose", "K")
PAIR_GROUPS = ("T_0to1", "T_1to0", "covis")
STORAGES = ("published", "compact", "small")
# What ScanNet's own colour images have is about that.
_JPEG_QUALITY = 95


class SceneFileWriter(Hdf5Writer):
    """Writes one scene; the file appears under its name when the block ends well.

    Args:
        path: ``<scene>.h5``.
        storage: ``published``, ``compact`` or ``small``, see above.

    Raises:
        ConfigError: there is no such storage.
    """

    def __init__(self, path: str | Path, *, storage: str = "published") -> None:
        check_choice("storage", storage, STORAGES)
        super().__init__(path)
        self._storage = storage

    def __enter__(self) -> Self:
        super().__enter__()
        with self.writing() as file:
            for group in (*IMAGE_GROUPS, *PAIR_GROUPS):
                file.create_group(group)
        return self

    def __contains__(self, key: str) -> bool:
        with self.writing() as file:
            return key in file["images"]

    def add_image(self, key: str, image: Tensor, depth: Tensor, pose: Tensor, camera: Tensor) -> None:
        """Add an image by its key.

        Args:
            key: without ``/`` and ``:``.
            image: ``3 x H x W`` float in [0, 1].
            depth: ``H x W`` metres.
            pose: ``4 x 4`` camera to world.
            camera: ``3 x 3``.
        """
        if "/" in key or ":" in key:
            raise DataError(f"image key {key!r} must not hold '/' or ':'")
        if image.shape[-2:] != depth.shape[-2:]:
            raise DataError(f"{key}: depth is {tuple(depth.shape)}, the image {tuple(image.shape[-2:])}; resize one")
        pixels, metres = image.float().numpy(), depth.float().numpy()
        options: dict[str, Any] = {}
        if self._storage != "published":
            pixels, metres = np.round(pixels * 255).astype(np.uint8), metres.astype(np.float16)
        if self._storage == "small":
            rgb = np.ascontiguousarray(pixels.transpose(1, 2, 0))
            pixels = encode_image(rgb, jpeg_quality=_JPEG_QUALITY, name=f"image {key}")
            options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        with self.writing() as file:
            file["images"].create_dataset(key, data=pixels)
            file["depth"].create_dataset(key, data=metres, **options)
            file["pose"].create_dataset(key, data=pose.numpy())
            file["K"].create_dataset(key, data=camera.numpy())

    def add_pair(self, key0: str, key1: str, forward: Tensor, back: Tensor, covisibility: float) -> None:
        """Add a pair of added images: transforms ``3 x 4`` both ways, and the share of view 0 that view 1 sees."""
        name = f"{key0}:{key1}"
        with self.writing() as file:
            file["T_0to1"].create_dataset(name, data=forward.numpy())
            file["T_1to0"].create_dataset(name, data=back.numpy())
            file["covis"].create_dataset(name, data=covisibility)


class SceneFile(GroupReader):
    """Reads one scene of either layout.

    Raises:
        DataError: not a scene file (the message names the group that is missing), or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        with self.looked_into() as file:
            missing = [group for group in (*IMAGE_GROUPS, *PAIR_GROUPS) if group not in file]
            if missing:
                raise DataError(f"{self.path} is no scene file: group {missing[0]!r} is missing")
            self.image_keys = sorted(file["images"])
            self.pair_keys = sorted(file["T_0to1"])
        known = set(self.image_keys)
        for pair in self.pair_keys:
            for key in pair.split(":"):
                if key not in known:
                    raise DataError(f"{self.path}: pair {pair!r} names image {key!r}, which is not in the file")

    def image(self, key: str) -> Tensor:
        """Return ``3 x H x W`` float32 in [0, 1]."""
        stored = self.read("images", key)
        if stored.ndim == 1:
            try:
                stored = decode_image(stored.tobytes(), name=f"{self.path}, images/{key}").transpose(2, 0, 1)
            except ImageError as error:
                raise DataError(str(error)) from error
        pixels = torch.from_numpy(stored)
        # One pass: integers divide as float32.
        return torch.div(pixels, 255.0).contiguous() if pixels.dtype == torch.uint8 else pixels.float()

    def depth(self, key: str) -> Tensor:
        """Return ``H x W`` float32 metres."""
        return torch.from_numpy(self.read("depth", key)).float()

    def pair(self, name: str, *, images: bool = True) -> dict[str, Any]:
        """Return all that is known of a pair ``key0:key1``, by the published names (``image0``, ``depth0``, ``T_0to1``
        …).

        Args:
            name: one of ``pair_keys``.
            images: whether to read the images, the largest part.
        """
        key0, key1 = name.split(":")
        item: dict[str, Any] = {"image0_key": key0, "image1_key": key1, "scene": self.path.stem}
        for side, key in ((0, key0), (1, key1)):
            if images:
                item[f"image{side}"] = self.image(key)
            item[f"depth{side}"] = self.depth(key)
            item[f"K{side}"] = torch.from_numpy(self.read("K", key)).float()
        item["T_0to1"] = torch.from_numpy(self.read("T_0to1", name)).float()
        item["T_1to0"] = torch.from_numpy(self.read("T_1to0", name)).float()
        item["covis"] = float(self.read("covis", name))
        return item


def scene_files(root: str | Path, split: str) -> list[Path]:
    """Return the scene files of a data set, ``<root>/<split>/*.h5``, sorted.

    Raises:
        DataError: there are none.
    """
    files = sorted(Path(root, split).glob("*.h5"))
    if not files:
        raise DataError(f"no .h5 files in {Path(root, split)}")
    return files
