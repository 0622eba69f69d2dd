"""Maps as lattices, against the spline they come from and closed forms; and their smoothing over time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semantic_matcher_core.registration.lattice import lattice_of_spline, lattice_points, resampled, warp
from semantic_matcher_core.registration.smoothing import OneEuroFilter
from tests.core.bent_surfaces import known_bend


@pytest.mark.parametrize("size", [(47, 61), (1, 9), (8, 8), (2, 1)])
@pytest.mark.parametrize("step", [1, 5, 8, 100])
def test_points_reach_the_corners_and_interpolate_exactly(size: tuple[int, int], step: int) -> None:
    points = lattice_points(size, step)
    assert points.shape[0] >= 2 and points.shape[1] >= 2
    assert points[0, 0].tolist() == [0, 0] and points[-1, -1].tolist() == [size[1] - 1, size[0] - 1]
    assert np.diff(points[0, :, 0]).max() <= step and np.diff(points[:, 0, 1]).max() <= step
    y, x = np.mgrid[: size[0], : size[1]]
    np.testing.assert_allclose(resampled(points, *size), np.stack([x, y], axis=-1), atol=1e-4)


def test_between_its_points_a_lattice_is_near_the_spline() -> None:
    size = (241, 307)
    spline = known_bend(size, 6.0)
    dense = resampled(lattice_of_spline(spline, size, 8), *size)
    y, x = np.mgrid[: size[0], : size[1]]
    exact = spline(torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1, 2)).double()).view(*size, 2).numpy()
    assert np.abs(dense - exact).max() < 0.5
    assert np.abs(dense - exact).mean() < 0.05


def test_warping_equals_sampling_by_torch(textured_image: np.ndarray) -> None:
    image = textured_image[:90, :110].copy()
    spline = known_bend((80, 100), 8.0)
    warped, inside = warp(image, lattice_of_spline(spline, (80, 100), 1), (80, 100))
    expected = spline.warp_image(torch.from_numpy(image).permute(2, 0, 1).float(), (80, 100)).permute(1, 2, 0).numpy()
    # OpenCV samples at 1/32 pixel.
    assert np.abs(warped[inside].astype(float) - expected[inside]).mean() < 1.5
    assert 0.5 < inside.mean() < 1
    assert not warped[~inside].reshape(-1, 3).max(axis=1).all()


def test_a_shift_is_a_shift(textured_image: np.ndarray) -> None:
    image = textured_image[:60, :70].copy()
    warped, inside = warp(image, lattice_points((60, 70), 8) + np.float32([10, 5]), (60, 70))
    np.testing.assert_array_equal(warped[:55, :60], image[5:, 10:])
    assert inside[:55, :60].all() and not inside[55:].any() and not inside[:, 60:].any()


def test_smoothing_calms_what_stands_and_follows_what_moves() -> None:
    random = np.random.default_rng(0)
    still = lattice_points((80, 100), 20)
    calm = OneEuroFilter()
    noisy = [still + random.normal(0, 0.5, still.shape).astype(np.float32) for _ in range(60)]
    smoothed = [calm(lattice, round(i / 30 * 1e9)) for i, lattice in enumerate(noisy)]
    assert np.std([s - still for s in smoothed[20:]]) < 0.6 * np.std([n - still for n in noisy[20:]])
    follow = OneEuroFilter()
    moving = [still + np.float32([i * 8.0, 0]) for i in range(60)]  # 240 px a second
    lag = [np.abs(follow(lattice, round(i / 30 * 1e9)) - lattice).max() for i, lattice in enumerate(moving)]
    assert max(lag[10:]) < 1.5


def test_smoothing_starts_anew() -> None:
    smoothing = OneEuroFilter()
    first, second = lattice_points((40, 40), 10), lattice_points((40, 40), 10) + 5
    smoothing(first, 0)
    assert np.abs(smoothing(second, 10_000_000) - second).max() > 0.5
    smoothing.reset()
    np.testing.assert_array_equal(smoothing(first, 20_000_000), first)
    np.testing.assert_array_equal(smoothing(second, 20_000_000), second)  # time does not advance
