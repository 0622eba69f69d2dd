"""One vector for all local descriptors of an image: VLAD (Jégou et al., CVPR 2010).

Descriptors are assigned to the nearest of some cluster centres, their differences from it are summed, and each
cluster's sum is normalised by itself, so that a repeated texture counts once (Arandjelović and Zisserman, CVPR 2013).
The centres are OpenCV's k-means++. For a folder of images this is compact (a row of K D numbers each), exact to search
by one matrix product, and needs no library beside those that are here anyway; an approximate index would pay from some
hundred thousand images up.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, ShapeError

_ATTEMPTS, _ITERATIONS, _EPSILON = 3, 30, 1e-4


@dataclass(frozen=True, eq=False)
class Codebook:
    """Cluster centres of local descriptors.

    Attributes:
        centres: ``K x D`` float32.
    """

    centres: np.ndarray

    @classmethod
    def train(cls, descriptors: np.ndarray, clusters: int = 64, seed: int = 0) -> Codebook:
        """Return the centres of a sample of descriptors.

        Args:
            descriptors: ``N x D``.
            clusters: K; fewer where there are fewer descriptors.
            seed: of the initialisation.

        Raises:
            ConfigError: clusters below 1.
            ShapeError: no descriptors.
        """
        if clusters < 1:
            raise ConfigError(f"clusters must be 1 or more, got {clusters}")
        if descriptors.ndim != 2 or len(descriptors) == 0:
            raise ShapeError(f"a codebook needs N x D descriptors, N above 0, got {descriptors.shape}")
        samples = np.ascontiguousarray(descriptors, np.float32)
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, _ITERATIONS, _EPSILON)
        count = min(clusters, len(samples))

        def found() -> np.ndarray:
            cv2.setRNGSeed(seed)
            return cv2.kmeans(samples, count, np.empty(0, np.int32), stop, _ATTEMPTS, cv2.KMEANS_PP_CENTERS)[2]

        # In a thread of its own, whose random numbers nobody else draws: OpenCV keeps one state a thread.
        with ThreadPoolExecutor(1) as own:
            centres = own.submit(found).result()
        return cls(np.asarray(centres, np.float32).reshape(count, samples.shape[1]))

    def aggregate(self, descriptors: np.ndarray) -> np.ndarray:
        """Return ``K D`` float32 of unit length: the VLAD vector of ``N x D`` descriptors; zeros where there are none.

        Raises:
            ShapeError: the descriptors are of another dimension.
        """
        dimension = self.centres.shape[1]
        if descriptors.ndim != 2 or descriptors.shape[1] != dimension:
            raise ShapeError(f"descriptors are {descriptors.shape}, the codebook is for N x {dimension}")
        # The nearest centre: |x - c|² without what is the same for all centres.
        nearest = (descriptors @ self.centres.T - 0.5 * np.square(self.centres).sum(axis=1)).argmax(axis=1)
        sums = np.zeros_like(self.centres)
        np.add.at(sums, nearest, descriptors - self.centres[nearest])
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        sums /= np.where(norms > 0, norms, 1.0)
        present = int((norms > 0).sum())
        return sums.reshape(-1) / np.sqrt(max(1, present), dtype=np.float32)
