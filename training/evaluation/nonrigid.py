"""The non-rigid benchmark (Kinect1, Kinect2Sampled, DeSurTSampled, SimulationICCV): matching score, accuracy, inliers.

Layout: pictures ``<images>/<set>/<object>/<name>-rgb.png``, one of them named ``…master``; truth
``<tps>/<set>/<object>/<name>_theta.npy``, ``_ctrlpts.npy``, ``_SSIM.png``, ``_objmask.png``: a thin-plate spline from
each target to the master. Definitions follow DALF's published evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.geometry.thin_plate import displacement
from semantic_matcher_core.io.images import read_image
from semantic_matcher_core.matching import MatcherConfig
from semantic_matcher_core.matching.features import match_features_densely
from semantic_matcher_core.types import Features
from training.errors import DataError
from training.evaluation.methods import MatchFunction

Row = dict[str, float | int | str]
CORRECT_PX = 3.0
LEAST_SIMILARITY = 0.25


@dataclass(frozen=True)
class NonrigidPair:
    """A master picture and one bent view of the same object.

    Attributes:
        dataset, scene: names of the two folders.
        master, target: pictures.
        truth: folder and name of the target's truth files, without their endings.
        master_mask: picture of where the object is in the master.
    """

    dataset: str
    scene: str
    master: Path
    target: Path
    truth: Path
    master_mask: Path


def nonrigid_pairs(images: str | Path, tps: str | Path) -> Iterator[NonrigidPair]:
    """Yield all pairs of all objects, sorted.

    Raises:
        DataError: there are none, or a truth file is missing.
    """
    images, tps = Path(images), Path(tps)
    masters = sorted(images.glob("*/*/*master-rgb.png"))
    if not masters:
        raise DataError(f"no <set>/<object>/*master-rgb.png below {images}")
    for master in masters:
        folder = master.parent
        truth = tps / folder.parent.name / folder.name
        mask = truth / f"{_stem(master)}_objmask.png"
        for target in sorted(folder.glob("*-rgb.png")):
            if target == master:
                continue
            pair = NonrigidPair(folder.parent.name, folder.name, master, target, truth / _stem(target), mask)
            for path in (mask, *(_truth_file(pair, ending) for ending in ("theta.npy", "ctrlpts.npy", "objmask.png"))):
                if not path.is_file():
                    raise DataError(f"{path} is missing, the truth of {target}")
            yield pair


def evaluate_nonrigid_pair(pair: NonrigidPair, matcher: SemanticMatcher) -> Row:
    """Compute figures of one pair, by the descriptors of a matcher (of a reasoner's, where it has one).

    Of the keypoints on the object, ``K`` pairs correspond by the spline (nearest within 3 px, each master keypoint
    once). ``inliers``: how many of those have each other as nearest descriptor, master to target; ``MS``: inliers over
    the smaller number of keypoints; ``MMA``: inliers over K.
    """
    image0, image1 = read_image(pair.master), read_image(pair.target)
    features0 = _features_on(image0, _mask(pair.master_mask), matcher)
    features1 = _features_on(image1, _visible(pair), matcher)
    keypoints0, keypoints1 = (f.keypoints[0].cpu().numpy() for f in (features0, features1))
    index0, index1 = true_pairs(keypoints0, warp_to_master(pair, keypoints1, image1.shape[:2]))
    inliers = 0
    if len(index0):
        nearest = match_features_densely(
            features0.rows(torch.from_numpy(index0).to(features0.device)),
            features1,
            MatcherConfig(mutual=False),
        )
        inliers = int((nearest.matches0[0].cpu().numpy() == index1).sum())
    fewer = min(len(keypoints0), len(keypoints1))
    return {
        **_names(pair),
        "keypoints0": len(keypoints0),
        "keypoints1": len(keypoints1),
        "true pairs": len(index0),
        "inliers": inliers,
        "MS": inliers / fewer if fewer else 0.0,
        "MMA": inliers / len(index0) if len(index0) else 0.0,
    }


def evaluate_nonrigid_matches(pair: NonrigidPair, match: MatchFunction) -> Row:
    """Compute figures of one pair for a function that gives matches alone, whose keypoints are not known.

    ``matches``: those that lie on the object in both pictures; ``inliers``: how many of them the spline takes to within
    3 px; ``precision``: their share.
    """
    image0, image1 = read_image(pair.master), read_image(pair.target)
    points0, points1 = (np.asarray(points, np.float64).reshape(-1, 2) for points in match(image0, image1))
    on = _lies_on(points0, _mask(pair.master_mask)) & _lies_on(points1, _visible(pair))
    error = np.linalg.norm(warp_to_master(pair, points1[on], image1.shape[:2]) - points0[on], axis=1)
    inliers = int((error < CORRECT_PX).sum())
    return {
        **_names(pair),
        "matches": int(on.sum()),
        "inliers": inliers,
        "precision": inliers / int(on.sum()) if on.any() else 0.0,
    }


def warp_to_master(pair: NonrigidPair, points: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return ``N x 2`` pixels of the target, in the master, by the truth's spline (coordinates divided by the size)."""
    try:
        theta = np.load(_truth_file(pair, "theta.npy")).astype(np.float32)
        control = np.load(_truth_file(pair, "ctrlpts.npy")).astype(np.float32)
    except (OSError, ValueError) as error:
        raise DataError(f"{pair.truth}_*.npy cannot be read: {error}") from error
    theta, control = theta.reshape(1, -1, 2), control.reshape(1, -1, 2)
    extent = np.array([size[1], size[0]], np.float32)
    unit = torch.from_numpy(points.astype(np.float32) / extent)[None]
    moved = unit + displacement(torch.from_numpy(theta), torch.from_numpy(control), unit)
    return moved[0].numpy() * extent


def true_pairs(keypoints0: np.ndarray, warped1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices of keypoints that correspond: nearest within 3 px, each of side 0 with the first that claims
    it.
    """
    if not len(keypoints0) or not len(warped1):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    distance = np.linalg.norm(warped1[:, None] - keypoints0[None], axis=-1)
    nearest = distance.argmin(axis=1)
    index1 = np.flatnonzero(distance[np.arange(len(warped1)), nearest] < CORRECT_PX)
    index0, first = np.unique(nearest[index1], return_index=True)
    return index0, index1[first]


def summarise_nonrigid(rows: list[Row]) -> dict[str, float]:
    """Return mean of each figure over each set and over all pairs."""
    figures = [name for name in ("MS", "MMA", "precision", "inliers") if name in rows[0]]
    summary: dict[str, float] = {}
    for dataset in sorted({str(row["dataset"]) for row in rows}):
        for figure in figures:
            values = [float(row[figure]) for row in rows if row["dataset"] == dataset]
            summary[f"{dataset} {figure}"] = float(np.mean(values))
    for figure in figures:
        summary[f"mean {figure}"] = float(np.mean([float(row[figure]) for row in rows]))
    return summary


def _features_on(image: np.ndarray, mask: np.ndarray, matcher: SemanticMatcher) -> Features:
    # Keypoints are found in the whole picture and then filtered, as published: the mask must not change the choice.
    features = matcher.extract(image)[0]
    on = _lies_on(features.keypoints[0].cpu().numpy(), mask)
    return features.rows(torch.from_numpy(np.flatnonzero(on)).to(features.device))


def _lies_on(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    x, y = points.astype(int).clip(0).T
    return mask[np.minimum(y, mask.shape[0] - 1), np.minimum(x, mask.shape[1] - 1)]


def _visible(pair: NonrigidPair) -> np.ndarray:
    visible = _mask(_truth_file(pair, "objmask.png"))
    similarity = _truth_file(pair, "SSIM.png")
    if similarity.is_file():
        visible &= _grey(similarity) / 255.0 > LEAST_SIMILARITY
    return visible


def _names(pair: NonrigidPair) -> Row:
    return {"dataset": pair.dataset, "scene": pair.scene, "target": pair.target.name}


def _truth_file(pair: NonrigidPair, ending: str) -> Path:
    return pair.truth.with_name(f"{pair.truth.name}_{ending}")


def _mask(path: Path) -> np.ndarray:
    return _grey(path) > 0


def _grey(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise DataError(f"{path} is missing or no image")
    return image


def _stem(picture: Path) -> str:
    return picture.name.removesuffix("-rgb.png")
