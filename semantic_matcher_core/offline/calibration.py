"""The cameras of a run: what was recorded with the images, or what their user has on file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.geometry.camera_info import camera_of, projection_of
from semantic_matcher_core.io.camera_file import cameras_in, read_camera_info
from semantic_matcher_core.io.colmap import Intrinsics

if TYPE_CHECKING:
    from semantic_matcher_core.offline.options import RunOptions
    from semantic_matcher_core.offline.sources import ImageSource
    from semantic_matcher_core.streams import MatchedPair, Verifier


Points = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""``K x 3`` points in space, ``K`` confidences, and ``K x 3`` uint8 RGB where colours are wanted."""


@dataclass(frozen=True, eq=False)
class Calibrations:
    """What is known of the cameras of a source's streams: their sensor_msgs/CameraInfo, or messages with its fields."""

    infos: Mapping[str, Any]

    @classmethod
    def of(cls, source: ImageSource, files: tuple[Path, ...] = ()) -> Calibrations:
        """Return those of calibration files, one for each stream in their order, or one that holds as many cameras; or
        else those recorded with the images.

        Raises:
            ConfigError: a file is no calibration, or there are not as many as streams.
        """
        if len(files) == 1 and len(cameras := cameras_in(files[0])) == len(source.streams):
            return cls({n: _of_file(files[0], c) for n, c in zip(source.streams, cameras, strict=True)})
        if files and len(files) != len(source.streams):
            streams = ", ".join(source.streams)
            raise ConfigError(f"{len(files)} calibration files for the streams {streams}; give one for each, in order")
        if files:
            return cls({name: _of_file(path) for name, path in zip(source.streams, files, strict=True)})
        found = {name: source.calibration(name) for name in source.streams}
        return cls({name: info for name, info in found.items() if info is not None})

    def require(self, source: ImageSource, purpose: str) -> None:
        """Raise ConfigError where a stream's camera is not known."""
        missing = [name for name in source.streams if name not in self.infos]
        if missing:
            raise ConfigError(
                f"{purpose} needs calibrated cameras, and there is no camera_info beside {', '.join(missing)}; give "
                "calibration files (--calibration)"
            )

    def camera(self, stream: str, size: tuple[int, int], rectified: bool) -> Camera:
        """Return the camera of images of a stream.

        Raises:
            ConfigError: the calibration is empty, or for images of another size.
        """
        return camera_of(self.infos[stream], size, rectified=rectified, name=_name(stream))

    def projection(self, stream: str, size: tuple[int, int]) -> np.ndarray:
        """Return ``P`` of a stream; raises as :meth:`camera`."""
        return projection_of(self.infos[stream], size, name=_name(stream))

    def intrinsics(self, rectified: bool) -> dict[str, Intrinsics]:
        """Return those of all calibrated streams, as COLMAP has them."""
        found = {}
        for stream, info in self.infos.items():
            size = (int(info.height), int(info.width))
            if info.roi.height == info.roi.width == 0 and info.binning_x <= 1 and info.binning_y <= 1 and all(size):
                found[stream] = Intrinsics.of_camera(self.camera(stream, size, rectified))
        return found


Side = tuple[str, tuple[int, int]]
"""Stream of an image, and its size (height, width)."""


def verifier(options: RunOptions, calibrations: Calibrations | None = None, *sides: Side) -> Verifier | None:
    """Return the geometric check that options ask for; ``None`` for none.

    Args:
        options: of the run.
        calibrations, sides: of the two images, for ``essential``.

    Raises:
        ImageError: there is no such camera for images of this size. That is so of one image; where it is so of all of
            them, the run ends with this reason.
    """
    if options.geometry is None:
        return None
    choice: dict[str, Any] = {"threshold_px": options.geometry_threshold, "backend": options.geometry_backend}
    if options.geometry != "essential":
        from semantic_matcher_core.matching.verification import verify

        return partial(verify, kind=options.geometry, **choice)
    from semantic_matcher_core.matching.calibrated import verify_calibrated

    assert calibrations is not None
    try:
        camera0, camera1 = (calibrations.camera(stream, size, options.rectified) for stream, size in sides)
    except ConfigError as error:
        raise ImageError(str(error)) from error
    return partial(verify_calibrated, camera0=camera0, camera1=camera1, **choice)


def stereo_points(
    pair: MatchedPair, options: RunOptions, calibrations: Calibrations, streams: tuple[str, ...]
) -> Points:
    """Return points in space of a rectified stereo pair, as the node publishes them."""
    from semantic_matcher_core.geometry.stereo import point_colours, sparse_points
    from semantic_matcher_core.motion.disparity import aligned_matches

    frames = pair.reference, pair.current
    left, right = (
        calibrations.projection(stream, frame.features.image_size)
        for stream, frame in zip(streams, frames, strict=True)
    )
    measured = aligned_matches(pair.matches, *(frame.image for frame in frames))
    points, confidence = sparse_points(
        measured,
        left,
        right,
        max_row_difference=options.epipolar_band or options.geometry_threshold,
        min_disparity=options.min_disparity,
    )
    colours = point_colours(points, left, pair.reference.image) if options.color_points else None
    return points, confidence, colours


def _of_file(path: Path, camera: str = "") -> Any:
    info = read_camera_info(path, camera)
    if info.p is None:
        # As camera_calibration leaves it where nothing was rectified.
        info.p = np.hstack([info.k.reshape(3, 3), np.zeros((3, 1))]).reshape(12)
    return info


def _name(stream: str) -> str:
    return f"the calibration of {stream}"
