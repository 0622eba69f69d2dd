"""One table over several kinds of pictures: photos under known homographies, real pairs, a sequence, a stereo pair.

Each case gives ``correct`` matches and ``precision``, their share of all. What is correct depends on what is known:

=====================  ================================================================================================
``homography <d>``     two views of a photo of difficulty ``d``: within 3 px of where the match truly is
``pairs``              two views of a scene: agrees within 1 px with the epipolar geometry found among the matches
``unrelated``          the same for pictures of different scenes: what chance gives
``<sequence> +<gap>``  the same for frames ``gap`` apart
``stereo``             rectified: on the same row within 2 px, and not to the right
=====================  ================================================================================================

Where geometry is found among the matches themselves, some wrong ones agree with it, so ``held_out`` is given besides;
see ``consistency``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io.images import list_images, read_image, shrunk
from training.data.warped import WarpConfig, photometric_change, random_correspondence, render_views
from training.errors import DataError
from training.evaluation.consistency import as_matches, epipolar_figures, pair_figures, rectified_figures
from training.evaluation.homography import homography_figures
from training.evaluation.layouts import find_pairs, find_stereo
from training.evaluation.methods import MatchFunction
from training.evaluation.metrics import area_under_curve
from training.evaluation.pose import POSE_THRESHOLDS_DEG

_log = logging.getLogger(__name__)
Row = dict[str, float | int | str]
CORNER_THRESHOLD_PX = 5.0
# Columns in the order they are shown.
_COLUMNS = (
    "pairs",
    "matches",
    "correct",
    "precision",
    "held_out",
    "precision@3px",
    "MMA@1",
    "corner AUC@5px",
    "homography",
    "deformation",
    "dy",
    "AUC@5",
    "AUC@10",
    "AUC@20",
)


@dataclass(frozen=True)
class Case:
    """Two pictures to match.

    Attributes:
        group: row of the table it counts for.
        name: of the case.
        images: gives both ``H x W x 3`` uint8 RGB.
        figures: of ``N x 2`` matched points.
    """

    group: str
    name: str
    images: Callable[[], tuple[np.ndarray, np.ndarray]]
    figures: Callable[[np.ndarray, np.ndarray], Row]


def held_out_photos(folder: Path, *, every: int = 10, holdout_list: Path | None = None) -> list[Path]:
    """Return photos that training did not see: those listed, or every n-th of the folder as training holds them out.

    Raises:
        DataError: the list cannot be read, is empty, or names a file that is not there.
    """
    if holdout_list is None:
        return list_images(folder)[::every]
    try:
        names = [line.strip() for line in holdout_list.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"{holdout_list} cannot be read: {error.strerror}") from error
    if not names:
        raise DataError(f"{holdout_list} lists no photos")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{holdout_list} lists {missing[0]!r} ({len(missing)} such), which is not in {folder}")
    return [folder / name for name in names]


def photo_cases(
    photos: Sequence[Path], *, difficulties: Sequence[float] = (0.3, 0.6), long_side: int = 640, seed: int = 0
) -> Iterator[Case]:
    """Yield two views of each photo by random homographies, with photometric changes, at each difficulty (0 … 1).

    The same photos, seed and side always give the same views. Views have the photo's shape, and at most ``long_side``.
    """
    for index, photo in enumerate(photos):
        for difficulty in difficulties:
            views = PhotoViews(photo, seed * 1_000_003 + index, difficulty, photometric_change, long_side)
            yield Case(f"homography {difficulty:g}", photo.name, views.images, views.figures)


def pair_cases(folder: Path) -> Iterator[Case]:
    """Return real pairs of a folder, and each first picture with the second of the next pair."""
    pairs = find_pairs(folder)
    if not pairs:
        raise DataError(f"{folder} has no pairs of images named like fox1.png and fox2.png, or x_ref.png and x_tgt.png")
    for name, (first, second) in pairs.items():
        yield Case("pairs", name, _Files(first, second), _pair)
    names = list(pairs)
    if len(names) > 1:
        for name, other in zip(names, names[1:] + names[:1], strict=True):
            yield Case("unrelated", f"{name} {other}", _Files(pairs[name][0], pairs[other][1]), _rigid)


def sequence_cases(folder: Path, gaps: Sequence[int] = (1, 5, 10, 15)) -> Iterator[Case]:
    """Yield frames of a folder, in the order of their names, each with those ``gap`` later."""
    frames = list_images(folder)
    usable = [gap for gap in gaps if 0 < gap < len(frames)]
    if not usable:
        raise DataError(f"{folder} has {len(frames)} frames, too few for gaps of {', '.join(map(str, gaps))}")
    for index, first in enumerate(frames):
        for gap in usable:
            if index + gap < len(frames):
                second = frames[index + gap]
                yield Case(f"{folder.name} +{gap}", f"{first.name} {second.name}", _Files(first, second), _rigid)


def stereo_cases(folder: Path) -> Iterator[Case]:
    """Return rectified pairs of a folder, left first: ``left.png`` and ``right.png``, or ``a_left.png`` …"""
    pair = find_stereo(folder)
    pairs = find_pairs(folder) if pair is None else {"stereo": pair}
    if not pairs:
        raise DataError(f"{folder} has no rectified pair named left.png and right.png, or a_left.png and a_right.png")
    for name, (left, right) in pairs.items():
        yield Case("stereo", name, _Files(left, right), _rectified)


def run_cases(cases: Iterable[Case], match: MatchFunction) -> Iterator[Row]:
    """Yield a row of figures for each case; of one whose images cannot be read, a warning."""
    for case in cases:
        try:
            images = case.images()
        except ImageError as error:
            _log.warning("left out, for all methods: %s", error)
            continue
        yield {"group": case.group, "case": case.name, **case.figures(*match(*images))}


def summarise_suite(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Average over the cases of each group; of corner errors the area under the curve up to 5 px."""
    summary: dict[str, dict[str, float]] = {}
    for group in dict.fromkeys(str(row["group"]) for row in rows):
        members = [row for row in rows if row["group"] == group]
        figures: dict[str, float] = {"pairs": len(members)}
        for column in _COLUMNS[1:]:
            if column in members[0]:
                figures[column] = fmean(float(row[column]) for row in members)
        if "corner error px" in members[0]:
            errors = [float(row["corner error px"]) for row in members]
            figures["corner AUC@5px"] = area_under_curve(errors, [CORNER_THRESHOLD_PX])[0]
        if "pose error deg" in members[0]:
            errors = [float(row["pose error deg"]) for row in members]
            names = [f"AUC@{threshold:g}" for threshold in POSE_THRESHOLDS_DEG]
            figures |= dict(zip(names, area_under_curve(errors, POSE_THRESHOLDS_DEG), strict=True))
        summary[group] = {column: figures[column] for column in _COLUMNS if column in figures}
    return summary


