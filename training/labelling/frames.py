"""The pictures of a folder or a bag, in order, with depth and pose where the folder has them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io.bags import BAG_SUFFIXES, BagImage, BagReader
from semantic_matcher_core.io.depth import read_depth
from semantic_matcher_core.io.images import list_images, read_image, shrunk
from training.errors import DataError


@dataclass(frozen=True, eq=False)
class Geometry:
    """What lets a picture's matches be checked by projection.

    Attributes:
        depth: ``H x W`` float32 metres, of the picture's size, 0 where none was measured.
        pose: ``4 x 4`` camera to world.
        camera: ``3 x 3``.
    """

    depth: np.ndarray
    pose: np.ndarray
    camera: np.ndarray


@dataclass(frozen=True, eq=False)
class GeometryFile:
    """Depth, pose and intrinsics of a picture, as they are stored."""

    depth: Path
    pose: np.ndarray
    camera: np.ndarray

    def read(self, size: tuple[int, int], scale: float) -> Geometry:
        """Return them for a picture that was made smaller.

        Args:
            size: its ``(height, width)``.
            scale: what it was made smaller by.

        Raises:
            ImageError: depth cannot be read.
        """
        depth = cv2.resize(read_depth(self.depth), size[::-1], interpolation=cv2.INTER_NEAREST)
        return Geometry(np.nan_to_num(depth), self.pose, scaled_camera(self.camera, scale))


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture to label.

    Attributes:
        key: its name in the label file.
        image: ``H x W x 3`` uint8 RGB, no larger than asked for.
        scale: what it was made smaller by.
        geometry: where its depth and pose are, or ``None``.
    """

    key: str
    image: np.ndarray
    scale: float
    geometry: GeometryFile | None = None

    def digest(self) -> str:
        """Return what tells its content from any other's."""
        found = hashlib.sha256(repr(self.image.shape).encode() + self.image.tobytes())
        if self.geometry is not None:
            found.update(self.geometry.depth.read_bytes())
            found.update(self.geometry.pose.tobytes() + self.geometry.camera.tobytes())
        return found.hexdigest()


@dataclass(frozen=True, eq=False)
class Scene:
    """A folder of pictures, or an image topic of a bag: pairs are of one scene.

    Attributes:
        name: of the folder, or of bag and topic.
        count: pictures.
        frames: gives them one after the other; of one that cannot be read, the error.
    """

    name: str
    count: int
    frames: Callable[[], Iterator[Frame | ImageError]]


def scenes_of(
    sources: Sequence[Path], max_side: int, every: int, workers: int, topics: Sequence[str] = ()
) -> list[Scene]:
    """Return the scenes of folders and bags, whose pictures are read when they are asked for.

    Args:
        sources: folders of pictures, and bags.
        max_side: pictures are made smaller to this long side.
        every: of the pictures of a folder and the images of a topic, take every N-th.
        workers: threads that read ahead.
        topics: image topics of bags; empty for all.

    Raises:
        DataError: a source is named twice, has too few pictures, or poses and pictures do not go together.
        BagError: the bag cannot be read, or has no such images.
    """
    paths = Counter(source.resolve() for source in sources)
    twice = [path for path, count in paths.items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]} is named twice")
    # Folders of one name are told apart by the rest of their paths.
    names = Counter(path.stem if is_bag(path) else path.name for path in paths)
    scenes: list[Scene] = []
    for source, path in zip(sources, paths, strict=True):
        bag = is_bag(source)
        name = path.stem if bag else path.name
        name = name if names[name] == 1 else str(source)
        scenes += _bag_scenes(source, name, max_side, every, topics) if bag else []
        if not bag:
            scenes.append(_folder_scene(source, name, max_side, every, workers))
    return scenes


def _folder_scene(folder: Path, name: str, max_side: int, every: int, workers: int) -> Scene:
    """Return the pictures of a folder, or of ``rgb/`` in it.

    Beside ``rgb/``, ``depth/*.png`` (16 bit, millimetres, of the same names), ``poses.txt`` (a row-major 4 x 4 matrix,
    camera to world, for each picture in order of name) and ``K.txt`` let matches be checked by projection.
    """
    pictures = folder / "rgb" if (folder / "rgb").is_dir() else folder
    files = list_images(pictures)
    if len(files) < 2:
        raise DataError(f"{pictures} has {len(files)} picture{'s' if not files else ''}; pairs need two")
    depth, poses, camera = folder / "depth", folder / "poses.txt", folder / "K.txt"
    geometry: list[GeometryFile | None] = [None] * len(files)
    if pictures != folder and depth.is_dir() and poses.is_file() and camera.is_file():
        matrices, intrinsics = _numbers(poses), _numbers(camera)
        if matrices.size != 16 * len(files) or intrinsics.size != 9:
            raise DataError(
                f"{poses} has {matrices.size} numbers for {len(files)} pictures; 16 each, and 9 in {camera}"
            )
        geometry = [
            GeometryFile(measured, pose, intrinsics.reshape(3, 3)) if measured.is_file() else None
            for f, pose in zip(files, matrices.reshape(-1, 4, 4), strict=True)
            for measured in [depth / f"{f.stem}.png"]
        ]
    stems = Counter(f.stem for f in files)
    keys = [f"{name}/{f.stem if stems[f.stem] == 1 else f.name}" for f in files]
    chosen = list(zip(keys, files, geometry, strict=True))[::every]

    def read(key: str, file: Path, measured: GeometryFile | None) -> Frame | ImageError:
        try:
            frame = Frame(key, *shrunk(read_image(file), max_side), measured)
            if measured is not None:
                measured.read(frame.image.shape[:2], frame.scale)
            return frame
        except ImageError as error:
            return error

    def frames() -> Iterator[Frame | ImageError]:
        with ThreadPoolExecutor(workers) as pool:
            reading: list[Future[Frame | ImageError]] = []
            for listed in chosen:
                reading.append(pool.submit(read, *listed))
                if len(reading) > workers:
                    yield reading.pop(0).result()
            for future in reading:
                yield future.result()

    return Scene(name, len(chosen), frames)


def _bag_scenes(bag: Path, name: str, max_side: int, every: int, topics: Sequence[str]) -> list[Scene]:
    """Return the image topics of a bag."""
    with BagReader(bag) as reader:
        wanted = topics or [topic.name for topic in reader.image_topics if topic.count]
        if not wanted:
            raise DataError(f"{bag} holds no images; {reader.describe_topics()}")
        found = reader.require_images(wanted)

    def frames(topic: str) -> Iterator[Frame | ImageError]:
        with BagReader(bag) as again, closing(again.images([topic])) as images:  # type: ignore[type-var]
            for image in images:
                if image.index % every == 0:
                    yield _decoded(image, f"{name}{topic}", max_side)

    return [
        Scene(f"{name}{topic.name}", -(-topic.count // every), lambda topic=topic: frames(topic.name))  # type: ignore[misc]
        for topic in found
    ]


def _decoded(image: BagImage, source: str, max_side: int) -> Frame | ImageError:
    try:
        pixels = image.decode()
    except ImageError as error:
        return error
    rgb = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
    return Frame(f"{source}/{image.index}-{image.stamp_ns}", *shrunk(rgb, max_side))


def is_bag(path: Path) -> bool:
    """Return whether a path names a recording and no folder of pictures."""
    return path.suffix.lower() in BAG_SUFFIXES or (path / "metadata.yaml").is_file()


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
