"""What sensor_msgs/CameraInfo says of the camera of an image; of any version of ROS, by its fields' names."""

from __future__ import annotations

from typing import Any

import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.geometry.camera import Camera


def camera_of(info: Any, image_size: tuple[int, int], *, rectified: bool = False, name: str = "camera_info") -> Camera:
    """Return the camera that images of ``(height, width)`` pixels were taken with.

    Args:
        info: a sensor_msgs/CameraInfo.
        image_size: of the image that it is wanted for.
        rectified: the image is rectified: ``P`` holds for it, and nothing distorts.
        name: how errors call it.

    Raises:
        ConfigError: it is empty, or for images of another size.
    """
    _check_size(info, image_size, name)
    try:
        if rectified:
            if not np.any(_field(info, "p")):
                raise ConfigError(
                    "P, which holds for rectified images, is all zeros; have the driver or image_proc fill it, or set "
                    "rectified to false where the images are as the lens gives them"
                )
            return Camera(projection_of(info, image_size)[:, :3])
        matrix = _of_the_image_sent(np.reshape(_field(info, "k"), (3, 3)), info)
        return Camera(matrix, str(info.distortion_model), np.asarray(_field(info, "d"), np.float64))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def projection_of(info: Any, image_size: tuple[int, int], *, name: str = "camera_info") -> np.ndarray:
    """Return ``P``, ``3 x 4`` float64, of the rectified image.

    Raises:
        ConfigError: as of :func:`camera_of`.
    """
    _check_size(info, image_size, name)
    return _of_the_image_sent(np.reshape(_field(info, "p"), (3, 4)), info)


def _check_size(info: Any, image_size: tuple[int, int], name: str) -> None:
    described = _size_sent(info)
    if 0 in described:
        raise ConfigError(
            f"{name} gives no size of its images ({described[1]} x {described[0]}), as drivers send it that have no "
            "calibration: calibrate the camera, and have its driver load the file"
        )
    if described != image_size:
        whole = (
            ""
            if described == (info.height, info.width)
            else f" (of {info.width} x {info.height}, by its roi and binning)"
        )
        raise ConfigError(
            f"{name} describes images of {described[1]} x {described[0]}{whole}, but they are {image_size[1]} x "
            f"{image_size[0]}; take the calibration of this size (image_proc's resize publishes it), or calibrate anew"
        )


def _field(info: Any, name: str) -> Any:
    # ROS 1 writes matrices in capitals.
    return getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())


def _size_sent(info: Any) -> tuple[int, int]:
    """Return height and width of the image that is sent: a region of the sensor, with pixels put together."""
    height, width = info.roi.height or info.height, info.roi.width or info.width
    return height // max(info.binning_y, 1), width // max(info.binning_x, 1)


def _of_the_image_sent(matrix: np.ndarray, info: Any) -> np.ndarray:
    # CameraInfo.msg: the matrices are those of the whole sensor, before region of interest and binning.
    matrix = matrix.astype(np.float64)
    matrix[0, 2] -= info.roi.x_offset
    matrix[1, 2] -= info.roi.y_offset
    matrix[0] /= max(info.binning_x, 1)
    matrix[1] /= max(info.binning_y, 1)
    return matrix
