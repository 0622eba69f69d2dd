"""Rigid poses, their small changes and their covariances; conventions as in :mod:`semantic_matcher_core.motion`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from semantic_matcher_core.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Pose:
    """Where a frame is in its parent's: ``X_parent = rotation @ X + translation``.

    Attributes:
        rotation: ``3 x 3`` float64, orthonormal, determinant 1.
        translation: ``3`` float64.

    Raises:
        ShapeError: other shapes, a matrix that is no rotation, or values that are not finite.
    """

    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    translation: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def __post_init__(self) -> None:
        rotation = np.array(self.rotation, dtype=np.float64)
        translation = np.array(self.translation, dtype=np.float64)
        if rotation.shape != (3, 3) or translation.shape != (3,):
            raise ShapeError(
                f"a pose is a 3 x 3 rotation and a translation of 3, got {rotation.shape}, {translation.shape}"
            )
        if not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
            raise ShapeError(f"a pose must be finite, got {rotation.tolist()}, {translation.tolist()}")
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-4 or np.linalg.det(rotation) < 0:
            raise ShapeError(f"not a rotation: {rotation.tolist()}")
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> Pose:
        """Take a ``4 x 4`` (or ``3 x 4``) homogeneous matrix apart."""
        matrix = np.asarray(matrix, dtype=np.float64)
        if matrix.shape not in ((4, 4), (3, 4)):
            raise ShapeError(f"a pose's matrix is 4 x 4 or 3 x 4, got {matrix.shape}")
        return cls(nearest_rotation(matrix[:3, :3]), matrix[:3, 3])

    @classmethod
    def from_quaternion(cls, quaternion: np.ndarray, translation: np.ndarray) -> Pose:
        """Make a pose of a quaternion (x, y, z, w), of any length but zero, and a translation.

        Raises:
            ShapeError: not four numbers, or all zero.
        """
        q = np.asarray(quaternion, dtype=np.float64)
        length = np.linalg.norm(q) if q.shape == (4,) else 0.0
        if not (np.isfinite(length) and length > 0):
            raise ShapeError(f"not a quaternion (x, y, z, w): {q.tolist()}")
        x, y, z, w = q / length
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        return cls(rotation, translation)

    @property
    def matrix(self) -> np.ndarray:
        """``4 x 4`` float64, homogeneous."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.rotation, self.translation
        return matrix

    @property
    def quaternion(self) -> np.ndarray:
        """``4`` float64 (x, y, z, w) of unit length, with w not negative."""
        r = self.rotation
        # The largest of the four components first: no division by a small number (Shepperd, 1978).
        squares = np.array(
            [
                1 + r[0, 0] - r[1, 1] - r[2, 2],
                1 - r[0, 0] + r[1, 1] - r[2, 2],
                1 - r[0, 0] - r[1, 1] + r[2, 2],
                1 + r[0, 0] + r[1, 1] + r[2, 2],
            ]
        )
        products = np.array(
            [
                [squares[0], r[1, 0] + r[0, 1], r[0, 2] + r[2, 0], r[2, 1] - r[1, 2]],
                [r[1, 0] + r[0, 1], squares[1], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
                [r[0, 2] + r[2, 0], r[2, 1] + r[1, 2], squares[2], r[1, 0] - r[0, 1]],
                [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], squares[3]],
            ]
        )
        q = products[squares.argmax()]
        return q / np.linalg.norm(q) * (1.0 if q[3] >= 0 else -1.0)

    def inverse(self) -> Pose:
        """Return the parent's pose in this frame."""
        return Pose(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: Pose) -> Pose:
        """Return the pose in this frame's parent of what has pose ``other`` in this frame."""
        # Back onto the rotations: products of thousands of matrices would leave them.
        return Pose(
            nearest_rotation(self.rotation @ other.rotation), self.rotation @ other.translation + self.translation
        )

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Return ``… x 3`` points of this frame, in the parent's."""
        return np.asarray(points, dtype=np.float64) @ self.rotation.T + self.translation

    def moved(self, change: np.ndarray) -> Pose:
        """Return the pose after a small change (δt, δθ) in the parent's frame."""
        return Pose(exp_so3(change[3:]) @ self.rotation, self.translation + change[:3])

    def change_to(self, other: Pose) -> np.ndarray:
        """Return the change (δt, δθ) that :meth:`moved` would need to arrive at ``other``."""
        return np.concatenate([other.translation - self.translation, log_so3(other.rotation @ self.rotation.T)])

    @property
    def angle(self) -> float:
        """How far it is turned, in radians, 0 to pi."""
        return float(np.linalg.norm(log_so3(self.rotation)))


