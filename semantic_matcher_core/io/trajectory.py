"""Trajectories: the text formats of TUM and KITTI, and poses recorded in bags."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.atomic import atomic_output
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.messages import stamp_of

_POSES = (
    "nav_msgs/msg/Odometry",
    "geometry_msgs/msg/PoseStamped",
    "geometry_msgs/msg/PoseWithCovarianceStamped",
    "geometry_msgs/msg/TransformStamped",
)


def write_tum(path: Path, stamps_ns: Iterable[int], poses: Iterable[np.ndarray]) -> None:
    """Write ``stamp tx ty tz qx qy qz qw`` a line, stamps in seconds (TUM RGB-D benchmark; evo, RTAB-Map read it).

    Args:
        path: file to write; it appears when it is complete.
        stamps_ns: nanoseconds.
        poses: ``7`` numbers each, tx ty tz qx qy qz qw.
    """
    lines = [
        f"{stamp // 10**9}.{stamp % 10**9:09d} " + " ".join(f"{value:.9f}" for value in pose)
        for stamp, pose in zip(stamps_ns, poses, strict=True)
    ]
    _write(path, lines)


def write_kitti(path: Path, matrices: Iterable[np.ndarray]) -> None:
    """Write the twelve numbers of a ``3 x 4`` matrix a line, row by row (KITTI odometry benchmark).

    Args:
        path: file to write; it appears when it is complete.
        matrices: ``4 x 4`` or ``3 x 4`` camera-to-world each.
    """
    _write(path, [" ".join(f"{value:.9e}" for value in np.asarray(matrix)[:3].reshape(-1)) for matrix in matrices])


def read_tum(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a TUM trajectory: ``N`` int64 stamps in nanoseconds and ``N x 7`` poses tx ty tz qx qy qz qw.

    Raises:
        ConfigError: not readable, or a line that has not eight numbers.
    """
    stamps, poses = [], []
    for number, line in _lines(path):
        words = line.replace(",", " ").split()
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) != 8 or not np.isfinite(values).all():
            raise ConfigError(f"{path}:{number}: expected `stamp tx ty tz qx qy qz qw`, got {line[:60]!r}")
        # Through the text: a float has too few digits for nanoseconds.
        whole, _, fraction = words[0].partition(".")
        exact = whole.isdigit() and (fraction.isdigit() or not fraction)
        stamps.append(int(whole) * 10**9 + int((fraction + "0" * 9)[:9]) if exact else round(values[0] * 1e9))
        poses.append(values[1:])
    return np.array(stamps, np.int64), np.array(poses, np.float64).reshape(-1, 7)


def read_trajectory(path: Path, topic: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Read a trajectory from a TUM text file, or from a bag's topic of poses.

    Args:
        path: the file, or a bag.
        topic: of nav_msgs/Odometry, or geometry_msgs PoseStamped, PoseWithCovarianceStamped or TransformStamped; empty
            for the bag's only one of these.

    Returns:
        ``N`` int64 stamps in nanoseconds, in order, and ``N x 7`` poses tx ty tz qx qy qz qw.

    Raises:
        ConfigError: no such file, no trajectory in it, or a choice is needed.
        BagError: the bag cannot be read.
    """
    if not path.exists():
        raise ConfigError(f"no such trajectory: {path}")
    if path.is_file() and path.suffix.lower() not in (".mcap", ".db3", ".bag", ".zstd"):
        if topic:
            raise ConfigError(f"{path} is read as text (stamp tx ty tz qx qy qz qw), which has no topic {topic!r}")
        stamps, rows = read_tum(path)
    else:
        stamps, rows = _recorded(path, topic)
    if not len(stamps):
        raise ConfigError(f"{path} holds no pose")
    order = np.argsort(stamps, kind="stable")
    return stamps[order], rows[order]


def _recorded(path: Path, topic: str) -> tuple[np.ndarray, np.ndarray]:
    with BagReader(path) as bag:
        fitting = [t.name for t in bag.topics if t.msgtype in _POSES and t.count]
        chosen = [name for name in fitting if name.strip("/") == topic.strip("/")] if topic else fitting
        if len(chosen) != 1:
            what = f"no topic of poses {topic!r}" if topic else f"{len(fitting)} topics of poses, name one"
            raise ConfigError(f"{path} has {what}; of poses are: {', '.join(fitting) or 'none'}")
        stamps, rows = [], []
        for item in bag.messages(chosen):
            stamps.append(stamp_of(item.message.header))
            rows.append(pose_of(item.message))
    return np.array(stamps, np.int64), np.array(rows, np.float64).reshape(-1, 7)


def pose_of(message: Any) -> list[float]:
    """Read tx ty tz qx qy qz qw of a message of poses; see :func:`read_trajectory`."""
    pose = getattr(message, "transform", None) or message.pose
    # With a covariance, the pose is one deeper.
    pose = getattr(pose, "pose", pose)
    p = pose.translation if hasattr(pose, "translation") else pose.position
    q = pose.rotation if hasattr(pose, "rotation") else pose.orientation
    return [p.x, p.y, p.z, q.x, q.y, q.z, q.w]


def read_matrices(path: Path) -> np.ndarray:
    """Read ``N x 4 x 4`` camera-to-world matrices, 12 (KITTI) or 16 numbers a line.

    Raises:
        ConfigError: not readable, or a line of another length.
    """
    matrices = []
    for number, line in _lines(path):
        try:
            values = np.array([float(word) for word in line.split()])
        except ValueError:
            values = np.zeros(0)
        if len(values) not in (12, 16) or not np.isfinite(values).all():
            raise ConfigError(f"{path}:{number}: expected 12 or 16 numbers of a pose's matrix, got {line[:60]!r}")
        matrix = np.eye(4)
        matrix[: len(values) // 4] = values.reshape(-1, 4)
        matrices.append(matrix)
    return np.array(matrices).reshape(-1, 4, 4)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable trajectory: {error}") from error
    numbered = enumerate(text.splitlines(), 1)
    return [(number, line) for number, line in numbered if line.strip() and not line.lstrip().startswith("#")]


def _write(path: Path, lines: list[str]) -> None:
    with atomic_output(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
