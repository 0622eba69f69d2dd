"""Results in the files of other tools: HDF5 as hloc has it, and a COLMAP project."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semantic_matcher_core.errors import OutputError
from semantic_matcher_core.io.atomic import atomic_output, check_output, output_error
from semantic_matcher_core.io.messages import COMPRESSED_IMAGE, DESCRIPTORS, KEYPOINTS, MATCHES, typestore
from semantic_matcher_core.types import Features

# Messages on topics below this one are for the exports, and do not get into the output.
INTERNAL = "/_work"
FRAME_TOPIC = f"{INTERNAL}/frame"
PAIR_TOPIC = f"{INTERNAL}/pair"


@dataclass(frozen=True)
class Exports:
    """Further outputs of a run.

    Attributes:
        features: HDF5 file of keypoints and of the descriptors that matching compares (see ``io.features_file``).
        matches: HDF5 file of matches (see ``io.matches_file``).
        colmap: folder that gets ``database.db``, and with ``colmap_images`` the images below ``images``.
        colmap_images: write the images as well; image files that exist already need no copy.
        half: store descriptors in 16 bits.
    """

    features: Path | None = None
    matches: Path | None = None
    colmap: Path | None = None
    colmap_images: bool = True
    half: bool = False

    @property
    def any(self) -> bool:
        """Whether anything is wanted."""
        return any(path is not None for path in self.paths())

    def paths(self) -> list[Path | None]:
        """The files that appear, as far as they are wanted."""
        return [self.features, self.matches, None if self.colmap is None else self.colmap / "database.db"]

    def missing(self) -> list[Path]:
        """Wanted files that are not there."""
        return [path for path in self.paths() if path is not None and not path.exists()]

    def prepare(self) -> None:
        """Fail early where something can never be written.

        Raises:
            OutputError: a folder is missing or not writable.
        """
        if self.colmap is not None:
            check_output(self.colmap / "database.db" if self.colmap.is_dir() else self.colmap)
        for path in (self.features, self.matches):
            if path is not None:
                check_output(path)


def write_exports(exports: Exports, variant: str, messages: Iterable[tuple[str, str, int, bytes]]) -> None:
    """Make the files of a run's messages.

    Args:
        exports: what is wanted.
        variant: what made the features.
        messages: (topic, msgtype, time, CDR data) in the order they were written: a note on :data:`FRAME_TOPIC`, then
            the frame's image, keypoints and descriptors; a note on :data:`PAIR_TOPIC`, then the pair's matches.

    Raises:
        OutputError: the disk is full, or a folder cannot be made. What is complete stays.
    """
    with contextlib.ExitStack() as stack:
        sink = _Sink(exports, variant, stack)
        note: dict[str, Any] = {}
        for topic, msgtype, _, data in messages:
            if topic in (FRAME_TOPIC, PAIR_TOPIC):
                note = json.loads(typestore().deserialize_cdr(data, msgtype).data)  # type: ignore[attr-defined]
            elif msgtype in sink.takers and note:
                sink.takers[msgtype](note, typestore().deserialize_cdr(data, msgtype))


class _Sink:
    def __init__(self, exports: Exports, variant: str, stack: contextlib.ExitStack) -> None:
        self._exports = exports
        self._counts: dict[str, int] = {}
        self._keypoints: Any = None
        self._features = self._matches = self._colmap = None
        # A file that needs a reader's patience opens first and closes last; each is complete or absent.
        if exports.features is not None:
            from semantic_matcher_core.io.features_file import FeaturesWriter

            self._features = stack.enter_context(FeaturesWriter(exports.features, variant=variant, half=exports.half))
        if exports.matches is not None:
            from semantic_matcher_core.io.matches_file import MatchesWriter

            self._matches = stack.enter_context(MatchesWriter(exports.matches, variant=variant))
        if exports.colmap is not None:
            from semantic_matcher_core.io.colmap import ColmapWriter

            _make_folder(exports.colmap)
            self._colmap = stack.enter_context(ColmapWriter(exports.colmap / "database.db"))
        self.takers = {
            COMPRESSED_IMAGE: self._take_image,
            KEYPOINTS: self._take_keypoints,
            DESCRIPTORS: self._take_descriptors,
            MATCHES: self._take_matches,
        }

    def _take_image(self, note: dict[str, Any], message: Any) -> None:
        if self._exports.colmap is None or not self._exports.colmap_images:
            return
        path = self._exports.colmap / "images" / note["name"]
        _make_folder(path.parent)
        with atomic_output(path) as temporary:
            temporary.write_bytes(message.data.tobytes())

    def _take_keypoints(self, note: dict[str, Any], message: Any) -> None:
        self._keypoints = message
        points = message.xy.reshape(-1, 2)
        self._counts[note["name"]] = len(points)
        if self._colmap is not None:
            self._colmap.add_image(note["name"], points, (message.width, message.height), camera=note["camera"])

    def _take_descriptors(self, note: dict[str, Any], message: Any) -> None:
        if self._features is None:
            return
        keypoints = self._keypoints
        count = len(keypoints.scores)
        semantic = message.semantic_data.reshape(count, message.semantic_dim) if message.semantic_dim else None
        features = Features(
            _batch(keypoints.xy.reshape(count, 2)),
            _batch(keypoints.scores),
            _batch(message.data.reshape(count, message.dim)),
            (keypoints.height, keypoints.width),
            semantic=None if semantic is None else _batch(semantic),
        )
        self._features.write(note["name"], features)

    def _take_matches(self, note: dict[str, Any], message: Any) -> None:
        indices = np.stack([message.index0, message.index1], axis=1)
        checked = bool(len(message.inlier)) or not len(indices)
        geometry: dict[str, Any] = {}
        if message.model_type and checked:
            geometry = {"model": message.model.reshape(3, 3), "model_type": message.model_type}
        inlier = message.inlier.astype(bool) if len(message.inlier) else None
        name0, name1 = note["name0"], note["name1"]
        if self._matches is not None:
            self._matches.write(
                name0, name1, self._counts[name0], indices, message.confidence, inlier=inlier, **geometry
            )
        if self._colmap is not None:
            self._colmap.add_matches(name0, name1, indices, inlier=inlier, **geometry)


def _batch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))[None]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise OutputError(f"cannot write below {path}: it is a file") from error
        raise output_error(path, error) from error
