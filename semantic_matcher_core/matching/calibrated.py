"""Geometric check of matches between calibrated cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.types import Matches


def verify_calibrated(
    matches: Matches,
    camera0: Camera | np.ndarray,
    camera1: Camera | np.ndarray,
    *,
    threshold_px: float = 2.0,
    backend: str = "magsac",
    seed: int = 0,
) -> Matches:
    """Verify as :func:`~semantic_matcher_core.matching.verification.verify` of kind ``"essential"`` does, for lenses
    that distort.

    The distortion is removed for the check alone: the keypoints of the result are those of the images.

    Args:
        matches: of one pair or of several of the same two cameras.
        camera0, camera1: of the first and the second image; a ``3 x 3`` matrix is a camera without distortion.
        threshold_px, backend, seed: as for ``verify``; pixels without distortion.
    """
    camera0, camera1 = Camera.of(camera0), Camera.of(camera1)
    keypoints = [
        torch.from_numpy(camera.undistorted(points.detach().cpu().numpy())).to(points.device)
        for camera, points in ((camera0, matches.keypoints0), (camera1, matches.keypoints1))
    ]
    checked = verify(
        replace(matches, keypoints0=keypoints[0], keypoints1=keypoints[1]),
        "essential",
        threshold_px=threshold_px,
        K0=camera0.matrix,
        K1=camera1.matrix,
        backend=backend,
        seed=seed,
    )
    return replace(checked, keypoints0=matches.keypoints0, keypoints1=matches.keypoints1)
