"""Features of every image of scene files: read ahead, computed in batches, written behind."""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.extractors.base import Extractor
from semantic_matcher_core.inference import evaluating
from semantic_matcher_core.io.atomic import make_folder
from semantic_matcher_core.semantics import SemanticEncoder
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.semantics.dinov3 import DinoV3
from training.data.scene_file import SceneFile
from training.errors import DataError
from training.features.cache import LOCAL_GROUPS, SEMANTIC_GROUPS, FeatureCacheWriter, check_attributes
from training.features.parts import resized_for

# ScanNet has 1513 scenes with 2.5 million frames (Dai et al., CVPR 2017), of which every 15th is used.
SCANNET_SCENES = 1513
SCANNET_IMAGES = 2_500_000 // 15
# Batches of results that may wait for the disk.
_WAITING = 8


class Method(ABC):
    """What is computed of an image.

    Attributes:
        groups: of the feature file.
        attributes: of the feature file, from which it can be told what made it.
    """

    groups: tuple[str, ...]
    attributes: dict[str, Any]

    @abstractmethod
    def __call__(self, images: Tensor) -> list[dict[str, np.ndarray]]:
        """Return ``B x 3 x H x W`` in [0, 1] to the values of each image, by group."""


class LocalFeatures(Method):
    """Keypoints and descriptors of any extractor."""

    groups = LOCAL_GROUPS

    def __init__(self, extractor: Extractor, name: str) -> None:
        self.extractor = extractor
        self.attributes = {"made_by": name, "max_keypoints": extractor.max_keypoints}

    def __call__(self, images: Tensor) -> list[dict[str, np.ndarray]]:
        features = evaluating(self.extractor)(images)
        counts = features.counts.tolist()
        keypoints, descriptors = (t.float().cpu().numpy() for t in (features.keypoints, features.descriptors))
        return [{"keypoints": keypoints[i, :n], "descriptors": descriptors[i, :n]} for i, n in enumerate(counts)]


class SemanticFeatures(Method):
    """Maps of a semantic encoder, and its global descriptor (DINOv2's class token; the mean of others' maps).

    Args:
        encoder: which one.
        long_side: at which the encoder sees the images, in pixels; 0 for their own size, as published.
    """

    groups = SEMANTIC_GROUPS

    def __init__(self, encoder: SemanticEncoder, long_side: int = 0) -> None:
        self.encoder = encoder
        self.long_side = long_side
        self.attributes = {"made_by": encoder.name, "long_side": long_side}

    def __call__(self, images: Tensor) -> list[dict[str, np.ndarray]]:
        resized = resized_for(self.encoder, images, self.long_side)
        maps, whole = encode_with_global(self.encoder, resized)
        arrays = zip(maps.float().cpu().numpy(), whole.float().cpu().numpy(), strict=True)
        return [{"features": features, "global_descriptor": descriptor} for features, descriptor in arrays]


