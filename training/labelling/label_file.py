"""The label file: pictures, the teacher's keypoints, and confirmed matches of pairs, in one HDF5 file.

- ``images``: ``key``, ``source`` (text), ``jpeg`` (the bytes of all pictures as labelled, one after the other) and
  ``jpeg_size``, ``keypoints`` (of all pictures, x 2 float32 pixels, (0, 0) the centre of the top-left one) and
  ``keypoint_count``.
- ``pairs``: ``images`` (P x 2 numbers of images), ``indices`` (of all pairs, x 2 int32 rows of their keypoints),
  ``confidence`` and ``match_count``, ``unmatchable0`` and ``unmatchable1`` (bool for each keypoint of the images of
  each pair: sure to have no partner), ``projection_error`` (P, median pixels, NaN where unknown).

So the file alone is enough to train from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from semantic_matcher_core.io.hdf5 import Hdf5Writer
from semantic_matcher_core.io.images import decode_image
from training.errors import DataError
from training.labelling.checking import LabelledPair

VERSION = 2
_CONCATENATED = ("indices", "confidence", "unmatchable0", "unmatchable1")


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """A picture of a label file.

    Attributes:
        key, source: its name, and the folder or bag it is from.
        image: ``H x W x 3`` uint8 RGB.
        keypoints: ``N x 2`` float32 pixels.
    """

    key: str
    source: str
    image: np.ndarray
    keypoints: np.ndarray


@dataclass(frozen=True, eq=False)
class Labels:
    """A label file, read whole.

    Attributes:
        images: its pictures.
        pairs: numbers of two of them, and what is known of the pair.
    """

    images: list[LabelledImage]
    pairs: list[tuple[int, int, LabelledPair]]


def write_labels(
    path: Path,
    images: Sequence[tuple[str, str, bytes, np.ndarray]],
    pairs: Sequence[tuple[int, int, LabelledPair]],
    made_by: str,
) -> None:
    """Write a label file; it appears whole.

    Args:
        path: of the file.
        images: key, source, JPEG bytes and keypoints of each.
        pairs: numbers of images, and the labels.
        made_by: teacher and settings, in words.

    Raises:
        OutputError: it cannot be written.
    """
    content = {
        "images/jpeg": np.concatenate([np.frombuffer(data, np.uint8) for _, _, data, _ in images]),
        "images/jpeg_size": np.array([len(data) for _, _, data, _ in images]),
        "images/keypoints": np.concatenate([keypoints for *_, keypoints in images]),
        "images/keypoint_count": np.array([len(keypoints) for *_, keypoints in images]),
        "pairs/images": np.array([(first, second) for first, second, _ in pairs]),
        "pairs/match_count": np.array([len(pair.indices) for _, _, pair in pairs]),
        "pairs/projection_error": np.array([pair.projection_error for _, _, pair in pairs]),
    }
    for name in _CONCATENATED:
        content[f"pairs/{name}"] = np.concatenate([getattr(pair, name) for _, _, pair in pairs])
    with Hdf5Writer(path, version=VERSION, made_by=made_by) as output, output.writing() as file:
        for name, values in content.items():
            file.create_dataset(name, data=values, compression=None if name == "images/jpeg" else "gzip")
        file["images/key"] = [key for key, *_ in images]
        file["images/source"] = [source for _, source, *_ in images]


def read_labels(path: Path) -> Labels:
    """Return all of a label file.

    Raises:
        DataError: it is missing, of another version, or damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("version") != VERSION:
                raise DataError(f"{path} is no label file of version {VERSION}; make one with training.label_pairs")
            images, pairs = file["images"], file["pairs"]
            counts = images["keypoint_count"][()]
            pictures = [
                LabelledImage(
                    key.decode(), source.decode(), decode_image(data.tobytes(), name=f"image {i} of {path}"), keypoints
                )
                for i, (key, source, data, keypoints) in enumerate(
                    zip(
                        images["key"][()],
                        images["source"][()],
                        _parts(images["jpeg"][()], images["jpeg_size"][()]),
                        _parts(images["keypoints"][()], counts),
                        strict=True,
                    )
                )
            ]
            ends, matches = pairs["images"][()], pairs["match_count"][()]
            lengths = (matches, matches, counts[ends[:, 0]], counts[ends[:, 1]])
            fields = [_parts(pairs[name][()], length) for name, length in zip(_CONCATENATED, lengths, strict=True)]
            labelled = [
                (int(first), int(second), LabelledPair(indices, confidence, alone0, alone1, float(error)))
                for (first, second), error, indices, confidence, alone0, alone1 in zip(
                    ends, pairs["projection_error"][()], *fields, strict=True
                )
            ]
    except FileNotFoundError as error:
        raise DataError(f"no such label file: {path}; training.label_pairs makes one") from error
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a label file: {error}") from error
    return Labels(pictures, labelled)


def _parts(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Return arrays that were put one after the other."""
    if lengths.sum() != len(values):
        raise ValueError(f"{len(values)} rows where {lengths.sum()} are announced")
    return np.split(values, np.cumsum(lengths)[:-1])
