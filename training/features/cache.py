"""Feature files in the published layout, one for each scene: ``<data>/features/<method>/<split>/<scene>.h5``.

Local features: groups ``keypoints`` (N x 2) and ``descriptors`` (N x D) by image key. Semantic features: groups
``features`` (C x h x w, one vector per patch) and ``global_descriptor`` (C). Values are float32 or float16; keypoints
are always float32. The file's attributes say what made it, which published files do not: ``made_by`` and
``max_keypoints``, or ``made_by`` and ``long_side``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.extractors.registry import ALIASES
from semantic_matcher_core.io.hdf5 import Hdf5Writer
from training.data.hdf5_reading import GroupReader
from training.errors import DataError

LOCAL_GROUPS = ("keypoints", "descriptors")
SEMANTIC_GROUPS = ("features", "global_descriptor")


def cache_path(data: str | Path, method: str, split: str, scene: str) -> Path:
    """Return where the features of a scene lie."""
    return Path(data, "features", method, split, f"{scene}.h5")


class FeatureCacheWriter(Hdf5Writer):
    """Writes the features of one scene; the file appears under its name when the block ends well.

    Args:
        path: its folder must exist.
        groups: ``LOCAL_GROUPS`` or ``SEMANTIC_GROUPS``.
        attributes: what made it.
        half: float16 for everything but keypoints.
    """

    def __init__(self, path: Path, groups: tuple[str, ...], attributes: Mapping[str, Any], *, half: bool) -> None:
        super().__init__(path, **attributes)
        self._half = half
        self.__enter__()
        with self.writing() as file:
            for group in groups:
                file.create_group(group)

    def add(self, key: str, values: Mapping[str, np.ndarray]) -> None:
        """Add the values of one image, by group."""
        with self.writing() as file:
            for group, value in values.items():
                dtype = np.float16 if self._half and group != "keypoints" else np.float32
                file[group].create_dataset(key, data=value.astype(dtype))

    def commit(self) -> None:
        """Give the file its name."""
        self.__exit__(None, None, None)

    def discard(self) -> None:
        """Leave nothing."""
        self.__exit__(_DiscardedError, _DiscardedError(), None)


class _DiscardedError(Exception):
    """What a file ends with that is given up."""


class FeatureCache(GroupReader):
    """Reads the features of one scene.

    Args:
        path: see :func:`cache_path`.
        groups: ``LOCAL_GROUPS`` or ``SEMANTIC_GROUPS``.
        image_keys: the scene's; features of another set of images are refused.
        expected: attributes that must agree where the file has them.

    Raises:
        DataError: missing, damaged, of another layout, without one of the images, or made by something else; the
            message names the file.
    """

    def __init__(
        self, path: Path, groups: tuple[str, ...], image_keys: Iterable[str], expected: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(path, "; make it with `python -m training.export_features`")
        with self.looked_into() as file:
            for group in groups:
                if group not in file:
                    raise DataError(f"{path} is no feature file of this kind: group {group!r} is missing")
                present = set(file[group])
                missing = [key for key in image_keys if key not in present]
                if missing:
                    raise DataError(
                        f"{path} lacks {group} of {len(missing)} images of the scene, e.g. {missing[0]!r}; "
                        "it was made for another scene file: export it again"
                    )
            check_attributes(path, file.attrs, expected or {})

    def local(self, key: str, descriptor_dim: int | None = None) -> tuple[Tensor, Tensor]:
        """Return ``N x 2`` keypoints and ``N x D`` descriptors of an image, float32.

        Raises:
            DataError: they cannot be read, or their shapes do not fit each other or ``descriptor_dim``.
        """
        keypoints, descriptors = self._read("keypoints", key), self._read("descriptors", key)
        fits = keypoints.shape == (len(keypoints), 2) and descriptors.ndim == 2 and len(descriptors) == len(keypoints)
        if not fits or (descriptor_dim is not None and descriptors.shape[1] != descriptor_dim):
            raise DataError(
                f"{self.path}: image {key!r} has keypoints {tuple(keypoints.shape)} and descriptors "
                f"{tuple(descriptors.shape)}, expected N x 2 and N x {descriptor_dim or 'D'}"
            )
        return keypoints, descriptors

    def semantic_map(self, key: str, feature_dim: int | None = None) -> Tensor:
        """Return ``C x h x w`` float32 of an image.

        Raises:
            DataError: it cannot be read, or has another number of channels than ``feature_dim``.
        """
        features = self._read("features", key)
        if features.ndim != 3 or (feature_dim is not None and features.shape[0] != feature_dim):
            raise DataError(
                f"{self.path}: image {key!r} has features {tuple(features.shape)}, "
                f"expected {feature_dim or 'C'} x h x w"
            )
        return features

    def _read(self, group: str, key: str) -> Tensor:
        # torch converts half precision several times faster than NumPy.
        return torch.from_numpy(self.read(group, key)).float()


def check_attributes(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise DataError where a file says that something else made it; what it does not say is believed."""
    for name, wanted in expected.items():
        if name not in found:
            continue
        said = found[name] if isinstance(found[name], str) else found[name].item()
        if _canonical(said) != _canonical(wanted):
            raise DataError(
                f"{path} was made with {name} {said!r}, not {wanted!r}; export it under another method name, or "
                "delete it"
            )


def _canonical(value: Any) -> Any:
    return ALIASES.get(value, value) if isinstance(value, str) else value
