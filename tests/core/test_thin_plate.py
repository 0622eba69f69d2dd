"""Thin-plate splines against the published values, scipy, and closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from semantic_matcher_core.errors import ShapeError
from semantic_matcher_core.geometry.thin_plate import ThinPlateSpline, displacement, fit_displacement, kernel


def golden(shared: Path, name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(shared / "golden" / name).items()}


def bent(points: Tensor) -> Tensor:
    return points + 12.0 * torch.sin(points / 80.0)


def scattered(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([640.0, 480.0])


def test_displacement_is_the_published_one(shared: Path) -> None:
    values = golden(shared, "dalf_tps.npz")
    points = values["grid"][..., 1:].flatten(1, 2)
    moved = displacement(values["theta_full"], values["ctrlN"], points).view(3, 7, 9, 2)
    torch.testing.assert_close(moved, values["tps_full_ctrlN"], atol=1e-5, rtol=0)
    sparse = values["xy"] + displacement(values["theta_full"], values["ctrlN"], values["xy"])
    torch.testing.assert_close(sparse, values["tps_sparse_full"], atol=1e-5, rtol=0)


def test_control_points_may_be_shared_by_a_batch(shared: Path) -> None:
    values = golden(shared, "dalf_tps.npz")
    moved = displacement(values["theta_full"], values["ctrl"], values["grid"][..., 1:].flatten(1, 2)).view(3, 7, 9, 2)
    torch.testing.assert_close(moved, values["tps_full_ctrl2d"], atol=1e-5, rtol=0)


def test_fitted_parameters_are_the_published_ones(shared: Path) -> None:
    values = golden(shared, "dalf_tps_fit.npz")
    control, target = values["c_dst"].double(), (values["c_src"] - values["c_dst"]).double()
    theta = fit_displacement(control, target)
    torch.testing.assert_close(theta, values["theta_full"].double(), atol=1e-5, rtol=1e-5)


def test_the_map_is_scipys() -> None:
    source, target = scattered(30), bent(scattered(30))
    queries = scattered(200, seed=1)
    # scipy's kernel is r² log r without the 1e-6 of the published one: a difference far below a pixel.
    expected = RBFInterpolator(source.numpy(), target.numpy(), kernel="thin_plate_spline", degree=1)(queries.numpy())
    np.testing.assert_allclose(ThinPlateSpline.fit(source, target)(queries).numpy(), expected, atol=2e-3)


def test_it_passes_through_its_points_and_an_affine_map_does_not_bend() -> None:
    source = scattered(100)
    spline = ThinPlateSpline.fit(source, bent(source))
    torch.testing.assert_close(spline(source), bent(source), atol=1e-3, rtol=0)
    assert spline.bending_energy() > 1e-3
    affine = source @ torch.tensor([[1.1, 0.1], [-0.2, 0.9]]) + 5.0
    straight = ThinPlateSpline.fit(source, affine)
    assert abs(straight.bending_energy()) < 1e-6
    queries = scattered(50, seed=2)
    torch.testing.assert_close(
        straight(queries), queries @ torch.tensor([[1.1, 0.1], [-0.2, 0.9]]) + 5.0, atol=1e-2, rtol=0
    )


def test_regularisation_smooths_noise() -> None:
    source = scattered(300)
    noisy = bent(source) + torch.randn(300, 2, generator=torch.Generator().manual_seed(5))
    queries = scattered(200, seed=3)
    queries = queries[((queries > 30) & (queries < torch.tensor([610.0, 450.0]))).all(dim=1)]
    errors = [
        float((ThinPlateSpline.fit(source, noisy, regularisation)(queries) - bent(queries)).norm(dim=1).mean())
        for regularisation in (0.0, 1e-2)
    ]
    energies = [ThinPlateSpline.fit(source, noisy, r).bending_energy() for r in (0.0, 1e-2)]
    assert errors[1] < 0.7 * errors[0]
    assert energies[1] < energies[0]


def test_inverse_takes_points_back() -> None:
    spline = ThinPlateSpline.fit(scattered(200), bent(scattered(200)))
    points = scattered(300, seed=4) * 0.9 + 30.0
    torch.testing.assert_close(spline.inverse_points(spline(points)), points, atol=0.02, rtol=0)


def test_warping_an_image_moves_it_by_whole_pixels_exactly() -> None:
    image = torch.rand(3, 41, 57, generator=torch.Generator().manual_seed(0))
    corners = torch.tensor([[0.0, 0.0], [56.0, 0.0], [0.0, 40.0], [56.0, 40.0]])
    shift = ThinPlateSpline.fit(corners, corners + torch.tensor([5.0, 3.0]))
    torch.testing.assert_close(shift.warp_image(image, (38, 52)), image[:, 3:, 5:], atol=1e-3, rtol=0)


def test_repeated_points_are_merged() -> None:
    source = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [0.0, 10.0]])
    target = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 11.0], [0.0, 13.0]])
    torch.testing.assert_close(
        ThinPlateSpline.fit(source, target)(source[2:3]), torch.tensor([[0.0, 12.0]]), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    "source",
    [
        torch.zeros(2, 2),
        torch.zeros(5, 2),
        torch.stack([torch.arange(5.0), 2 * torch.arange(5.0)], dim=1),
        torch.zeros(4, 3),
    ],
    ids=["two points", "one place", "a line", "three columns"],
)
def test_what_cannot_be_fitted_is_refused(source: Tensor) -> None:
    with pytest.raises(ShapeError):
        ThinPlateSpline.fit(source, source + 1.0)
    with pytest.raises(ShapeError, match="T \\+ 3"):
        displacement(torch.zeros(1, 9, 2), torch.rand(4, 2), torch.rand(1, 3, 2))


def test_kernel_is_zero_at_its_centre() -> None:
    points = torch.rand(4, 2)
    assert torch.equal(kernel(points, points).diagonal(), torch.zeros(4))
