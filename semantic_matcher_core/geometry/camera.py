"""Calibrated cameras: pixels without the lens's distortion."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from semantic_matcher_core.errors import ConfigError, ShapeError, check_choice

# What drivers and calibration tools call the distortion models besides their ROS names.
_ALIASES = {
    "none": "",
    "radtan": "plumb_bob",
    "radial-tangential": "plumb_bob",
    "brown_conrady": "plumb_bob",
    "equi": "equidistant",
    "fisheye": "equidistant",
    "kannala_brandt": "equidistant",
    "kannala_brandt4": "equidistant",
}
# The first two are one to OpenCV and image_geometry, which go by the number of coefficients, and to some drivers.
_OPENCV = (4, 5, 8, 12, 14)
# When the search for a pixel without distortion ends: after so many rounds, or at so small an error in pixels.
_UNTIL = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-4)
_COEFFICIENTS = {"plumb_bob": _OPENCV, "rational_polynomial": _OPENCV, "equidistant": (4,)}


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with lens distortion, named as sensor_msgs/CameraInfo names it.

    Attributes:
        matrix: ``3 x 3`` float64, in pixels; (0, 0) is the centre of the top-left pixel.
        distortion_model: ``"plumb_bob"``, ``"rational_polynomial"``, ``"equidistant"`` (OpenCV's fisheye model), or ""
            for none; also under the names that Kalibr, EuRoC and drivers give them (``"radtan"``, ``"fisheye"`` …).
        distortion: its coefficients, in OpenCV's order; all zeros, or none, for no distortion.

    Raises:
        ShapeError: ``matrix`` is not ``3 x 3``.
        ConfigError: focal lengths that are not positive, a last row other than (0, 0, 1), an unknown model, or a wrong
            number of coefficients.
    """

    matrix: np.ndarray
    distortion_model: str = ""
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "matrix", np.array(self.matrix, dtype=np.float64, order="C"))
        except (TypeError, ValueError):
            raise ShapeError(f"a camera matrix is 3 x 3 numbers, got {type(self.matrix).__name__}") from None
        object.__setattr__(self, "distortion", np.array(self.distortion, dtype=np.float64).reshape(-1))
        model = str(self.distortion_model).strip().lower()
        object.__setattr__(self, "distortion_model", _ALIASES.get(model, model))
        if self.matrix.shape != (3, 3):
            raise ShapeError(f"a camera matrix is 3 x 3, got {self.matrix.shape}")
        if not (np.isfinite(self.matrix).all() and self.matrix[0, 0] > 0 and self.matrix[1, 1] > 0):
            raise ConfigError(
                f"no camera matrix: focal lengths {self.matrix[0, 0]:g} and {self.matrix[1, 1]:g} pixels; "
                "calibrate the camera"
            )
        if not np.allclose(self.matrix[2], (0, 0, 1), rtol=0, atol=1e-6):
            raise ConfigError(f"a camera matrix is [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got {self.matrix.tolist()}")
        if not self.distorts:
            return
        if not np.isfinite(self.distortion).all():
            raise ConfigError(f"distortion coefficients must be finite numbers, got {self.distortion.tolist()}")
        check_choice("distortion model", self.distortion_model, _COEFFICIENTS)
        counts = _COEFFICIENTS[self.distortion_model]
        if len(self.distortion) not in counts:
            # Drivers send arrays of a fixed length: five for equidistant's four, the last of them zero.
            used = int(np.flatnonzero(self.distortion)[-1]) + 1
            length = next((count for count in counts if used <= count <= len(self.distortion)), len(self.distortion))
            object.__setattr__(self, "distortion", self.distortion[:length])
        if len(self.distortion) not in counts:
            expected = " or ".join(map(str, counts))
            raise ConfigError(f"{self.distortion_model} has {expected} coefficients, got {len(self.distortion)}")

    @classmethod
    def of(cls, given: Camera | np.ndarray) -> Camera:
        """Return a camera itself, or that of a ``3 x 3`` matrix, without distortion."""
        return given if isinstance(given, Camera) else cls(given)

    @property
    def distorts(self) -> bool:
        """Whether any coefficient is not zero."""
        return bool(np.any(self.distortion != 0))

    def undistorted(self, points: np.ndarray) -> np.ndarray:
        """Return where the points would be without distortion, with the same camera matrix.

        Args:
            points: ``M x 2`` pixels.

        Returns:
            ``M x 2`` float64 pixels.
        """
        points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        if not self.distorts or not len(points):
            return points.copy()
        given = (points[:, None], self.matrix, self.distortion)
        if self.distortion_model == "equidistant":
            return cv2.fisheye.undistortPoints(*given, R=np.eye(3), P=self.matrix)[:, 0]
        # OpenCV's own five rounds leave half a pixel in the corners of a wide lens. Before 5 another function is asked.
        undistort = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)
        return undistort(*given, R=np.eye(3), P=self.matrix, criteria=_UNTIL)[:, 0]
