"""As-rigid-as-possible deformation of a mesh towards points (Sorkine and Alexa, SGP 2007).

Minimised is ``sum_i sum_j w_ij |(p_i - p_j) - R_i (v_i - v_j)|² + weight sum_k rho(|A_k p - t_k|)`` over positions p
and rotations R, by turns: rotations by singular value decomposition, positions by one sparse linear system. Each turn
lowers the energy, and there is nothing to tune but the weight of the data. (Embedded deformation solves a non-linear
problem over a coarse graph instead, which pays for meshes much finer than ours.) The robust ``rho`` is Geman and
McClure's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from semantic_matcher_core.motion.pose import nearest_rotation

# Keeps what no point constrains, and what the weights leave almost loose, at the starting pose.
_ANCHOR = 1e-6


@dataclass(frozen=True, eq=False)
class Constraints:
    """Where points of a mesh should go.

    Attributes:
        attachment: ``M x V`` sparse; row k gives point k as a weighted mean of vertices.
        targets: ``M x 3``.
        scale: distance in metres beyond which a constraint loses its hold; infinite for none.
    """

    attachment: sparse.csr_matrix
    targets: np.ndarray
    scale: float = np.inf

    def residuals(self, positions: np.ndarray) -> np.ndarray:
        """Return ``M`` distances in metres."""
        return np.linalg.norm(self.attachment @ positions - self.targets, axis=1)

    def weights(self, positions: np.ndarray) -> np.ndarray:
        """Return ``M`` weights in (0, 1]."""
        if np.isinf(self.scale):
            return np.ones(len(self.targets))
        return np.square(1.0 / (1.0 + np.square(self.residuals(positions) / self.scale)))


class ArapSolver:
    """Deforms one mesh.

    Args:
        vertices: ``V x 3`` at rest; each must be in a face.
        faces: ``F x 3``.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.vertices = vertices
        self.first, self.second, self.weight = _edges(vertices, faces)
        count = len(vertices)
        adjacency = sparse.csr_matrix((self.weight, (self.first, self.second)), shape=(count, count))
        self.laplacian = (sparse.diags(np.asarray(adjacency.sum(axis=1)).ravel()) - adjacency).tocsc()
        self.rest = vertices[self.first] - vertices[self.second]

    def step(self, positions: np.ndarray, constraints: list[Constraints], weight: float) -> np.ndarray:
        """Take one turn: ``V x 3`` positions to better ones."""
        rotations = self._rotations(positions)
        pulled = 0.5 * self.weight[:, None] * _apply(rotations[self.first] + rotations[self.second], self.rest)
        right = np.zeros_like(positions)
        np.add.at(right, self.first, pulled)
        system = self.laplacian + _ANCHOR * sparse.identity(len(positions), format="csc")
        right += _ANCHOR * positions
        for constraint in constraints:
            hold = sparse.diags(weight * constraint.weights(positions))
            held = constraint.attachment.T @ hold
            system = system + held @ constraint.attachment
            right += held @ constraint.targets
        return splu(system.tocsc()).solve(right)

    def energy(self, positions: np.ndarray) -> float:
        """Return how far the deformation is from rigid, everywhere: the first sum, 0 for a rigid motion; square
        metres.
        """
        rotations = self._rotations(positions)
        differences = positions[self.first] - positions[self.second] - _apply(rotations[self.first], self.rest)
        return float((self.weight * np.square(differences).sum(axis=1)).sum())

    def _rotations(self, positions: np.ndarray) -> np.ndarray:
        moved = positions[self.first] - positions[self.second]
        covariance = np.zeros((len(positions), 3, 3))
        np.add.at(covariance, self.first, self.weight[:, None, None] * moved[:, :, None] * self.rest[:, None, :])
        return nearest_rotation(covariance)


def _apply(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.einsum("eij,ej->ei", matrices, vectors)


def _edges(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return directed edges and their cotangent weights, each at least a hundredth so that none pushes apart."""
    first, second, cotangent = [], [], []
    for corner in range(3):
        apex, a, b = (faces[:, (corner + k) % 3] for k in range(3))
        to_a, to_b = vertices[a] - vertices[apex], vertices[b] - vertices[apex]
        area = np.linalg.norm(np.cross(to_a, to_b), axis=1)
        half = 0.5 * (to_a * to_b).sum(axis=1) / np.maximum(area, 1e-12)
        first += [a, b]
        second += [b, a]
        cotangent += [half, half]
    count = len(vertices)
    joined = sparse.coo_matrix(
        (np.concatenate(cotangent), (np.concatenate(first), np.concatenate(second))), shape=(count, count)
    ).tocsr()
    joined.sum_duplicates()
    entries = joined.tocoo()
    return entries.row.astype(np.int64), entries.col.astype(np.int64), np.maximum(entries.data, 0.01)
