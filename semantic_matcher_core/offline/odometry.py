"""The way of a camera through a recording, as the node's ``~/odometry`` has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.trajectory import write_kitti, write_tum
from semantic_matcher_core.motion.frames import of_base, of_camera, parse_mount
from semantic_matcher_core.motion.odometry import Odometry, OdometryStatus
from semantic_matcher_core.motion.pose import Pose, chained_covariance
from semantic_matcher_core.motion.view import View, depth_view
from semantic_matcher_core.streams import view_of_pair

if TYPE_CHECKING:
    from semantic_matcher_core.motion.pairs import PairMatcher
    from semantic_matcher_core.offline.calibration import Calibrations
    from semantic_matcher_core.offline.options import RunOptions
    from semantic_matcher_core.streams import Frame, MatchedPair


# Metres that reconstruction may move a camera by, however well odometry knows it.
_LEAST_PRIOR_STD = 0.001


@dataclass(frozen=True, eq=False)
class Placed:
    """Where the camera, or the base that carries it, was at one image.

    Attributes:
        stamp_ns: of the image.
        frame, child: names of the frames, as nav_msgs/Odometry has them.
        pose, covariance: of ``child`` in ``frame``.
        optical: pose of the camera's optical frame in that of the first image.
        camera: pose of the camera's optical frame in ``frame``.
        camera_covariance: ``6 x 6`` of it.
        tied: to the first image; the poses of later segments are not.
    """

    stamp_ns: int
    frame: str
    child: str
    pose: Pose
    covariance: np.ndarray
    optical: Pose
    camera: Pose
    camera_covariance: np.ndarray
    tied: bool = True

    @property
    def prior(self) -> dict[str, Any]:
        """Where the camera was, as reconstruction takes it: ``position`` and ``covariance``; empty where untied."""
        if not self.tied:
            return {}
        # The first image is where the map begins: it is known, but not so well that nothing may move.
        spread = self.camera_covariance[:3, :3] + _LEAST_PRIOR_STD**2 * np.eye(3)
        return {"position": self.camera.translation.tolist(), "covariance": spread.tolist()}


@dataclass
class RecordedOdometry:
    """Follows the camera of a recording: the left one of a rectified pair, or one with depth.

    Args:
        matcher: matches frames with frames (without the band that holds between left and right).
        options: of the run.
        calibrations: of the streams.
        streams: names of left and right, or of the one camera.

    Raises:
        ConfigError: options that contradict each other.
    """

    matcher: PairMatcher
    options: RunOptions
    calibrations: Calibrations
    streams: tuple[str, ...]
    way: list[Placed] = field(default_factory=list)
    lost: int = 0
    segments: int = 0

    def __post_init__(self) -> None:
        if self.options.mode == "stereo" and not self.options.rectified:
            raise ConfigError("--odometry needs rectified images: give --rectified where they are")
        if bool(self.options.mount) != bool(self.options.base_frame):
            raise ConfigError("--base-frame and --mount belong together: a frame, and where the camera is in it")
        self._mount = parse_mount(self.options.mount) if self.options.mount else None
        self._odometry = Odometry(self.matcher)

    def of_pair(self, pair: MatchedPair) -> Placed | None:
        """Return where the left camera was at a pair; ``None`` where that is not known."""
        frames = pair.reference, pair.current
        left, right = (
            self.calibrations.projection(stream, frame.features.image_size)
            for stream, frame in zip(self.streams, frames, strict=True)
        )
        view = view_of_pair(pair, left, right, self.options.epipolar_band or self.options.geometry_threshold)
        return self._follow(view, pair.reference.tag.frame_id)

    def of_frame(self, frame: Frame, depth: np.ndarray) -> Placed | None:
        """Return where the camera was that took a frame and its depth; ``None`` where that is not known.

        Raises:
            ImageError: the depth is of other proportions than the image.
        """
        camera = self.calibrations.camera(self.streams[0], frame.features.image_size, self.options.rectified)
        scale = 1 / self.options.depth_units if depth.dtype.kind == "u" else None
        view = depth_view(frame.features, depth, camera, image=frame.image, scale=scale, stamp=frame.stamp)
        return self._follow(view, frame.tag.frame_id)

    def _follow(self, view: View, frame_id: str) -> Placed | None:
        step = self._odometry.process(view)
        self.segments = max(self.segments, step.segment + 1 if step.pose is not None else 0)
        if step.pose is None or step.covariance is None:
            self.lost += 1
            return None
        if self._mount is None:
            child, (pose, covariance) = frame_id, of_camera(step.pose, step.covariance)
        else:
            child, (pose, covariance) = self.options.base_frame, of_base(step.pose, step.covariance, self._mount)
        if step.status is OdometryStatus.STARTED and step.segment > 0:
            covariance = np.eye(6) * UNTIED
        mount = self._mount or Pose()
        placed = Placed(
            view.stamp,
            self.options.odom_frame,
            child,
            pose,
            covariance,
            step.pose,
            pose @ mount,
            chained_covariance(pose, covariance, mount, np.zeros((6, 6))),
            tied=step.segment == 0,
        )
        self.way.append(placed)
        return placed

    def write(self, output: Path) -> list[Path]:
        """Write ``OUT.tum.txt`` and ``OUT.kitti.txt`` beside a run's output: poses of ``child`` in ``frame``."""
        tum, kitti = output.with_suffix(".tum.txt"), output.with_suffix(".kitti.txt")
        rows = [np.concatenate([placed.pose.translation, placed.pose.quaternion]) for placed in self.way]
        write_tum(tum, [placed.stamp_ns for placed in self.way], rows)
        # KITTI's poses are of the optical frame.
        write_kitti(kitti, [placed.optical.matrix for placed in self.way])
        return [tum, kitti]

    def summary(self) -> str:
        """Return what came of it, in a sentence."""
        points = np.array([placed.optical.translation for placed in self.way]).reshape(-1, 3)
        length = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
        text = f"odometry: {len(self.way)} poses over {length:.2f} m"
        if self.lost:
            text += f", lost at {self.lost} images"
        if self.segments > 1:
            text += f", begun anew {self.segments - 1} times (what follows is not tied to what was before)"
        return text


UNTIED = 9999.0
"""Variance of a pose that nothing ties to the one before, as RTAB-Map has it."""


def odometry_message(placed: Placed, header: Any) -> Any:
    """Make a nav_msgs/Odometry; its twist is not known."""
    from semantic_matcher_core.io.messages import typestore

    types = typestore().types
    vector, zero = types["geometry_msgs/msg/Vector3"], np.zeros(36)
    x, y, z, w = placed.pose.quaternion
    pose = types["geometry_msgs/msg/Pose"](
        position=types["geometry_msgs/msg/Point"](*map(float, placed.pose.translation)),
        orientation=types["geometry_msgs/msg/Quaternion"](x=float(x), y=float(y), z=float(z), w=float(w)),
    )
    still = types["geometry_msgs/msg/Twist"](linear=vector(0.0, 0.0, 0.0), angular=vector(0.0, 0.0, 0.0))
    unknown = zero.copy()
    unknown[::7] = UNTIED
    return types["nav_msgs/msg/Odometry"](
        header=header,
        child_frame_id=placed.child,
        pose=types["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=placed.covariance.reshape(-1)),
        twist=types["geometry_msgs/msg/TwistWithCovariance"](twist=still, covariance=unknown),
    )
