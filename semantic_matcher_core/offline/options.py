"""What a run does."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import dataclass_transform

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.options import (
    GEOMETRY,
    MASKS,
    ODOMETRY,
    REFERENCE,
    STEREO,
    STEREO_RECTIFIED,
    ParameterSpec,
    on_command_line,
)
from semantic_matcher_core.settings import GEOMETRY_BACKENDS, turns_of
from semantic_matcher_core.streams import TemporalPairing, slop_of

MODES = ("temporal", "stereo", "reference")
IMAGE_CHOICES = ("jpeg", "none")
# Options whose own error says more than the table can.
_CHECKED_HERE = {
    "geometry_backend",
    "geometry_threshold",
    "slop",
    "sync",
    "rotation",
    "epipolar_band",
    "min_disparity",
    "mask",
}


def _is_namespace(text: str) -> bool:
    """Return whether topics below it have names that ROS takes."""
    return re.fullmatch(r"/?([A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*)?/?", text) is not None


# Options of the table that a run has under another name.
_NAMES = {"publish_points": "points", "slop": "slop_s"}


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def _with_the_tables(cls: type[RunOptions]) -> type[RunOptions]:
    """Add what the table of options has beside the declared fields, so that a run takes all that a node does."""
    for option in _table().values():
        if _NAMES.get(option.name, option.name) not in cls.__annotations__:
            cls.__annotations__[option.name] = type(option.default)
            setattr(cls, option.name, option.default)
    return dataclass(frozen=True)(cls)


def _table() -> dict[str, ParameterSpec]:
    return on_command_line(GEOMETRY, MASKS, STEREO, STEREO_RECTIFIED, ODOMETRY, REFERENCE)


@_with_the_tables
class RunOptions:
    """What a run does; the same options on the same recording give the same file.

    Attributes:
        mode: ``temporal``, ``stereo`` or ``reference``.
        pairing: which earlier image, in temporal mode.
        sync: which left and right images are a pair, in stereo mode: ``approximate``, those nearest in time; ``exact``,
            those of equal stamps.
        slop_s: largest difference between their stamps in seconds, with ``approximate``; 0 for three quarters of the
            frame period.
        queue_size: images of each side that wait for their partner, in stereo mode.
        rotation: how images may be turned against the stored ones (mode reference): ``upright``, ``quarter``, ``any``.
        geometry: ``None``, ``"homography"``, ``"fundamental"`` or ``"essential"``; the last needs calibrated cameras.
        geometry_threshold: largest distance of an inlier from the model, in pixels.
        geometry_backend: what estimates the model, ``"magsac"`` (OpenCV's MAGSAC++) or ``"poselib"`` (LO-RANSAC).
        mask: image files that are zero where keypoints are not wanted: none, one for all streams, or one for each.
        rectified: the images are rectified: the calibration's ``P`` holds for them, and nothing distorts.
        epipolar_band: of rectified stereo images, match only keypoints whose rows differ by at most this many pixels; 0
            for no such limit.
        points: write the matches of rectified stereo images as points in space, where their calibration is known.
        min_disparity: matches of a smaller disparity, in pixels, become no points.
        odometry: follow the camera (mode stereo, rectified; or mode temporal, with depth): poses in the output, and as
            TUM and KITTI text beside it.
        depth_units: values per metre of 16-bit depth.
        odom_frame, base_frame, mount: frames of the poses, as the node has them.
        color_points: give these points the colour of the left image.
        descriptors: write descriptors as well; they are large.
        descriptor_dtype: their number format, ``float32`` or ``float16``.
        images: ``"jpeg"`` to write the images beside the results, or ``"none"``.
        jpeg_quality: 1 to 100.
        namespace: put before all topics, as a node's namespace is.
    """

    mode: str = "temporal"
    pairing: TemporalPairing = field(default_factory=TemporalPairing)
    sync: str = "approximate"
    slop_s: float = 0.0
    queue_size: int = 10
    rotation: str = "upright"
    geometry: str | None = None
    geometry_threshold: float = 2.0
    geometry_backend: str = "magsac"
    mask: tuple[str, ...] = ()
    rectified: bool = False
    epipolar_band: float = 2.0
    points: bool = True
    min_disparity: float = 1.0
    color_points: bool = False
    odometry: bool = False
    depth_units: float = 1000.0
    odom_frame: str = "odom"
    base_frame: str = ""
    mount: str = ""
    descriptors: bool = False
    descriptor_dtype: str = "float32"
    images: str = "jpeg"
    jpeg_quality: int = 90
    namespace: str = ""

    def __post_init__(self) -> None:
        for option in _table().values():
            value = getattr(self, _NAMES.get(option.name, option.name))
            if option.name not in _CHECKED_HERE and (reason := option.refusal(option.coerced(value))):
                raise ConfigError(reason)
        if not _is_namespace(self.namespace):
            raise ConfigError(
                f"namespace {self.namespace!r} is none: parts are of letters, digits and _, no digit first, as in "
                "robot/front"
            )
        if self.mode not in MODES:
            raise ConfigError(f"unknown mode {self.mode!r}; use one of {', '.join(MODES)}")
        slop_of(self.sync, self.slop_s)
        turns_of(self.rotation)
        if self.geometry not in (None, "homography", "fundamental", "essential"):
            raise ConfigError(f"unknown geometry {self.geometry!r}; use homography, fundamental, essential or None")
        if self.odometry and self.mode == "reference":
            raise ConfigError("--odometry is for --mode temporal (with depth) and --mode stereo")
        if not (math.isfinite(self.depth_units) and self.depth_units > 0):
            raise ConfigError(f"depth_units must be a positive number of values per metre, got {self.depth_units}")
        if self.geometry == "essential" and self.mode == "reference":
            raise ConfigError("geometry 'essential' needs the calibration of both cameras; stored images have none")
        if self.geometry_backend not in GEOMETRY_BACKENDS:
            raise ConfigError(
                f"unknown geometry_backend {self.geometry_backend!r}; use one of {', '.join(GEOMETRY_BACKENDS)}"
            )
        if not self.epipolar_band >= 0:
            raise ConfigError(f"epipolar_band must be 0 or more pixels, got {self.epipolar_band}")
        if not self.min_disparity > 0:
            raise ConfigError(f"min_disparity must be above 0 pixels, got {self.min_disparity}")
        if self.images not in IMAGE_CHOICES:
            raise ConfigError(f"unknown choice of images {self.images!r}; use one of {', '.join(IMAGE_CHOICES)}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality must be from 1 to 100, got {self.jpeg_quality}")
