"""Smoothing splines that bend at a few points, against splines through all of them and a closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semantic_matcher_core.errors import ShapeError
from semantic_matcher_core.geometry.smoothing_spline import SmoothingProblem, fit_smoothing, well_spread
from semantic_matcher_core.geometry.thin_plate import ThinPlateSpline, fit_displacement, normalisation

EXTENT = torch.tensor([640.0, 480.0])


def scattered(count: int, seed: int = 0) -> Tensor:
    return (torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * EXTENT).double()


def bent(points: Tensor, wavelength_px: float) -> Tensor:
    return points + 12.0 * torch.sin(points.flip(-1) / wavelength_px)


@pytest.mark.parametrize("wavelength_px", [50.0, 80.0, 150.0])
@pytest.mark.parametrize("regularisation", [1e-1, 1e-2, 1e-3])
def test_it_is_as_far_from_a_known_bend_as_the_spline_through_all_points(
    wavelength_px: float, regularisation: float
) -> None:
    source, queries = scattered(1600), scattered(500, seed=1)
    noise = 0.7 * torch.randn(source.shape, generator=torch.Generator().manual_seed(2)).double()
    target = bent(source, wavelength_px) + noise
    few, distances = fit_smoothing(source, target, regularisation)
    every = ThinPlateSpline.fit(source, target, regularisation)
    assert 400 <= len(few.control) < len(every.control)
    errors = [(spline(queries) - bent(queries, wavelength_px)).norm(dim=1) for spline in (few, every)]
    assert errors[0].median() < errors[1].median() + 0.02
    assert errors[0].quantile(0.95) < errors[1].quantile(0.95) + 0.05
    ordered = torch.unique(source, dim=0, return_inverse=True)[1].argsort()
    torch.testing.assert_close(distances, (few(source) - target).norm(dim=1)[ordered], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("count", "regularisation"), [(400, 1e-2), (900, 0.0), (900, 1e-4)])
def test_where_every_point_counts_it_is_the_spline_through_all(count: int, regularisation: float) -> None:
    source = scattered(count)
    spline, distances = fit_smoothing(source, bent(source, 80.0), regularisation)
    torch.testing.assert_close(
        spline.theta, ThinPlateSpline.fit(source, bent(source, 80.0), regularisation).theta, atol=0, rtol=0
    )
    assert len(distances) == count


def test_an_affine_map_is_met_exactly() -> None:
    source = scattered(1500)
    affine = source @ torch.tensor([[1.1, 0.1], [-0.2, 0.9]]).double() + 5.0
    spline, distances = fit_smoothing(torch.cat([source, source[:100]]), torch.cat([affine, affine[:100]]), 1e-2)
    assert distances.shape == (1500,) and distances.max() < 1e-6
    assert abs(spline.bending_energy()) < 1e-9


def test_bending_at_all_points_it_is_the_system_of_the_thin_plate() -> None:
    source = scattered(150)
    centre, scale = normalisation(source)
    points, target = (source - centre) / scale, (bent(source, 60.0) - source) / scale
    problem = SmoothingProblem(points, target, points, 1e-2)
    problem.choose(torch.ones(150, dtype=torch.bool))
    torch.testing.assert_close(problem.solve(), fit_displacement(points, target, 1e-2), atol=1e-7, rtol=0)


def test_points_may_be_chosen_and_left_again() -> None:
    points, target = scattered(300) / 320, scattered(300, seed=3) / 320
    control = points[well_spread(points, 50)]
    problem, afresh = (SmoothingProblem(points, target, control, 1e-2) for _ in range(2))
    chosen = torch.arange(300) % 3 != 0
    for choice in (torch.arange(300) < 200, torch.arange(300) >= 100, chosen):
        problem.choose(choice)
    afresh.choose(chosen)
    torch.testing.assert_close(problem.solve(), afresh.solve(), atol=1e-8, rtol=0)


def test_well_spread_points_are_distinct_and_leave_no_gap() -> None:
    points = scattered(700)
    points = torch.cat([points, points[:50]])
    chosen = points[well_spread(points, 60)]
    apart = torch.cdist(chosen, chosen).fill_diagonal_(torch.inf).min()
    assert torch.cdist(points, chosen).min(dim=1).values.max() <= apart
    assert len(well_spread(points, 10_000)) == 700
    assert len(well_spread(torch.ones(5, 2), 3)) == 1


def test_points_on_a_line_are_refused() -> None:
    line = torch.arange(1000.0)[:, None] * torch.tensor([1.0, 2.0])
    with pytest.raises(ShapeError, match="line"):
        fit_smoothing(line, line, 1e-2)
