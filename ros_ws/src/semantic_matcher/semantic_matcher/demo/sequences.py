"""The two synthetic sequences of the demo: a robot's camera, and its stereo pair, on the way through a hall.

The photograph beside this file, which hangs on the hall's walls, is the portrait of Rear Admiral Grace Hopper (James S. Davis, U.S. Navy, 1984; public
domain). No ROS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from semantic_matcher.demo.hall import hall
from semantic_matcher.demo.scenes import Camera, Scene, pinhole, render, rotation
from semantic_matcher_core.io.images import read_image

PHOTO = Path(__file__).with_name("grace_hopper.jpg")
SIZE = (480, 640)
FOCAL = 520.0
BASELINE = 0.12
"""Metres between the left and the right camera."""
NOISE = 2.0
"""Standard deviation of the cameras' noise, grey levels."""

FRAMES_PER_RADIAN = 7.0
"""How slowly the cameras move: frames per radian of a curve of frequency 1."""

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
        """Return what each camera sees at frame ``index``: ``480 x 640 x 3`` uint8 RGB, the same on every call."""
        common = 1.0 + 0.08 * math.sin(1.3 * index / FRAMES_PER_RADIAN)
        return [
            render(self.scene, camera, exposure=common * own, noise=NOISE, seed=len(self.exposures) * index + number)
            for number, (camera, own) in enumerate(zip(self.cameras(index), self.exposures, strict=True))
        ]


@lru_cache(maxsize=1)
def photo() -> np.ndarray:
    """Return the photograph.

    Raises:
        ImageError: the package was installed without it.
    """
    return read_image(PHOTO)


@lru_cache(maxsize=1)
def _hall() -> Scene:
    return hall(photo())


@lru_cache(maxsize=1)
def temporal() -> Sequence:
    """Make the sequence of one camera that drives through the hall and back, looking about."""
    return Sequence("temporal", _hall(), _temporal_cameras, (1.0,))


@lru_cache(maxsize=1)
def stereo() -> Sequence:
    """Make the sequence of a rectified pair that drives through the hall and back."""
    # Two sensors: their exposures differ a little.
    return Sequence("stereo", _hall(), _stereo_cameras, (1.0, 0.97))


def _driving(index: int, swing: float) -> Camera:
    """Return a camera on its way; ``swing`` is how far it looks to either side, degrees."""
    phase = index / FRAMES_PER_RADIAN
    # Wheels on tiles: it nods and rolls a little.
    turn = rotation(
        pitch=0.8 * math.sin(2.3 * phase), yaw=swing * math.sin(0.9 * phase + 0.4), roll=0.8 * math.sin(1.7 * phase)
    )
    centre = (0.12 * math.sin(0.7 * phase), 0.01 * math.sin(2.9 * phase), 0.6 - 0.6 * math.cos(0.6 * phase))
    return Camera(pinhole(FOCAL, SIZE), SIZE, turn, np.array(centre))


def _temporal_cameras(index: int) -> tuple[Camera]:
    return (_driving(index, 4.0),)


def _stereo_cameras(index: int) -> tuple[Camera, Camera]:
    middle = _driving(index, 2.5)
    return middle.moved((-BASELINE / 2, 0.0, 0.0)), middle.moved((BASELINE / 2, 0.0, 0.0))
