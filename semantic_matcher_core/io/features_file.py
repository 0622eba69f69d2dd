"""Features of many images in one HDF5 file, laid out as hloc (Hierarchical-Localization) does, so that it reads them.

Layout: one group per image, named by its key (``/`` makes nested groups), with
    - ``keypoints``: ``N x 2`` float32, (x, y) pixels, (0, 0) is the centre of the top-left pixel;
    - ``scores``: ``N`` float32;
    - ``descriptors``: ``D x N`` float32 (or float16), one *column* per keypoint: hloc's orientation;
    - ``reasoned``, ``semantic``: ``F x N``, where a reasoner made them;
    - ``scales``, ``orientations``: ``N`` float32, pixels and radians, where the extractor has them (SIFT);
    - ``turn``: ``N`` int64, degrees, and ``shrink``: ``N`` float32, where the image was looked at more than once
      (``matching.turns``, ``matching.sizes``);
    - ``image_size``: (width, height) in pixels;
    - the attribute ``made_by``, where that is known: what only features of the same name are matched with.
Beside the images a file may hold arrays of other kinds, in a group of their own each, named with a leading ``@``.
The file's attributes name what made it, ``variant``, ``format`` ("semantic_matcher features") and ``version``, and what
its ``descriptors`` are: ``"extractor"``, those of the local feature, with ``reasoned`` beside them (`extract`), or
``"compared"``, those that matching compares, a reasoner's output where there is one (`--hdf5` of a run, whose messages
hold no others).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch

from semantic_matcher_core.errors import ConfigError, SemanticMatcherError, ShapeError
from semantic_matcher_core.io.hdf5 import Hdf5Writer
from semantic_matcher_core.types import Features

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "semantic_matcher features"
VERSION = 1
_DESCRIPTORS = ("descriptors", "reasoned", "semantic")
_PER_KEYPOINT = {"scales": np.float32, "orientations": np.float32, "turn": np.int64, "shrink": np.float32}


class FeaturesFileError(SemanticMatcherError, ValueError):
    """A features file is missing, damaged, of another layout, or has no such image."""


class FeaturesWriter(Hdf5Writer):
    """A features file being written.

    Args:
        path: see :class:`~semantic_matcher_core.io.hdf5.Hdf5Writer`.
        variant: what makes the features; kept in the file.
        compared: the descriptors are those that matching compares, not the extractor's.
        half: store descriptors as float16, as hloc does by default: half the size, about three decimal digits.

    Raises:
        OutputError: the folder is missing or not writable.
    """

    def __init__(self, path: str | Path, *, variant: str = "", half: bool = False, compared: bool = False) -> None:
        kind = "compared" if compared else "extractor"
        super().__init__(path, format=FORMAT, version=VERSION, variant=variant, descriptors=kind)
        self.count = 0
        self._dtype = np.float16 if half else np.float32

    def write(self, key: str, features: Features) -> None:
        """Append the features of one image.

        Args:
            key: name of the image, e.g. its path relative to the image folder, with forward slashes.
            features: a batch of one without padding.

        Raises:
            ShapeError: ``features`` holds several images or padding.
            ConfigError: the key is empty, or an image of that key was written already.
            OutputError: the disk is full.
        """
        if features.batch_size != 1 or features.valid is not None:
            raise ShapeError(f"expected one image without padding, got a batch of {len(features)}; give features[i]")
        key = check_key(key)
        height, width = features.image_size
        with self.writing() as file:
            if "keypoints" in file.get(key, ()):
                raise ConfigError(
                    f"{self.path} has features of image {key!r} already; give each image a name of its own"
                )
            group = file.require_group(key)
            group["keypoints"] = _array(features.keypoints[0], np.float32)
            group["scores"] = _array(features.scores[0], np.float32)
            for name in _DESCRIPTORS:
                tensor = getattr(features, name)
                if tensor is not None:
                    group[name] = _array(tensor[0], self._dtype).T
            for name, dtype in _PER_KEYPOINT.items():
                tensor = getattr(features, name)
                if tensor is not None:
                    group[name] = _array(tensor[0], dtype)
            group["image_size"] = np.array([width, height], np.int64)
            if features.made_by:
                group.attrs["made_by"] = features.made_by
        self.count += 1

    def attach(self, name: str, arrays: Mapping[str, np.ndarray | list[str]], **attributes: str | int | float) -> None:
        """Store arrays that are not of one image, in the group ``@name``.

        Args:
            name: of the group, without the ``@``; no other group may be called so.
            arrays: numbers, or lists of strings.
            attributes: of the group.

        Raises:
            OutputError: the disk is full.
        """
        with self.writing() as file:
            group = file.create_group(f"@{name}")
            for key, values in arrays.items():
                group.create_dataset(key, data=values, dtype=h5py.string_dtype() if isinstance(values, list) else None)
            group.attrs.update(attributes)


class FeaturesReader:
    """A features file, open for reading; to be used in a ``with`` block. hloc's own files are read as well.

    Raises:
        FeaturesFileError: there is no such file, or it is no HDF5 file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FeaturesFileError(f"no such features file: {self.path}")
        self._file: h5py.File | None = None

    def __enter__(self) -> FeaturesReader:
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise FeaturesFileError(f"{self.path} is no HDF5 file, or is damaged: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def variant(self) -> str:
        """What made the features; "" where the file does not say."""
        return str(self._opened().attrs.get("variant", ""))

    def keys(self) -> list[str]:
        """Return names of the images, in the order of HDF5 (by name)."""
        with self._damage():
            return list(_walk(self._opened(), "", set()))

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: str) -> bool:
        with self._damage():
            return "keypoints" in self._opened().get(key, ())

    def read(self, key: str) -> Features:
        """Return features of one image, a batch of one on the CPU, in float32.

        Raises:
            FeaturesFileError: no image of that name, or its group is not laid out as expected.
        """
        if key not in self:
            names = self.keys()
            shown = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
            raise FeaturesFileError(f"{self.path} has no image {key!r}; it has {len(names)}: {shown}")
        group = self._opened()[key]
        try:
            keypoints = _tensor(group["keypoints"])
            width, height = (int(v) for v in group["image_size"][:])
            scores = _tensor(group["scores"]) if "scores" in group else torch.ones(len(keypoints))
            described = {name: _tensor(group[name]).T.contiguous()[None] for name in _DESCRIPTORS if name in group}
            shapes = {name: _tensor(group[name], kind)[None] for name, kind in _PER_KEYPOINT.items() if name in group}
            size, maker = (height, width), str(group.attrs.get("made_by", ""))
            return Features(keypoints[None], scores[None], image_size=size, made_by=maker, **described, **shapes)
        except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
            raise FeaturesFileError(f"image {key!r} of {self.path} is not laid out as expected: {error}") from error

    def attached(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return arrays (strings as lists) and attributes of the group ``@name``, see :meth:`FeaturesWriter.attach`.

        Raises:
            FeaturesFileError: there is no such group.
        """
        with self._damage():
            group = self._opened().get(f"@{name}")
            if group is None:
                raise FeaturesFileError(f"{self.path} holds features, but no {name}")
            arrays = {k: list(d.asstr()[:]) if h5py.check_string_dtype(d.dtype) else d[...] for k, d in group.items()}
            return arrays, dict(group.attrs)

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, KeyError, OSError) as error:  # what h5py raises, as the damage has it
            raise FeaturesFileError(f"{self.path} is damaged: {error}") from error

    def _opened(self) -> h5py.File:
        if self._file is None:
            raise FeaturesFileError(f"{self.path} is not open; use `with FeaturesReader(…) as file`")
        return self._file


def check_key(key: str) -> str:
    """Return the key of an image, fit to be the name of a group.

    Raises:
        ConfigError: it is empty, absolute, or has empty, ``.`` or ``..`` parts.
    """
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in key:
        raise ConfigError(
            f"{key!r} cannot name an image in a features file; use a relative path such as 'left/0001.png'"
        )
    return key


def _walk(group: h5py.Group, prefix: str, walked: set[tuple[int, int]]) -> Iterator[str]:
    # Links may lead back, and a group that many lead to would be walked as often as there are ways to it.
    info = h5py.h5o.get_info(group.id)
    if (info.fileno, info.addr) in walked:
        return
    walked.add((info.fileno, info.addr))
    for name, child in group.items():
        if not isinstance(child, h5py.Group):
            continue
        path = f"{prefix}/{name}" if prefix else name
        if "keypoints" in child:
            yield path
        yield from _walk(child, path, walked)


def _array(tensor: Tensor, dtype: Any) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().float().cpu().numpy(), dtype=dtype)


def _tensor(dataset: Any, dtype: Any = np.float32) -> Tensor:
    return torch.from_numpy(np.asarray(dataset[:], dtype=dtype))
