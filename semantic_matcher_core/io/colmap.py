"""A COLMAP database of keypoints and matches.

The tables are those of COLMAP 3.x, which later releases read and convert. COLMAP puts the origin at the corner of the
top-left pixel, so half a pixel is added to our keypoints.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semantic_matcher_core.errors import ConfigError, OutputError, check_choice
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.io.atomic import atomic_output, check_output

# src/colmap/scene/database.cc of release 3.9, pose_priors of 3.11; the numbers are of its enumerations.
_SCHEMA = """
CREATE TABLE cameras (camera_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, model INTEGER NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, params BLOB, prior_focal_length INTEGER NOT NULL);
CREATE TABLE images (image_id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name TEXT NOT NULL UNIQUE,
    camera_id INTEGER NOT NULL, prior_qw REAL, prior_qx REAL, prior_qy REAL, prior_qz REAL,
    prior_tx REAL, prior_ty REAL, prior_tz REAL,
    CONSTRAINT image_id_check CHECK(image_id >= 0 and image_id < 2147483647),
    FOREIGN KEY(camera_id) REFERENCES cameras(camera_id));
CREATE UNIQUE INDEX index_name ON images(name);
CREATE TABLE keypoints (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE descriptors (image_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE pose_priors (image_id INTEGER PRIMARY KEY NOT NULL, position BLOB, coordinate_system INTEGER NOT NULL,
    position_covariance BLOB, FOREIGN KEY(image_id) REFERENCES images(image_id) ON DELETE CASCADE);
CREATE TABLE matches (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL, data BLOB);
CREATE TABLE two_view_geometries (pair_id INTEGER PRIMARY KEY NOT NULL, rows INTEGER NOT NULL, cols INTEGER NOT NULL,
    data BLOB, config INTEGER NOT NULL, F BLOB, E BLOB, H BLOB, qvec BLOB, tvec BLOB);
"""
_MAX_IMAGE_ID = 2147483647
_FOCAL_OF_LONG_SIDE = 1.2  # COLMAP's own guess where nothing is known
_FILM_DIAGONAL_MM = 43.267  # of 36 mm x 24 mm, by which lenses are compared
# src/colmap/sensor/models.h: number, and number of parameters.
CAMERA_MODELS = {
    "SIMPLE_PINHOLE": (0, 3),
    "PINHOLE": (1, 4),
    "SIMPLE_RADIAL": (2, 4),
    "RADIAL": (3, 5),
    "OPENCV": (4, 8),
    "OPENCV_FISHEYE": (5, 8),
    "FULL_OPENCV": (6, 12),
    "FOV": (7, 5),
    "SIMPLE_RADIAL_FISHEYE": (8, 4),
    "RADIAL_FISHEYE": (9, 5),
    "THIN_PRISM_FISHEYE": (10, 12),
}
_CONFIGS = {"essential": 2, "fundamental": 3, "homography": 6}  # CALIBRATED, UNCALIBRATED, PLANAR_OR_PANORAMIC
_CARTESIAN = 1  # coordinates of pose priors in metres, not of the globe
_COLUMNS = {"essential": "E", "fundamental": "F", "homography": "H"}


@dataclass(frozen=True)
class Intrinsics:
    """A camera as COLMAP has it.

    Attributes:
        model: one of :data:`CAMERA_MODELS`.
        params: of that model, in its order; the principal point is measured from the corner of the top-left pixel.
        known: the focal length is measured, not guessed.

    Raises:
        ConfigError: an unknown model, or another number of parameters than it has.
    """

    model: str
    params: tuple[float, ...]
    known: bool = True

    def __post_init__(self) -> None:
        check_choice("camera model", self.model, CAMERA_MODELS)
        expected = CAMERA_MODELS[self.model][1]
        if len(self.params) != expected or not all(math.isfinite(value) for value in self.params):
            raise ConfigError(
                f"camera model {self.model} has {expected} parameters, finite numbers; got {list(self.params)}"
            )
        if not self.params[0] > 0:
            raise ConfigError(f"the focal length must be above 0 pixels, got {self.params[0]:g}")

    @classmethod
    def guessed(cls, size: tuple[int, int], focal_35mm: float = 0.0) -> Intrinsics:
        """Return those of an image of (width, height) pixels; EXIF tells its focal length, or nothing is known (0)."""
        known = focal_35mm > 0
        focal = focal_35mm / _FILM_DIAGONAL_MM * math.hypot(*size) if known else _FOCAL_OF_LONG_SIDE * max(size)
        return cls("SIMPLE_RADIAL", (focal, size[0] / 2, size[1] / 2, 0.0), known)

    @classmethod
    def of_camera(cls, camera: Camera) -> Intrinsics:
        """Return those of a calibrated camera."""
        k = camera.matrix
        pinhole = (float(k[0, 0]), float(k[1, 1]), float(k[0, 2]) + 0.5, float(k[1, 2]) + 0.5)
        if not camera.distorts:
            return cls("PINHOLE", pinhole)
        distortion = [float(value) for value in camera.distortion]
        if camera.distortion_model == "equidistant":
            return cls("OPENCV_FISHEYE", (*pinhole, *distortion[:4]))
        if any(distortion[8:]):
            raise ConfigError("COLMAP has no model of a lens with thin prism or tilt coefficients; rectify the images")
        distortion = (distortion + [0.0] * 8)[:8]
        if not any(distortion[4:]):
            return cls("OPENCV", (*pinhole, *distortion[:4]))
        return cls("FULL_OPENCV", (*pinhole, *distortion))


class ColmapWriter:
    """A COLMAP database being written; it appears under its name when closed, not at all after an error.

    Args:
        path: usually ``database.db``; a file of that name is replaced when the new one is complete.

    Raises:
        OutputError: the folder is missing or not writable.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_output(self.path)
        self._database: sqlite3.Connection | None = None
        self._images: dict[str, int] = {}
        self._cameras: dict[tuple[str, int, int, Intrinsics], int] = {}
        self._pairs: set[int] = set()

    def __enter__(self) -> ColmapWriter:
        with contextlib.ExitStack() as stack, self._writing():
            temporary = stack.enter_context(atomic_output(self.path))
            self._database = stack.enter_context(contextlib.closing(sqlite3.connect(temporary)))
            self._database.executescript(_SCHEMA)
            stack.push(self._commit_at_end)
            self._stack = stack.pop_all()
        return self

    def add_image(
        self,
        name: str,
        keypoints: np.ndarray,
        size: tuple[int, int],
        camera: str = "",
        intrinsics: Intrinsics | None = None,
        position: np.ndarray | None = None,
        covariance: np.ndarray | None = None,
    ) -> int:
        """Add an image and its keypoints.

        Args:
            name: the image's file, relative to COLMAP's image folder.
            keypoints: ``N x 2`` (x, y) pixels, (0, 0) is the centre of the top-left pixel.
            size: (width, height) in pixels.
            camera: images of one camera (and size) share its unknown focal length; each name is a camera of its own.
            intrinsics: of the camera, where they are known.
            position, covariance: ``3`` metres and ``3 x 3``: where the camera was (its pose prior), where known.

        Returns:
            The image's number in the database.

        Raises:
            ConfigError: an image of that name is there already.
            OutputError: the disk is full.
        """
        if name in self._images:
            raise ConfigError(f"image {name!r} is in {self.path} already")
        width, height = size
        intrinsics = intrinsics or Intrinsics.guessed(size)
        camera_id = self._cameras.get((camera, width, height, intrinsics))
        if camera_id is None:
            params = np.array(intrinsics.params, np.float64)
            camera_id = self._insert(
                "INSERT INTO cameras (model, width, height, params, prior_focal_length) VALUES (?, ?, ?, ?, ?)",
                (CAMERA_MODELS[intrinsics.model][0], width, height, params.tobytes(), int(intrinsics.known)),
            )
            self._cameras[(camera, width, height, intrinsics)] = camera_id
        image_id = self._insert("INSERT INTO images (name, camera_id) VALUES (?, ?)", (name, camera_id))
        corner = np.asarray(keypoints, np.float32).reshape(-1, 2) + np.float32(0.5)
        self._insert("INSERT INTO keypoints VALUES (?, ?, 2, ?)", (image_id, len(corner), corner.tobytes()))
        if position is not None:
            place = np.asarray(position, np.float64).reshape(3)
            spread = np.full((3, 3), np.nan) if covariance is None else np.asarray(covariance, np.float64)
            self._insert(
                "INSERT INTO pose_priors VALUES (?, ?, ?, ?)",
                (image_id, place.tobytes(), _CARTESIAN, np.ascontiguousarray(spread.reshape(3, 3)).tobytes()),
            )
        self._images[name] = image_id
        return image_id

    def add_matches(
        self,
        name0: str,
        name1: str,
        indices: np.ndarray,
        *,
        inlier: np.ndarray | None = None,
        model: np.ndarray | None = None,
        model_type: str = "",
    ) -> None:
        """Add the matches of two images; with a geometric check also what it found.

        Args:
            name0, name1: names of images that were added.
            indices: ``M x 2`` rows of their keypoints.
            inlier: ``M`` bool where a check ran.
            model, model_type: ``3 x 3`` from the first image to the second, in our pixels (centre of the first at 0).

        Raises:
            ConfigError: an image is not there, or the pair is there already.
            OutputError: the disk is full.
        """
        missing = [name for name in (name0, name1) if name not in self._images]
        if missing:
            raise ConfigError(f"{self.path} has no image {missing[0]!r}; add images before their matches")
        id0, id1 = self._images[name0], self._images[name1]
        swap = id0 > id1
        pair_id = min(id0, id1) * _MAX_IMAGE_ID + max(id0, id1)
        if pair_id in self._pairs:
            raise ConfigError(f"{self.path} has matches of {name0!r} and {name1!r} already")
        self._pairs.add(pair_id)
        rows = np.asarray(indices, np.uint32).reshape(-1, 2)
        ordered = np.ascontiguousarray(rows[:, ::-1] if swap else rows)
        self._insert("INSERT INTO matches VALUES (?, ?, 2, ?)", (pair_id, len(ordered), ordered.tobytes()))
        if inlier is None or model is None or not model_type:
            return
        kept = np.ascontiguousarray(ordered[np.asarray(inlier, bool)])
        matrix = to_colmap_pixels(np.asarray(model, np.float64).reshape(3, 3), model_type)
        if swap:
            matrix = np.linalg.inv(matrix) if model_type == "homography" else matrix.T
        self._insert(
            f"INSERT INTO two_view_geometries (pair_id, rows, cols, data, config, {_COLUMNS[model_type]}) "
            "VALUES (?, ?, 2, ?, ?, ?)",
            (pair_id, len(kept), kept.tobytes(), _CONFIGS[model_type], np.ascontiguousarray(matrix).tobytes()),
        )

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _commit_at_end(self, kind: type[BaseException] | None, *_: object) -> None:
        database, self._database = self._database, None
        if kind is None and database is not None:
            with self._writing():
                database.commit()

    def _insert(self, statement: str, values: tuple[object, ...]) -> int:
        if self._database is None:
            raise OutputError(f"{self.path} is not open for writing")
        with self._writing():
            return int(self._database.execute(statement, values).lastrowid or 0)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            full = "full" in str(error)
            reason = "the disk is full; free some space or write elsewhere" if full else str(error)
            raise OutputError(f"cannot write {self.path}: {reason}") from error


def to_colmap_pixels(model: np.ndarray, model_type: str) -> np.ndarray:
    """Return the model for pixels whose origin is the corner of the top-left pixel, not its centre."""
    if model_type == "essential":
        return model
    to_centre = np.array([[1.0, 0.0, -0.5], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
    if model_type == "homography":
        return np.linalg.inv(to_centre) @ model @ to_centre
    return to_centre.T @ model @ to_centre
