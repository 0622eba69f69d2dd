"""The label file: pictures, the teacher's keypoints, and confirmed matches of pairs, in one HDF5 file.

- ``images/<number>`` (attributes ``key``, ``source``): ``jpeg`` (bytes of the picture as labelled) and ``keypoints``
  (N x 2 float32 pixels, (0, 0) the centre of the top-left one).
- ``pairs/<number>`` (attributes ``image0``, ``image1``, numbers of images, and ``projection_error``): ``indices``
  (M x 2 int32 rows of keypoints), ``confidence`` (M float32), ``unmatchable0`` and ``unmatchable1`` (bool for each
  keypoint of the image: sure to have no partner in the other).

So anybody can train from the file alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np

from semantic_matcher_core.io.hdf5 import Hdf5Output
from semantic_matcher_core.io.images import decode_image
from training.errors import DataError
from training.labelling.checking import LabelledPair

VERSION = 1


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
    output = Hdf5Output(path)
    try:
        with output.writing() as file:
            file.attrs.update({"version": VERSION, "made_by": made_by})
            file.create_group("images")
            file.create_group("pairs")
            for number, (key, source, jpeg, keypoints) in enumerate(images):
                group = file.create_group(f"images/{number}")
                group.attrs.update({"key": key, "source": source})
                group["jpeg"] = np.frombuffer(jpeg, np.uint8)
                group["keypoints"] = keypoints
            for number, (first, second, pair) in enumerate(pairs):
                group = file.create_group(f"pairs/{number}")
                group.attrs.update({"image0": first, "image1": second, "projection_error": pair.projection_error})
                for name in ("indices", "confidence", "unmatchable0", "unmatchable1"):
                    group.create_dataset(name, data=getattr(pair, name), compression="gzip")
    except BaseException:
        output.discard()
        raise
    output.commit()


def read_labels(path: Path) -> Labels:
    """All of a label file.

    Raises:
        DataError: it is missing, of another version, or damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("version") != VERSION:
                raise DataError(f"{path} is no label file of version {VERSION}; make one with training.label_pairs")
            images = [
                LabelledImage(
                    str(group.attrs["key"]),
                    str(group.attrs["source"]),
                    decode_image(group["jpeg"][()].tobytes(), name=f"image {number} of {path}"),
                    group["keypoints"][()],
                )
                for number, group in _numbered(file["images"])
            ]
            pairs = [
                (
                    int(group.attrs["image0"]),
                    int(group.attrs["image1"]),
                    LabelledPair(
                        *(group[name][()] for name in ("indices", "confidence", "unmatchable0", "unmatchable1")),
                        float(group.attrs["projection_error"]),
                    ),
                )
                for _, group in _numbered(file["pairs"])
            ]
    except (OSError, KeyError) as error:
        raise DataError(f"{path} cannot be read as a label file: {error}") from error
    return Labels(images, pairs)


def jpeg(image: np.ndarray, quality: int = 92) -> bytes:
    """An ``H x W x 3`` uint8 RGB image as a JPEG file."""
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise DataError(f"an image of shape {image.shape} cannot be stored as JPEG")
    return data.tobytes()


def _numbered(group: h5py.Group) -> list[tuple[int, h5py.Group]]:
    return [(number, group[str(number)]) for number in range(len(group))]