def encode_with_global(encoder: SemanticEncoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map ``B x C x h x w`` and one vector ``B x C`` for the whole image.

    For DINOv2 and DINOv3 that is the class token after the final norm, as published; for other encoders the mean of the
    map.
    """
    if not isinstance(encoder, (DinoV2, DinoV3)):
        maps = encoder(images)
        return maps, maps.mean(dim=(2, 3))
    last: list[Tensor] = []
    # The map's patch tokens come from the same block; a hook takes the class token on the way.
    hook = encoder.blocks[-1].register_forward_hook(lambda _module, _inputs, tokens: last.append(tokens[:, 0]))
    try:
        maps = encoder(images)
    finally:
        hook.remove()
    return maps, encoder.norm(last[0])


@dataclass
class ExportReport:
    """What an export did.

    Attributes:
        images: computed in this run.
        seconds: they took.
        written, finished_before: scenes.
        damaged: scene files that were skipped, with the reason.
    """

    images: int = 0
    seconds: float = 0.0
    written: int = 0
    finished_before: int = 0
    damaged: list[str] = field(default_factory=list)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0


def export_scenes(
    scenes: Sequence[Path],
    output: Path,
    method: Method,
    *,
    batch_size: int = 16,
    device: str | torch.device = "cpu",
    precision: torch.dtype = torch.float32,
    half_storage: bool = False,
    skip_damaged: bool = False,
    progress: Callable[[str, int, float], None] | None = None,
) -> ExportReport:
    """Write a feature file for each scene; those that are there already are left as they are.

    Args:
        scenes: scene files.
        output: folder of the feature files, made where it is not there.
        method: what is computed.
        batch_size: images computed together; only images of the same size are.
        device: where.
        precision: what the networks compute in; float32, or bfloat16 and float16 through autocast.
        half_storage: float16 in the files.
        skip_damaged: name damaged scenes in the report and go on, instead of raising.
        progress: called with each finished scene's name, its number of images, and images per second so far.

    Raises:
        DataError: a scene is damaged, or a file that is there was made by something else.
        OutputError: the disk is full.
    """
    make_folder(output)
    report = ExportReport()
    with _Writer(method, half_storage) as writer:
        for scene in scenes:
            path = output / scene.name
            start = time.perf_counter()
            try:
                if _is_finished(path, method):
                    report.finished_before += 1
                    continue
                count = _export_scene(
                    SceneFile(scene), path, method, writer, batch_size, torch.device(device), precision
                )
            except DataError as error:
                if not skip_damaged:
                    raise
                report.damaged.append(str(error))
                continue
            report.images += count
            report.seconds += time.perf_counter() - start
            report.written += 1
            if progress is not None:
                progress(scene.stem, count, report.images_per_second)
    return report


def _is_finished(path: Path, method: Method) -> bool:
    if not path.is_file():
        return False
    try:
        with h5py.File(path, "r") as file:
            check_attributes(path, dict(file.attrs), method.attributes)
    except OSError as error:
        raise DataError(f"{path} is damaged or no HDF5 file: {error}; delete it") from error
    return True


def _export_scene(
    scene: SceneFile,
    path: Path,
    method: Method,
    writer: _Writer,
    batch_size: int,
    device: torch.device,
    precision: torch.dtype,
) -> int:
    writer.put("open", path)
    try:
        autocast = torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32)
        with torch.inference_mode(), autocast:
            for keys, images in _read_ahead(scene, batch_size):
                results = method(images.to(device, non_blocking=True))
                for key, values in zip(keys, results, strict=True):
                    writer.put("add", key, values)
    except BaseException:
        writer.put("discard")
        raise
    finally:
        scene.close()
    writer.put("commit")
    return len(scene.image_keys)


def _read_ahead(scene: SceneFile, batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Yield batches of images of one size, the next being read while one is worked on."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as pool:
        batches = [scene.image_keys[i : i + batch_size] for i in range(0, len(scene.image_keys), batch_size)]
        waiting = [pool.submit(_read, scene, keys) for keys in batches[:1]]
        for following in [*batches[1:], None]:
            groups = waiting.pop().result()
            if following is not None:
                waiting.append(pool.submit(_read, scene, following))
            yield from groups


def _read(scene: SceneFile, keys: list[str]) -> list[tuple[list[str], Tensor]]:
    by_size: dict[torch.Size, tuple[list[str], list[Tensor]]] = {}
    for key in keys:
        image = scene.image(key)
        names, images = by_size.setdefault(image.shape, ([], []))
        names.append(key)
        images.append(image)
    return [(names, torch.stack(images)) for names, images in by_size.values()]


class _Writer:
    """A thread that writes feature files, one after the other; its errors come out at the next call."""

    def __init__(self, method: Method, half: bool) -> None:
        self._method = method
        self._half = half
        self._orders: queue.Queue[tuple[Any, ...] | None] = queue.Queue(maxsize=_WAITING * 16)
        self._error: BaseException | None = None
        self._file: FeatureCacheWriter | None = None
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._orders.put(None)
        self._thread.join()
        if kind is None:
            self._raise()

    def put(self, *order: Any) -> None:
        """Queue an order: ``open`` path, ``add`` key and values, ``commit``, ``discard``."""
        self._raise()
        self._orders.put(order)

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        # Orders are taken to the last, whatever fails: who queues the next may be waiting for room.
        while (order := self._orders.get()) is not None:
            if not self._done(order):
                self._done(("discard",))
        self._done(("discard",))

    def _done(self, order: tuple[Any, ...]) -> bool:
        """Return whether an order was carried out; what went wrong is kept for the next call."""
        file = self._file
        try:
            match order:
                case ("open", path):
                    self._file = FeatureCacheWriter(path, self._method.groups, self._method.attributes, half=self._half)
                case ("add", key, values) if file is not None:
                    file.add(key, values)
                case ("commit",) if file is not None:
                    self._file = None
                    file.commit()
                case ("discard",) if file is not None:
                    self._file = None
                    file.discard()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for this one
            self._error = self._error or error
            return False
        return True
