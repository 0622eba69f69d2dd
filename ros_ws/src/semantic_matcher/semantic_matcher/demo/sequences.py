"""The two synthetic sequences of the demo: a moving camera before a picture, and a moving stereo rig before a relief.

The photograph beside this file is the portrait of Rear Admiral Grace Hopper (James S. Davis, U.S. Navy, 1984; public
domain). No ROS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from semantic_matcher.demo.scenes import (
    Camera,
    Layer,
    Scene,
    fill_from_nearest,
    load_photo,
    pinhole,
    polygon_mask,
    render,
    rotation,
)

PHOTO = Path(__file__).with_name("grace_hopper.jpg")
SIZE = (480, 640)
FOCAL = 900.0
BASELINE = 0.08
"""Metres between the left and the right camera."""
NOISE = 2.0
"""Standard deviation of the cameras' noise, grey levels."""

FRAMES_PER_RADIAN = 7.0
"""How slowly the cameras move: frames per radian of a curve of frequency 1."""

_PHOTO_FOCAL = 600.0
_FACING = (0.0, 0.0, 1.0)
# Outlines in pixels of the photograph (512 x 600). The head goes on below the collar, where the uniform hides it.
_HEAD = np.array(
    [
        [178, 220, 285, 345, 372, 370, 377, 368, 345, 332, 330, 205, 200, 170, 153, 146, 174],
        [52, 26, 26, 60, 100, 170, 200, 250, 300, 322, 400, 400, 322, 275, 215, 120, 82],
    ]
).T
_UNIFORM = np.array(
    [
        [203, 258, 330, 400, 480, 500, 511, 511, 12, 28, 48, 130],
        [322, 352, 322, 350, 385, 410, 470, 599, 599, 440, 392, 352],
    ]
).T


@dataclass(frozen=True)
class Sequence:
    """A scene and the cameras that move before it.

    Attributes:
        name: what it is for.
        scene: what the cameras see.
        cameras: the cameras at frame i: one, or left and right.
        exposures: of each camera, a factor that comes on top of the slow change common to all.
    """

    name: str
    scene: Scene
    cameras: Callable[[int], tuple[Camera, ...]]
    exposures: tuple[float, ...]

    def images(self, index: int) -> list[np.ndarray]:
        """What each camera sees at frame ``index``: ``480 x 640 x 3`` uint8 RGB, the same on every call."""
        common = 1.0 + 0.08 * math.sin(1.3 * index / FRAMES_PER_RADIAN)
        return [
            render(self.scene, camera, exposure=common * own, noise=NOISE, seed=len(self.exposures) * index + number)
            for number, (camera, own) in enumerate(zip(self.cameras(index), self.exposures, strict=True))
        ]


@lru_cache(maxsize=1)
def photo() -> np.ndarray:
    """The photograph.

    Raises:
        FileNotFoundError: the package was installed without it.
    """
    return load_photo(PHOTO)


@lru_cache(maxsize=1)
def temporal() -> Sequence:
    """One camera wanders, rolls, tilts and comes closer before the whole photograph on one plane, 2 m away."""
    scene = Scene(pinhole(_PHOTO_FOCAL, photo().shape[:2]), (Layer(_FACING, 2.0, photo()),))
    return Sequence("temporal", scene, _temporal_cameras, (1.0,))


@lru_cache(maxsize=1)
def stereo() -> Sequence:
    """A rectified pair moves before three planes: slanted wall (3.4 m away), head (2.2 m), uniform (1.9 m)."""
    size = photo().shape[:2]
    head, uniform = polygon_mask(size, _HEAD), polygon_mask(size, _UNIFORM)
    layers = (
        Layer((0.2, 0.0, 0.98), 3.3, fill_from_nearest(photo(), head | uniform)),
        Layer(_FACING, 2.2, fill_from_nearest(photo(), uniform), head),
        Layer((0.0, 0.3, 0.95), 1.95, photo(), uniform),
    )
    # Two sensors: their exposures differ a little.
    return Sequence("stereo", Scene(pinhole(_PHOTO_FOCAL, size), layers), _stereo_cameras, (1.0, 0.97))


def _temporal_cameras(index: int) -> tuple[Camera]:
    phase = index / FRAMES_PER_RADIAN
    turn = rotation(
        pitch=2.0 * math.sin(1.1 * phase), yaw=2.0 * math.sin(0.8 * phase + 1.0), roll=8.0 * math.sin(0.9 * phase)
    )
    centre = (0.06 * math.sin(0.7 * phase), -0.05 - 0.3 * math.cos(0.6 * phase), 0.3 - 0.15 * math.cos(0.8 * phase))
    return (Camera(pinhole(FOCAL, SIZE), SIZE, turn, np.array(centre)),)


def _stereo_cameras(index: int) -> tuple[Camera, Camera]:
    phase = index / FRAMES_PER_RADIAN
    # Turning alone shows nothing that is hidden in the photograph, so the centre stays near the reference camera's.
    turn = rotation(
        pitch=-2.0 - 4.0 * math.cos(0.7 * phase), yaw=1.5 * math.sin(0.7 * phase), roll=3.0 * math.sin(0.8 * phase)
    )
    centre = (0.02 * math.sin(0.8 * phase), 0.03 * math.cos(0.6 * phase), 0.05 - 0.05 * math.cos(0.5 * phase))
    middle = Camera(pinhole(FOCAL, SIZE), SIZE, turn, np.array(centre))
    return middle.moved((-BASELINE / 2, 0.0, 0.0)), middle.moved((BASELINE / 2, 0.0, 0.0))
