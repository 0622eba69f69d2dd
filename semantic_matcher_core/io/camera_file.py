"""Camera calibrations in YAML: those of ROS's camera_calibration, of OpenCV, and of EuRoC and Kalibr."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.geometry.camera_info import camera_of
from semantic_matcher_core.io.images import read_bytes
from semantic_matcher_core.io.yaml_text import load_yaml


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
        path: a file as ROS's camera_calibration or OpenCV's calibration program write it (``camera_matrix``,
            ``distortion_coefficients`` …), a ``sensor.yaml`` of EuRoC, or a camera chain of Kalibr (``intrinsics``,
            ``distortion_coeffs`` …).
        camera: which of a chain, such as ``cam0``; may be left out where there is one.

    Raises:
        ConfigError: not readable, no such calibration in it, or one that cannot be.
    """
    info = read_camera_info(path, camera)
    size = info.height, info.width
    projection = None if info.p is None else info.p.reshape(3, 4)
    return Calibration(camera_of(info, size, name=str(path)), size, projection, info.name)


def read_camera_info(path: str | Path, camera: str = "") -> SimpleNamespace:
    """Read a calibration file into the fields of a sensor_msgs/CameraInfo of images of their whole size, and ``name``.

    ``p`` is ``None`` where the file has none. What the numbers are is not checked; see :func:`read_calibration`.

    Raises:
        ConfigError: not readable, or no such calibration in it.
    """
    path = Path(path)
    content = _content(path)
    try:
        content = _chosen(content, camera)
        return _ros(content) if "camera_matrix" in content else _kalibr(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ConfigError(
            f"{path} is no calibration file: expected the YAML of camera_calibration or OpenCV (image_width, "
            "image_height, camera_matrix, distortion_model, distortion_coefficients, projection_matrix), or of EuRoC "
            f"or Kalibr (resolution, camera_model, intrinsics, distortion_model, distortion_coeffs): {reason}"
        ) from error


def cameras_in(path: str | Path) -> list[str]:
    """Name the cameras of a chain, in their order; none where a file holds the one camera that it is of.

    Raises:
        ConfigError: not readable.
    """
    return list(_chain(_content(Path(path))))


def _content(path: Path) -> Any:
    try:
        # OpenCV begins with a line that no YAML parser but its own takes.
        text = re.sub(r"\A%YAML:[0-9.]+[^\n]*", "", read_bytes(path, "calibration").decode("utf-8-sig"))
        return load_yaml(text, _Loader)
    except ImageError as error:
        raise ConfigError(str(error)) from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path} is no calibration file: not a readable YAML file: {error}") from error


def _chain(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if isinstance(value, dict) and "intrinsics" in value}


class _Loader(yaml.SafeLoader):
    """YAML with OpenCV's matrices, which are mappings with a tag of their own."""


def _matrix_of_opencv(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:opencv-matrix", _matrix_of_opencv)


def _chosen(content: Any, camera: str) -> Any:
    if not isinstance(content, dict):
        raise TypeError("it holds no names with values")
    chain = _chain(content)
    if not camera and not chain:
        return content
    if camera not in chain and (camera or len(chain) != 1):
        raise ConfigError(f"camera {camera!r} is not one of {', '.join(sorted(chain)) or 'none'}")
    return chain[camera or next(iter(chain))]


def _ros(content: dict[str, Any]) -> SimpleNamespace:
    return _info(
        (int(content["image_height"]), int(content["image_width"])),
        _matrix(content["camera_matrix"], 3),
        str(content.get("distortion_model") or _model_of_opencv(content)),
        (content.get("distortion_coefficients") or {}).get("data", []),
        _matrix(content["projection_matrix"], 4) if content.get("projection_matrix") else None,
        str(content.get("camera_name", "")),
    )


def _model_of_opencv(content: dict[str, Any]) -> str:
    """Name the model: OpenCV tells whether it is its fisheye one; of others the number of coefficients tells."""
    if content.get("fisheye_model"):
        return "equidistant"
    return (
        "plumb_bob"
        if len((content.get("distortion_coefficients") or {}).get("data", [])) <= 5
        else "rational_polynomial"
    )


def _kalibr(content: dict[str, Any]) -> SimpleNamespace:
    kind = str(content.get("camera_model", "pinhole"))
    if kind != "pinhole":
        raise ConfigError(f"camera model {kind!r}; only pinhole cameras, with any of the distortion models, are known")
    fx, fy, cx, cy = _numbers(content["intrinsics"])
    width, height = (int(side) for side in content["resolution"])
    return _info(
        (height, width),
        np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]),
        str(content.get("distortion_model", "")),
        content.get("distortion_coefficients", content.get("distortion_coeffs", [])),
        None,
        str(content.get("comment", "")),
    )


def _info(size: tuple[int, int], k: np.ndarray, model: str, d: Any, p: np.ndarray | None, name: str) -> SimpleNamespace:
    return SimpleNamespace(
        height=size[0],
        width=size[1],
        k=k.reshape(9),
        d=_numbers(d),
        p=None if p is None else p.reshape(12),
        distortion_model=model,
        binning_x=0,
        binning_y=0,
        roi=SimpleNamespace(x_offset=0, y_offset=0, height=0, width=0),
        name=name,
    )


def _matrix(entry: Any, columns: int) -> np.ndarray:
    return _numbers(entry["data"]).reshape(3, columns)


def _numbers(values: Any) -> np.ndarray:
    return np.array([float(value) for value in values], dtype=np.float64)
