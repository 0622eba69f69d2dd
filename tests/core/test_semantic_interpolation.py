"""Sampling by weighted sums of rows, against ``F.grid_sample``."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from semantic_matcher_core.semantics.interpolation import sample_points


def expected(feature_map: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    return F.grid_sample(feature_map, grid[:, None], mode=mode, align_corners=False)[:, :, 0].transpose(1, 2)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (37, 64)])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_it_is_grid_sample(mode: str, size: tuple[int, int], count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    feature_map = torch.randn(3, 5, *size, generator=generator)
    grid = torch.rand(3, count, 2, generator=generator) * 2.6 - 1.3  # some outside
    found = sample_points(feature_map, grid, mode)
    assert found.shape == (3, count, 5)
    torch.testing.assert_close(found, expected(feature_map, grid, mode), rtol=1e-5, atol=1e-5)
    channels_last = feature_map.to(memory_format=torch.channels_last)
    torch.testing.assert_close(sample_points(channels_last, grid, mode), found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_edges_and_centres_of_cells(mode: str) -> None:
    feature_map = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    ticks = [-1.0, -1 + 1 / 6, -0.5, 0.0, 0.2, 1 - 1 / 6, 1.0, 1.5, -7.0]
    grid = torch.tensor([[x, y] for x in ticks for y in ticks], dtype=torch.float64)[None]
    torch.testing.assert_close(
        sample_points(feature_map, grid, mode), expected(feature_map, grid, mode), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_points_that_are_not_finite_give_zeros(mode: str) -> None:
    grid = torch.tensor([[[torch.nan, 0.0], [torch.inf, 0.1], [0.0, -torch.inf], [0.1, 0.2]]])
    found = sample_points(torch.ones(1, 3, 8, 8), grid, mode)
    assert not found[0, :3].any()
    torch.testing.assert_close(found[0, 3], torch.ones(3))


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_gradients_are_those_of_grid_sample(mode: str) -> None:
    feature_map = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    grid = (torch.rand(2, 7, 2, dtype=torch.float64) * 2 - 1).requires_grad_()
    weights = torch.randn(2, 7, 3, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((function(feature_map, grid, mode) * weights).sum(), (feature_map, grid))
        for function in (sample_points, expected)
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
