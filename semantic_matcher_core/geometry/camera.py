"""Calibrated cameras: pixels without distortion, and depth from the disparities of a rectified pair."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, ShapeError

DISTORTION_MODELS = ("", "plumb_bob", "rational_polynomial", "equidistant")
_COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with lens distortion, named as sensor_msgs/CameraInfo names it.

    Attributes:
        matrix: ``3 x 3`` float64, in pixels; (0, 0) is the centre of the top-left pixel.
        distortion_model: ``"plumb_bob"``, ``"rational_polynomial"``, ``"equidistant"`` (OpenCV's fisheye model), or ""
            for none.
        distortion: its coefficients, in OpenCV's order; all zeros, or none, for no distortion.

    Raises:
        ShapeError: ``matrix`` is not ``3 x 3``.
        ConfigError: focal lengths that are not positive, an unknown model, or a wrong number of coefficients.
    """

    matrix: np.ndarray
    distortion_model: str = ""
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", np.asarray(self.matrix, dtype=np.float64))
        object.__setattr__(self, "distortion", np.asarray(self.distortion, dtype=np.float64).reshape(-1))
        if self.matrix.shape != (3, 3):
            raise ShapeError(f"a camera matrix is 3 x 3, got {self.matrix.shape}")
        if not (np.isfinite(self.matrix).all() and self.matrix[0, 0] > 0 and self.matrix[1, 1] > 0):
            raise ConfigError(
                f"no camera matrix: focal lengths {self.matrix[0, 0]:g} and {self.matrix[1, 1]:g} pixels; "
                "calibrate the camera"
            )
        if not self.distorts:
            return
        if not np.isfinite(self.distortion).all():
            raise ConfigError(f"distortion coefficients must be finite numbers, got {self.distortion.tolist()}")
        if self.distortion_model not in _COEFFICIENTS:
            known = ", ".join(_COEFFICIENTS)
            raise ConfigError(f"unknown distortion model {self.distortion_model!r}; use one of {known}")
        counts = _COEFFICIENTS[self.distortion_model]
        if len(self.distortion) not in counts:
            expected = " or ".join(map(str, counts))
            raise ConfigError(f"{self.distortion_model} has {expected} coefficients, got {len(self.distortion)}")

    @property
    def distorts(self) -> bool:
        """Whether any coefficient is not zero."""
        return bool(np.any(self.distortion != 0))

    def undistorted(self, points: np.ndarray) -> np.ndarray:
        """Where the points would be without distortion, with the same camera matrix.

        Args:
            points: ``M x 2`` pixels.

        Returns:
            ``M x 2`` float64 pixels.
        """
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        if not self.distorts or not len(points):
            return points
        undistort = cv2.fisheye.undistortPoints if self.distortion_model == "equidistant" else cv2.undistortPoints
        return undistort(points[:, None], self.matrix, self.distortion, R=np.eye(3), P=self.matrix)[:, 0]


def points_from_disparity(
    left: np.ndarray, right: np.ndarray, projection_left: np.ndarray, projection_right: np.ndarray
) -> np.ndarray:
    """Points in space of matched keypoints of a rectified pair.

    Args:
        left, right: ``M x 2`` pixels of the matches.
        projection_left, projection_right: ``3 x 4`` projection matrices of the rectified cameras (``P`` of
            sensor_msgs/CameraInfo): those of one camera, with ``P[0, 3] = -fx * baseline`` on the right.

    Returns:
        ``M x 3`` float64 in the left camera's optical frame (x right, y down, z forward), in the unit of the baseline;
        rows of NaN where the disparity is not positive.

    Raises:
        ShapeError: a projection matrix is not ``3 x 4``.
        ConfigError: focal lengths or baseline are not positive.
    """
    p0, p1 = np.asarray(projection_left, dtype=np.float64), np.asarray(projection_right, dtype=np.float64)
    for name, p in (("left", p0), ("right", p1)):
        if p.shape != (3, 4):
            raise ShapeError(f"the {name} projection matrix must be 3 x 4, got {p.shape}")
        if not (np.isfinite(p).all() and p[0, 0] > 0 and p[1, 1] > 0):
            raise ConfigError(f"the {name} camera is not calibrated: focal lengths {p[0, 0]:g} and {p[1, 1]:g} pixels")
    if not np.allclose(p0[0, 0], p1[0, 0], rtol=1e-3):
        raise ConfigError(f"not a rectified pair: focal lengths {p0[0, 0]:g} and {p1[0, 0]:g} pixels")
    # Where the left one is not the origin of the pair, the points are moved to it all the same.
    scaled_baseline = p0[0, 3] - p1[0, 3]
    if not scaled_baseline > 0:
        raise ConfigError(
            f"no baseline: P[0, 3] is {p0[0, 3]:g} on the left and {p1[0, 3]:g} on the right, expected a smaller one "
            "(-fx * baseline) on the right; are the two sides exchanged?"
        )
    left = np.asarray(left, dtype=np.float64).reshape(-1, 2)
    right = np.asarray(right, dtype=np.float64).reshape(-1, 2)
    disparity = (left[:, 0] - p0[0, 2]) - (right[:, 0] - p1[0, 2])
    disparity = np.where(disparity > 0, disparity, np.nan)
    depth = scaled_baseline / disparity
    return np.column_stack(
        [(left[:, 0] - p0[0, 2]) * depth / p0[0, 0], (left[:, 1] - p0[1, 2]) * depth / p0[1, 1], depth]
    )
