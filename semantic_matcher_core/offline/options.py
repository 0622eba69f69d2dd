"""What a run does."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from typing_extensions import dataclass_transform

from semantic_matcher_core.errors import ConfigError, check_choice
from semantic_matcher_core.options import (
    DESCRIPTORS,
    GEOMETRY,
    MASKS,
    ODOMETRY,
    REFERENCE,
    STEREO,
    STEREO_RECTIFIED,
    ParameterSpec,
    on_command_line,
)
from semantic_matcher_core.settings import turns_of
from semantic_matcher_core.streams import TemporalPairing, slop_of

MODES = ("temporal", "stereo", "reference")
IMAGE_CHOICES = ("jpeg", "none")
# Options whose own error says more than the table can.
_CHECKED_HERE = {"geometry_threshold", "slop", "sync", "rotation", "mask"}
# Below it, topics have names that ROS takes.
_NAMESPACE = r"/?([A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*)?/?"
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
    return on_command_line(GEOMETRY, MASKS, STEREO, STEREO_RECTIFIED, ODOMETRY, REFERENCE, DESCRIPTORS)


@_with_the_tables
class RunOptions:
    """What a run does; the same options on the same recording give the same file.

    Attributes:
        mode: ``temporal``, ``stereo`` or ``reference``.
        pairing: which earlier image, in temporal mode.
        slop_s, points: ``slop`` and ``publish_points`` of :mod:`semantic_matcher_core.options`, which describes all
            that are not named here.
        geometry: ``None``, ``"homography"``, ``"fundamental"`` or ``"essential"``; the last needs calibrated cameras.
        mask: image files that are zero where keypoints are not wanted: none, one for all streams, or one for each.
        rectified: the images are rectified: the calibration's ``P`` holds for them, and nothing distorts.
        odometry: follow the camera (mode stereo, rectified; or mode temporal, with depth): poses in the output, and as
            TUM and KITTI text beside it.
        depth_units: values per metre of 16-bit depth.
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
        if not re.fullmatch(_NAMESPACE, self.namespace):
            raise ConfigError(
                f"namespace {self.namespace!r} is none: parts are of letters, digits and _, no digit first, as in "
                "robot/front"
            )
        check_choice("mode", self.mode, MODES)
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
        check_choice("choice of images", self.images, IMAGE_CHOICES)
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality must be from 1 to 100, got {self.jpeg_quality}")
