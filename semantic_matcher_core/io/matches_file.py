"""Matches of many image pairs in one HDF5 file, laid out as hloc (Hierarchical-Localization) does.

Layout: a group ``<first image>/<second image>`` per pair (``/`` within a name becomes ``-``), with
    - ``matches0``: int32, one per keypoint of the first image: the matching keypoint of the second, or -1;
    - ``matching_scores0``: float32, the confidence of that match, 0 without one;
    - ``inliers0``: bool, where a geometric check ran;
and, as attributes, ``model`` (3 x 3 float64) and ``model_type`` where that check found one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.features_file import check_key
from semantic_matcher_core.io.hdf5 import Hdf5Writer

FORMAT = "semantic_matcher matches"
VERSION = 1


class MatchesWriter(Hdf5Writer):
    """A matches file being written.

    Args:
        path: see :class:`~semantic_matcher_core.io.hdf5.Hdf5Writer`.
        variant: what made the matches; kept in the file.

    Raises:
        OutputError: the folder is missing or not writable.
    """

    def __init__(self, path: str | Path, *, variant: str = "") -> None:
        super().__init__(path, format=FORMAT, version=VERSION, variant=variant)

    def write(
        self,
        name0: str,
        name1: str,
        count0: int,
        indices: np.ndarray,
        confidence: np.ndarray,
        *,
        inlier: np.ndarray | None = None,
        model: np.ndarray | None = None,
        model_type: str = "",
    ) -> None:
        """Append the matches of one pair.

        Args:
            name0, name1: keys of the images in the features file.
            count0: number of keypoints of the first image.
            indices: ``M x 2`` rows of the two images' keypoints; each of the first image at most once.
            confidence: ``M``.
            inlier: ``M`` bool where a geometric check ran.
            model, model_type: what it found.

        Raises:
            ConfigError: the pair was written already.
            OutputError: the disk is full.
        """
        key = pair_key(name0, name1)
        rows = np.asarray(indices, np.int64).reshape(-1, 2)
        matches0 = np.full(count0, -1, np.int32)
        scores0 = np.zeros(count0, np.float32)
        matches0[rows[:, 0]], scores0[rows[:, 0]] = rows[:, 1], confidence
        with self.writing() as file:
            if key in file:
                raise ConfigError(f"{self.path} has matches of {name0!r} and {name1!r} already")
            group = file.create_group(key)
            group["matches0"], group["matching_scores0"] = matches0, scores0
            if inlier is not None:
                inliers0 = np.zeros(count0, bool)
                inliers0[rows[:, 0]] = inlier
                group["inliers0"] = inliers0
            if model is not None and model_type:
                group.attrs.update(model=np.asarray(model, np.float64).reshape(3, 3), model_type=model_type)


def pair_key(name0: str, name1: str) -> str:
    """Return the group of a pair, as hloc names it."""
    return "/".join(check_key(name).replace("/", "-") for name in (name0, name1))
