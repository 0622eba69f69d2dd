"""The pictures of a folder or a bag, in order, with depth and pose where the folder has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from semantic_matcher_core.io.bags import BAG_SUFFIXES, BagReader
from semantic_matcher_core.io.depth import read_depth
from semantic_matcher_core.io.images import list_images, read_image
from training.errors import DataError


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture to label.

    Attributes:
        key: its name in the label file.
        source: folder or bag that it is from; pairs are of one source.
        image: ``H x W x 3`` uint8 RGB, no larger than asked for.
        depth: ``H x W`` float32 metres, 0 where none was measured, or ``None``.
        pose: ``4 x 4`` camera to world, or ``None``.
        camera: ``3 x 3``, or ``None``.
    """

    key: str
    source: str
    image: np.ndarray
    depth: np.ndarray | None = None
    pose: np.ndarray | None = None
    camera: np.ndarray | None = None

    @property
    def has_geometry(self) -> bool:
        """Whether matches can be checked by projection."""
        return self.depth is not None and self.pose is not None and self.camera is not None


@dataclass(frozen=True)
class FrameFile:
    """Where one frame is; :meth:`read` gives it."""

    key: str
    source: str
    path: Path
    depth: Path | None = None
    pose: np.ndarray | None = None
    camera: np.ndarray | None = None

    def read(self, max_side: int) -> Frame:
        """Return the frame, its long side at most ``max_side``.

        Raises:
            ImageError: the picture or its depth cannot be read.
        """
        image, scale = shrunk(read_image(self.path), max_side)
        if self.depth is None or self.pose is None or self.camera is None:
            return Frame(self.key, self.source, image)
        depth = cv2.resize(read_depth(self.depth), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        return Frame(self.key, self.source, image, np.nan_to_num(depth), self.pose, scaled_camera(self.camera, scale))


def folder_frames(folder: Path, every: int = 1) -> list[FrameFile]:
    """Return the pictures of a folder, or of ``rgb/`` in it.

    Beside ``rgb/``, ``depth/*.png`` (16 bit, millimetres, of the same names), ``poses.txt`` (a row-major 4 x 4 matrix,
    camera to world, for each picture in order of name) and ``K.txt`` let matches be checked by projection.

    Raises:
        DataError: there are no pictures, or poses and pictures do not go together.
    """
    pictures = folder / "rgb" if (folder / "rgb").is_dir() else folder
    files = list_images(pictures)
    if len(files) < 2:
        raise DataError(f"{pictures} has {len(files)} pictures; pairs need two")
    depth, poses, camera = folder / "depth", folder / "poses.txt", folder / "K.txt"
    if not (pictures != folder and depth.is_dir() and poses.is_file() and camera.is_file()):
        return [FrameFile(f"{folder.name}/{f.stem}", folder.name, f) for f in files][::every]
    matrices, intrinsics = _numbers(poses), _numbers(camera)
    if matrices.size != 16 * len(files) or intrinsics.size != 9:
        raise DataError(f"{poses} has {matrices.size} numbers for {len(files)} pictures; 16 each, and 9 in {camera}")
    return [
        FrameFile(f"{folder.name}/{f.stem}", folder.name, f, measured if measured.is_file() else None, pose, k)
        for f, pose in zip(files, matrices.reshape(-1, 4, 4), strict=True)
        for measured, k in [(depth / f"{f.stem}.png", intrinsics.reshape(3, 3))]
    ][::every]


def bag_frames(bag: Path, max_side: int, every: int = 10, topics: tuple[str, ...] = ()) -> list[Frame]:
    """Return every ``every``-th image of each image topic of a bag; each topic is a source of its own.

    Raises:
        BagError, ImageError: the bag or an image in it cannot be read.
    """
    frames = []
    with BagReader(bag) as reader:
        chosen = reader.require_images(list(topics) or [topic.name for topic in reader.image_topics])
        for image in reader.images([topic.name for topic in chosen]):
            if image.index % every == 0:
                pixels = image.decode()
                rgb = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
                source = f"{bag.stem}{image.topic}"
                frames.append(Frame(f"{source}/{image.stamp_ns}", source, shrunk(rgb, max_side)[0]))
    return frames


def is_bag(path: Path) -> bool:
    """Return whether a path names a recording and no folder of pictures."""
    return path.suffix.lower() in BAG_SUFFIXES or (path / "metadata.yaml").is_file()


def shrunk(image: np.ndarray, max_side: int) -> tuple[np.ndarray, float]:
    """Return an image with its long side at most ``max_side``, and the factor it was made smaller by."""
    scale = min(1.0, max_side / max(image.shape[:2]))
    if scale == 1.0:
        return image, 1.0
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def scaled_camera(camera: np.ndarray, scale: float) -> np.ndarray:
    """Return intrinsics of an image made smaller, pixel centres being whole numbers."""
    scaled = camera.astype(np.float64).copy()
    scaled[:2] *= scale
    scaled[:2, 2] += (scale - 1) / 2
    return scaled


def _numbers(path: Path) -> np.ndarray:
    try:
        return np.loadtxt(path, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as numbers: {error}") from error