class _Files:
    def __init__(self, first: Path, second: Path) -> None:
        self._paths = first, second

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        return read_image(self._paths[0]), read_image(self._paths[1])


class PhotoViews:
    """Two views of a photo by a random homography, made when they are asked for.

    Args:
        photo: the file.
        seed: of everything random.
        difficulty: see ``WarpConfig``.
        change: of the light in a ``3 x H x W`` view in [0, 1].
        long_side: of the views, at most.
        multiple: of which the views' sides are.
    """

    def __init__(
        self,
        photo: Path,
        seed: int,
        difficulty: float,
        change: Callable[[torch.Tensor, torch.Generator], torch.Tensor],
        long_side: int = 640,
        multiple: int = 1,
    ) -> None:
        self._photo, self._seed, self._difficulty, self._change = photo, seed, difficulty, change
        self._long_side, self._multiple = long_side, multiple
        self._homography, self._size = np.eye(3), (0, 0)

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        picture, _ = shrunk(read_image(self._photo), self._long_side)
        height, width = (side // self._multiple * self._multiple for side in picture.shape[:2])
        config = WarpConfig((height, width), self._difficulty, bend_probability=0.0)
        generator = torch.Generator().manual_seed(self._seed)
        truth = random_correspondence((picture.shape[0], picture.shape[1]), config, generator)
        tensor = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
        views = [self._change(view, generator) for view in render_views(tensor, truth)]
        to_picture = [h[0].double().numpy() for h in (truth.homography0, truth.homography1)]
        self._homography, self._size = np.linalg.inv(to_picture[1]) @ to_picture[0], (height, width)
        first, second = ((view * 255).round().to(torch.uint8).permute(1, 2, 0).numpy() for view in views)
        return np.ascontiguousarray(first), np.ascontiguousarray(second)

    def figures(self, points0: np.ndarray, points1: np.ndarray) -> Row:
        found = homography_figures(points0, points1, self._homography, self._size)
        precision = float(found["MMA@3"])
        correct = round(precision * float(found["matches"]))
        kept = {name: found[name] for name in ("matches", "MMA@1", "corner error px")}
        return {**kept, "correct": correct, "precision": precision}


def _pair(points0: np.ndarray, points1: np.ndarray) -> Row:
    return _verified(pair_figures(as_matches(points0, points1)))


def _rigid(points0: np.ndarray, points1: np.ndarray) -> Row:
    return _verified(epipolar_figures(as_matches(points0, points1)))


def _rectified(points0: np.ndarray, points1: np.ndarray) -> Row:
    found = rectified_figures(as_matches(points0, points1))
    correct = round(found["correct"] * found["matches"])
    return {"matches": found["matches"], "correct": correct, "precision": found["correct"], "dy": found["dy"]}


def _verified(found: dict[str, float]) -> Row:
    correct = found.pop("epipolar")
    return {**found, "correct": correct, "precision": correct / found["matches"] if found["matches"] else 0.0}
