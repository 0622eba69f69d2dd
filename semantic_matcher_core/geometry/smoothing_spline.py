"""Smoothing splines through many points that bend at a few of them: as near the points, in a fraction of the time.

A smoothing spline through N points has N weights, but the more it smooths the fewer of them matter. Here it bends at T
of the points, well spread, and passes as near to all N as it can (Wood, "Thin plate regression splines", JRSS B 2003,
section 3.3): least squares with T unknowns instead of N equations.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.errors import ShapeError
from semantic_matcher_core.geometry.thin_plate import ThinPlateSpline, distinct_pairs, kernel, normalisation

# With these a spline is as far from known deformations as with all points: docs/performance.md has the figures.
_LEAST_CONTROL = 400


def fit_smoothing(source: Tensor, target: Tensor, regularisation: float) -> tuple[ThinPlateSpline, Tensor]:
    """Return the spline that takes ``source`` near ``target``, as :meth:`ThinPlateSpline.fit` does.

    It bends at 400 points, or more where less regularisation leaves it more freedom; with no more points than that it
    is the same spline.

    Args:
        source, target: ``N x 2`` pixels; repeated source points are merged to their mean target.
        regularisation: see :meth:`ThinPlateSpline.fit`; with 0 it bends at all points.

    Returns:
        The spline, and its distance in pixels from the targets, one for each distinct source point.

    Raises:
        ShapeError: fewer than three distinct points, or all on one line.
    """
    source, target = distinct_pairs(source, target)
    count = len(source)
    # What a smoothing spline can follow grows with the root of the points' number over the regularisation.
    wanted = max(_LEAST_CONTROL, math.sqrt(count / regularisation)) if regularisation > 0 else math.inf
    if count <= wanted:
        spline = ThinPlateSpline.fit(source, target, regularisation)
        return spline, (spline(source) - target).norm(dim=1)
    centre, scale = normalisation(source)
    points = (source - centre) / scale
    control = points[well_spread(points, int(wanted))]
    problem = SmoothingProblem(points, (target - source) / scale, control, regularisation)
    problem.choose(torch.ones(count, dtype=torch.bool, device=points.device))
    theta = problem.solve()
    return ThinPlateSpline(control, theta, centre, scale), problem.distances(theta) * scale


def well_spread(points: Tensor, count: int) -> Tensor:
    """Return indices of up to ``count`` distinct points of ``N x 2``, each as far as can be from those before.

    The first is the point furthest from the mean (Gonzalez, "Clustering to minimize the maximum intercluster distance",
    1985).
    """
    x, y = points.double().cpu().numpy().T.copy()
    chosen: list[int] = []
    squared = np.square(x - x.mean()) + np.square(y - y.mean())
    furthest = int(squared.argmax())
    squared = np.full(len(x), np.inf)
    while len(chosen) < count and squared[furthest] > 0:
        chosen.append(furthest)
        np.minimum(squared, np.square(x - x[furthest]) + np.square(y - y[furthest]), out=squared)
        furthest = int(squared.argmax())
    return torch.tensor(chosen, device=points.device)


class SmoothingProblem:
    """Splines near points of which now these, now those are chosen; what a change of choice leaves is kept.

    Minimised over splines that bend at the control points is the sum of squared distances at the chosen points and
    ``regularisation`` times the bending energy.

    Args:
        points: ``N x 2`` float64, normalised as a :class:`ThinPlateSpline`'s.
        target: ``N x 2`` displacements wanted there.
        control: ``T x 2`` distinct points.
        regularisation: above 0.
    """

    def __init__(self, points: Tensor, target: Tensor, control: Tensor, regularisation: float) -> None:
        count = len(control)
        self.target = target
        self.design = torch.cat([kernel(points, control), _affine(points)], dim=1)
        self._chosen = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        # Normal equations of weights and affine part, and below them that the weights hold no affine part.
        self._system = points.new_zeros(count + 6, count + 6)
        self._right = points.new_zeros(count + 6, 2)
        self._system[:count, :count] = regularisation * kernel(control, control)
        self._system[:count, count + 3 :] = _affine(control)
        self._system[count + 3 :, :count] = _affine(control).T

    def choose(self, chosen: Tensor) -> None:
        """Choose the points marked in ``N`` bool."""
        changed = (chosen != self._chosen).nonzero()[:, 0]
        rows = self.design[changed]
        signed = rows.T * (2.0 * chosen[changed].to(rows) - 1.0)
        self._system[:-3, :-3] += signed @ rows
        self._right[:-3] += signed @ self.target[changed]
        self._chosen = chosen.clone()

    def solve(self) -> Tensor:
        """Return the ``(T + 3) x 2`` parameters of the spline.

        Raises:
            ShapeError: the chosen points determine none, for instance on a line.
        """
        theta, info = torch.linalg.solve_ex(self._system, self._right)
        if int(info) != 0 or not bool(torch.isfinite(theta).all()):
            raise ShapeError("a thin-plate spline cannot be fitted: points coincide or all lie on one line")
        return theta[:-3]

    def distances(self, theta: Tensor) -> Tensor:
        """Return ``N`` distances of the spline from the targets of all points, chosen or not."""
        return (self.design @ theta - self.target).norm(dim=1)


def _affine(points: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(points[:, :1]), points], dim=1)
