"""Cases that look like the world: strong changes of light, real views of a place, turned cameras, wide baselines.

========================  =============================================================================================
``relit``                 two views of a photo under different light, weather and sensor: within 3 px of the truth
``views <source>``        real views: within 2 px of the epipolar geometry that labels give (``training.label_pairs``)
``… turned <degrees>``    the same, the second picture turned about its middle
``rendered``              views of a scene from far apart: within 3 px of where depth and pose put the point, and seen
                          there; AUC of the relative pose's error
========================  =============================================================================================
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from semantic_matcher_core.io.images import list_images, read_image
from semantic_matcher_core.matching.verification import residuals, verify
from training.errors import DataError
from training.evaluation.consistency import as_matches
from training.evaluation.methods import MatchFunction
from training.evaluation.metrics import pose_errors
from training.evaluation.pose import estimate_pose
from training.evaluation.suite import Case, PhotoViews, Row
from training.labelling.label_file import Labels, read_labels
from training.student import scenes as scenery
from training.student.light import Light
from training.student.pictures import PictureBank

_log = logging.getLogger(__name__)
_RELIT_DIFFICULTY, _RELIT_STRENGTH = 0.25, 1.2
_EPIPOLAR_PX, _EXACT_PX = 2.0, 3.0
_RENDERED_SIDE, _TEXTURE = 512, 256


def relit_cases(photos: Sequence[Path], seed: int = 0) -> Iterator[Case]:
    """Yield two views of each photo that differ little in place and much in light: day and night, fog, another
    sensor …
    """
    for index, photo in enumerate(photos):
        views = PhotoViews(photo, seed * 1_000_003 + index, _RELIT_DIFFICULTY, _relit, multiple=8)
        yield Case("relit", photo.name, views.images, views.figures)


def view_cases(labels: Path, turns: Sequence[float] = ()) -> Iterator[Case]:
    """Yield the pairs of a label file, as they are and with the second picture turned by this many degrees."""
    found = read_labels(labels)
    for number in range(len(found.pairs)):
        for degrees in (0.0, *turns):
            case = _LabelledViews(found, number, degrees)
            if case.model is not None:
                yield Case(case.group, case.name, case.images, case.figures)


def rendered_cases(photos: Sequence[Path], count: int, seed: int = 0) -> Iterator[Case]:
    """Yield two views each of this many scenes with parallax and occlusion, photos being their textures."""
    if len(photos) < 2:
        raise DataError(f"rendered scenes need two photos or more as textures, got {len(photos)}")
    textures = PictureBank.of_files(photos, 448, torch.device("cpu"), _log.warning).squares(_TEXTURE)
    for index in range(count):
        case = _RenderedViews(textures, seed * 1_000_003 + index)
        yield Case("rendered", f"scene {index}", case.images, case.figures)


def frames_per_second(match: MatchFunction, folder: Path, most: int = 12) -> float:
    """Return how many new frames of a sequence a second are extracted and matched with the one before, median."""
    frames = [read_image(file) for file in list_images(folder)[: most + 2]]
    if len(frames) < 3:
        raise DataError(f"{folder} has {len(frames)} frames; a speed needs three")
    seconds = []
    for previous, frame in itertools.pairwise(frames):
        began = time.perf_counter()
        match(previous, frame)
        seconds.append(time.perf_counter() - began)
    return 1 / float(np.median(seconds[1:]))


def turned_image(image: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Return an image turned clockwise about its middle, all of it in the picture, and the ``2 x 3`` map of its
    pixels.
    """
    height, width = image.shape[:2]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    size = (math.ceil(abs(width * c) + abs(height * s) - 1e-6), math.ceil(abs(width * s) + abs(height * c) - 1e-6))
    turn = np.array([[c, -s], [s, c]])
    shift = (np.array(size) - 1) / 2 - turn @ ((np.array([width, height]) - 1) / 2)
    matrix = np.column_stack([turn, shift])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), matrix


def _relit(view: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return Light(_RELIT_STRENGTH, generator)(view[None])[0]


class _LabelledViews:
    def __init__(self, labels: Labels, number: int, degrees: float) -> None:
        self._first, self._second, pair = labels.pairs[number]
        self._labels, self._degrees = labels, degrees
        images = [labels.images[i] for i in (self._first, self._second)]
        self.group = f"views {images[0].source}" + (f" turned {degrees:g}" if degrees else "")
        self.name = f"{images[0].key} {images[1].key}"
        points = [image.keypoints[pair.indices[:, side]] for side, image in enumerate(images)]
        found = verify(as_matches(*points), "fundamental", threshold_px=_EPIPOLAR_PX)
        if found.model is None:
            raise DataError(f"{self.name}: no geometry explains its labels; label the pair again")
        self.model = found.model.numpy()
        self._back: np.ndarray = np.eye(2, 3)

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        first, second = (self._labels.images[i].image for i in (self._first, self._second))
        if self._degrees:
            second, matrix = turned_image(second, self._degrees)
            self._back = cv2.invertAffineTransform(matrix)
        return first, second

    def figures(self, points0: np.ndarray, points1: np.ndarray) -> Row:
        back = np.asarray(points1, np.float64).reshape(-1, 2) @ self._back[:, :2].T + self._back[:, 2]
        right = (
            residuals(self.model, "fundamental", np.asarray(points0, np.float64).reshape(-1, 2), back) <= _EPIPOLAR_PX
        )
        return {
            "matches": len(right),
            "correct": int(right.sum()),
            "precision": float(right.mean()) if len(right) else 0.0,
        }


class _RenderedViews:
    def __init__(self, textures: torch.Tensor, seed: int) -> None:
        self._textures, self._seed = textures, seed
        generator, device = torch.Generator().manual_seed(seed), torch.device("cpu")
        self._scene = scenery.random_scenes(1, len(textures), generator, device)
        self._cameras = scenery.random_cameras(1, _RENDERED_SIDE, generator, device)
        self._images: tuple[np.ndarray, np.ndarray] | None = None

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        # Every method sees the same ones, and rendering takes longer than matching.
        if self._images is None:
            first, second = (
                scenery.render(self._scene, self._textures, camera, _RENDERED_SIDE)[0].permute(1, 2, 0)
                for camera in self._cameras
            )
            self._images = first.contiguous().numpy(), second.contiguous().numpy()
        return self._images

    def figures(self, points0: np.ndarray, points1: np.ndarray) -> Row:
        row: Row = {"matches": len(points0), "correct": 0, "precision": 0.0}
        if len(points0):
            given = torch.from_numpy(np.asarray(points0, np.float32))[None]
            moved, seen = scenery.follow(self._scene, *self._cameras, given, _RENDERED_SIDE)
            distance = np.linalg.norm(moved[0].numpy() - np.asarray(points1), axis=1)
            right = seen[0].numpy() & (distance <= _EXACT_PX)
            row |= {"correct": int(right.sum()), "precision": float(right.mean())}
        camera0, camera1 = (self._intrinsics(camera.focal) for camera in self._cameras)
        found = estimate_pose(points0, points1, camera0, camera1, threshold_px=1.0)
        poses = [camera.pose[0].double().numpy() for camera in self._cameras]
        error = math.inf if found is None else max(pose_errors(np.linalg.inv(poses[1]) @ poses[0], *found[:2]))
        return {**row, "pose error deg": error}

    @staticmethod
    def _intrinsics(focal: torch.Tensor) -> np.ndarray:
        middle = (_RENDERED_SIDE - 1) / 2
        return np.array([[float(focal[0]), 0, middle], [0, float(focal[0]), middle], [0, 0, 1]])
