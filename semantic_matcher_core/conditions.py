"""Which options have no effect unless others have one: of nodes, command line and offline runs. Imports no torch.

What no value of another option could justify is refused where it is read; what merely does nothing for now, and often
stands in a script or a parameter file for the day it will, is said with the names of both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Condition:
    """What some options need, to have an effect.

    Attributes:
        options: their names.
        any_of: other options, and for each the values of which it must have one; an empty tuple for any but nothing.
            The condition is one where the first of them is an option at all.
    """

    options: tuple[str, ...]
    any_of: tuple[tuple[str, tuple[Any, ...]], ...]

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Return whether its options have an effect, or it says nothing of these."""
        if self.any_of[0][0] not in values:
            return True
        return any(
            values[name] in wanted if wanted else bool(values[name]) for name, wanted in self.any_of if name in values
        )


def _when(options: str, **any_of: tuple[Any, ...]) -> Condition:
    return Condition(tuple(options.split()), tuple(any_of.items()))


OFF = frozenset((None, "", False))
_CHECKED = ("homography", "fundamental", "essential")
CONDITIONS = (
    _when("reference_policy every_nth min_inlier_share min_overlap", mode=("temporal",)),
    _when("every_nth", reference_policy=("every_nth",)),
    _when("min_inlier_share min_overlap", reference_policy=("keyframe",)),
    _when("sync slop epipolar_band min_disparity publish_points color_points", mode=("stereo",)),
    _when("rotation", mode=("reference",)),
    _when("epipolar_band min_disparity publish_points color_points", rectified=()),
    _when("min_disparity color_points", publish_points=()),
    _when("rectified", mode=("stereo",), geometry=("essential",), odometry=(), colmap=()),
    _when("calibration", rectified=(), geometry=("essential",), odometry=(), colmap=()),
    # Files for other tools are checked by it as well.
    _when("geometry_backend", geometry=_CHECKED, colmap=(), hdf5=()),
    # Without a band it says which rows of a rectified pair are the same.
    _when("geometry_threshold", geometry=_CHECKED, colmap=(), hdf5=(), rectified=()),
    _when("odom_frame base_frame mount publish_tf depth_units", odometry=()),
    _when("mount", base_frame=()),
    _when("publish_tf", reference_width=()),
    _when("descriptor_dtype", descriptors=()),
    _when("pair_window", colmap=(), hdf5=()),
    _when("pair_window", pairs=("window", None)),
    _when("fps", stamps_from_names=tuple(OFF)),
    _when("max_lines theme", output=()),
    _when("view", point=tuple(OFF)),
    _when("debug_max_matches debug_height", publish_debug_image=()),
    _when("debug_jpeg_quality", publish_debug_image=(), publish_rectified=()),
)


def without_effect(values: Mapping[str, Any], given: Collection[str]) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Return the options that do nothing, and what each would need: of which option which values (none for any).

    Args:
        values: all options, by name.
        given: the names of those that somebody set.
    """
    found: dict[str, dict[str, tuple[Any, ...]]] = {}
    for condition in CONDITIONS:
        if not condition.applies(values):
            wanted = {name: of for name, of in condition.any_of if name in values}
            found |= {name: wanted for name in condition.options if name in given and name not in found}
    return found