def skew(vectors: np.ndarray) -> np.ndarray:
    """Return ``… x 3 x 3`` matrices [v]× with ``[v]× w = v × w``."""
    v = np.asarray(vectors, dtype=np.float64)
    out = np.zeros((*v.shape, 3))
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    return out - np.swapaxes(out, -1, -2)


def exp_so3(vector: np.ndarray) -> np.ndarray:
    """Return the ``3 x 3`` rotation by the angle ``|vector|`` about ``vector`` (Rodrigues)."""
    vector = np.asarray(vector, dtype=np.float64)
    angle = float(np.linalg.norm(vector))
    cross = skew(vector)
    if angle < 1e-8:
        return np.eye(3) + cross + cross @ cross / 2
    return np.eye(3) + np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * (cross @ cross)


def log_so3(rotation: np.ndarray) -> np.ndarray:
    """Return the vector of :func:`exp_so3`, of length up to pi."""
    x, y, z, w = Pose(rotation).quaternion
    vector, sine = np.array([x, y, z]), float(np.sqrt(x * x + y * y + z * z))
    return 2 * vector if sine < 1e-12 else 2 * np.arctan2(sine, w) / sine * vector


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """Return the rotation closest to each of ``… x 3 x 3`` matrices (Kabsch 1976).

    Raises:
        ShapeError: values that are not finite.
    """
    if not np.isfinite(matrix).all():
        raise ShapeError(f"not a rotation: {np.asarray(matrix).tolist()}")
    u, _, vt = np.linalg.svd(matrix)
    # A reflection is never meant: the axis that matters least is turned.
    u[..., :, 2] *= np.sign(np.linalg.det(u @ vt))[..., None]
    return u @ vt


def chained_covariance(
    first: Pose, first_covariance: np.ndarray, second: Pose, second_covariance: np.ndarray
) -> np.ndarray:
    """Compute the covariance of ``first @ second``, whose errors are independent of each other.

    Args:
        first, second: the poses.
        first_covariance, second_covariance: ``6 x 6``, each in its own parent's frame.

    Returns:
        ``6 x 6`` in the parent frame of ``first``.
    """
    through, turned = chaining(first, second)
    return through @ first_covariance @ through.T + turned @ second_covariance @ turned.T


def chaining(first: Pose, second: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Return what small changes of each do to ``first @ second``: two matrices ``6 x 6``."""
    through = np.eye(6)
    # An error in the first rotation swings the second translation about.
    through[:3, 3:] = -skew(first.rotation @ second.translation)
    turned = np.zeros((6, 6))
    turned[:3, :3] = turned[3:, 3:] = first.rotation
    return through, turned


def inverse_covariance(pose: Pose, covariance: np.ndarray) -> np.ndarray:
    """Compute the covariance of ``pose.inverse()``, ``6 x 6`` in its parent's frame."""
    # δ of the inverse: rotation -Rᵀ δθ, translation -Rᵀ (δt + [t]× δθ).
    jacobian = np.zeros((6, 6))
    jacobian[:3, :3] = jacobian[3:, 3:] = -pose.rotation.T
    jacobian[:3, 3:] = -pose.rotation.T @ skew(pose.translation)
    return jacobian @ covariance @ jacobian.T
