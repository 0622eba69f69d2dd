"""From the optical frame of a camera to the frames of a robot (REP-103, REP-105)."""

from __future__ import annotations

import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.motion.pose import Pose, chained_covariance, exp_so3

# A body frame is x forward, y left, z up; the optical frame of a camera that looks ahead is turned so in it.
AHEAD = Pose(np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]))


def parse_mount(text: str) -> Pose:
    """Read where a camera's optical frame is in its base's: ``"x y z roll pitch yaw"``, metres and radians.

    Angles are about fixed axes, as in URDF: first roll about x, then pitch about y, then yaw about z.

    Raises:
        ConfigError: not six finite numbers.
    """
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not np.isfinite(numbers).all():
        raise ConfigError(f"a mount is six numbers, x y z in metres and roll pitch yaw in radians; got {text!r}")
    roll, pitch, yaw = (exp_so3(angle * axis) for angle, axis in zip(numbers[3:], np.eye(3), strict=True))
    return Pose(yaw @ pitch @ roll, np.array(numbers[:3]))


def of_base(pose: Pose, covariance: np.ndarray, mount: Pose) -> tuple[Pose, np.ndarray]:
    """Turn a camera's pose since its start into that of the base it is mounted on.

    Args:
        pose: of the optical frame, in the optical frame of the start.
        covariance: its ``6 x 6``.
        mount: pose of the optical frame in the base's.

    Returns:
        Pose of the base in the base's frame of the start, and its covariance.
    """
    nothing = np.zeros((6, 6))
    turned = mount @ pose
    spread = chained_covariance(mount, nothing, pose, covariance)
    back = mount.inverse()
    return turned @ back, chained_covariance(turned, spread, back, nothing)


def of_camera(pose: Pose, covariance: np.ndarray) -> tuple[Pose, np.ndarray]:
    """Turn a camera's pose since its start into one whose parent frame is x forward, y left, z up at the start."""
    return AHEAD @ pose, chained_covariance(AHEAD, np.zeros((6, 6)), pose, covariance)


class StaticTree:
    """Fixed transforms, put together as they come."""

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, Pose]] = {}

    def add(self, parent: str, child: str, pose: Pose) -> None:
        """Note the pose of ``child`` in ``parent``; a later one replaces it."""
        self._parents[child.lstrip("/")] = (parent.lstrip("/"), pose)

    def pose(self, target: str, source: str) -> Pose | None:
        """Return the pose of ``source`` in ``target``, or ``None`` where nothing fixed joins them."""
        up, down = self._ways_up(source.lstrip("/")), self._ways_up(target.lstrip("/"))
        for frame, to_frame in up.items():
            if frame in down:
                return down[frame].inverse() @ to_frame
        return None

    def root(self, frame: str) -> str:
        """Return the frame that carries ``frame``, over all fixed transforms; ``frame`` itself where none does."""
        return list(self._ways_up(frame.lstrip("/")))[-1]

    def _ways_up(self, frame: str) -> dict[str, Pose]:
        ways = {frame: Pose()}
        pose = Pose()
        while frame in self._parents and self._parents[frame][0] not in ways:
            frame, step = self._parents[frame]
            pose = step @ pose
            ways[frame] = pose
        return ways
