"""Camera calibrations in YAML: those of ROS's camera_calibration, and of EuRoC and Kalibr."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.geometry.camera import Camera

_ALIASES = {
    "": "",
    "none": "",
    "radtan": "plumb_bob",
    "radial-tangential": "plumb_bob",
    "equi": "equidistant",
    "fisheye": "equidistant",
}


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibration file says.

    Attributes:
        camera: of the image as it comes.
        image_size: ``(height, width)`` in pixels.
        projection: ``3 x 4`` of the rectified image, or ``None`` where the file has none.
        name: the camera's, or "".
    """

    camera: Camera
    image_size: tuple[int, int]
    projection: np.ndarray | None = None
    name: str = ""


def read_calibration(path: str | Path, camera: str = "") -> Calibration:
    """Read a camera's calibration.

    Args:
        path: a file as ROS's camera_calibration writes it (``camera_matrix``, ``distortion_coefficients`` …), a
            ``sensor.yaml`` of EuRoC, or a camera chain of Kalibr (``intrinsics``, ``distortion_coeffs`` …).
        camera: which of a chain, such as ``cam0``; may be left out where there is one.

    Raises:
        ConfigError: not readable, no such calibration in it, or one that cannot be.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: no calibration; expected camera_matrix (ROS) or intrinsics (EuRoC, Kalibr)")
    chain = {name: value for name, value in content.items() if isinstance(value, dict) and "intrinsics" in value}
    if camera or chain:
        if camera not in chain and (camera or len(chain) != 1):
            raise ConfigError(f"{path}: camera {camera!r} is not one of {', '.join(sorted(chain)) or 'none'}")
        content = chain[camera or next(iter(chain))]
    try:
        return _ros(content) if "camera_matrix" in content else _kalibr(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: not a calibration of ROS (camera_matrix), EuRoC or Kalibr (intrinsics): {error!r}"
        ) from error


def _ros(content: dict[str, Any]) -> Calibration:
    matrix = _matrix(content["camera_matrix"], 3)
    coefficients = content.get("distortion_coefficients", {"data": []})
    model = _model(content.get("distortion_model", ""))
    camera = Camera(matrix, model, _numbers(coefficients["data"]))
    projection = _matrix(content["projection_matrix"], 4) if "projection_matrix" in content else None
    size = int(content["image_height"]), int(content["image_width"])
    return Calibration(camera, size, projection, str(content.get("camera_name", "")))


def _kalibr(content: dict[str, Any]) -> Calibration:
    kind = str(content.get("camera_model", "pinhole"))
    if kind != "pinhole":
        raise ConfigError(f"camera model {kind!r}; only pinhole cameras, with any of the distortion models, are known")
    fx, fy, cx, cy = _numbers(content["intrinsics"])
    coefficients = content.get("distortion_coefficients", content.get("distortion_coeffs", []))
    model = _model(content.get("distortion_model", ""))
    width, height = (int(side) for side in content["resolution"])
    camera = Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), model, _numbers(coefficients))
    return Calibration(camera, (height, width), None, str(content.get("comment", "")))


def _matrix(entry: Any, columns: int) -> np.ndarray:
    return _numbers(entry["data"]).reshape(3, columns)


def _numbers(values: Any) -> np.ndarray:
    return np.array([float(value) for value in values], dtype=np.float64)


def _model(name: Any) -> str:
    return _ALIASES.get(str(name), str(name))
