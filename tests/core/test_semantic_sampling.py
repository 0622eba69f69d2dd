"""Sampling a semantic map at keypoints against golden files and maps whose values are known everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.semantics import resize_for_encoder, sample_at_keypoints


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_golden_published_sampling(shared: Path, mode: str) -> None:
    golden = np.load(shared / "golden" / "sample_features_dino.npz")
    features = torch.from_numpy(golden["features"]).float()
    keypoints = torch.from_numpy(golden["keypoints"])
    # The keypoints are those of the resized image: scale 1.
    out = sample_at_keypoints(
        features, keypoints, (476, 630), patch_size=14, scale=1.0, registration="published", mode=mode
    ).numpy()
    assert out.shape == (1, 200, 384)
    np.testing.assert_allclose(out[..., :64], golden[f"out_{mode}"], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(out, axis=-1), golden[f"norm_{mode}"], atol=1e-4)
    np.testing.assert_allclose(out @ np.cos(0.01 * np.arange(384)), golden[f"checksum_{mode}"], atol=1e-4)
    assert (golden[f"norm_{mode}"] == 0).any(), "the golden keypoints include some with only padding under them"


def position_map(image_size: tuple[int, int], resized_size: tuple[int, int]) -> torch.Tensor:
    """A map of patches of 14 px whose channels are x, y of the cell's centre in the image as given, and one."""
    (height, width), (h, w) = image_size, (resized_size[0] // 14, resized_size[1] // 14)
    y = (torch.arange(h, dtype=torch.float64) + 0.5) * height / h - 0.5
    x = (torch.arange(w, dtype=torch.float64) + 0.5) * width / w - 0.5
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((xx, yy, torch.ones_like(xx)))[None]


def sampled_position(image_size: tuple[int, int], keypoints: torch.Tensor, registration: str) -> torch.Tensor:
    """Where in the image as given the features at ``keypoints`` come from, in pixels."""
    resized, scale = resize_for_encoder(torch.zeros(1, 3, *image_size), 896, 14, registration=registration)
    out = sample_at_keypoints(
        position_map(image_size, tuple(resized.shape[-2:])),
        keypoints.double()[None],
        image_size,
        patch_size=14,
        scale=scale,
        registration=registration,
        mode="bilinear",
    )[0]
    return out[:, :2] / out[:, 2:]  # undoes the normalisation


SIZES = [(480, 640), (968, 1296), (480, 641), (375, 1242), (97, 33)]


@pytest.mark.parametrize("size", SIZES)
def test_exact_registration_samples_where_the_keypoint_is(size: tuple[int, int]) -> None:
    height, width = size
    # Inside the ring of half a cell, where zeros beyond the border take no part.
    x = torch.linspace(0.1 * width, 0.9 * width, 11)
    y = torch.linspace(0.1 * height, 0.9 * height, 11)
    keypoints = torch.stack((x, y), dim=1)
    assert (sampled_position(size, keypoints, "exact") - keypoints).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("size", "slope_x", "slope_y"),
    [
        ((480, 640), 0.0, 0.0),
        ((968, 1296), 896 / 896 * (669 / 968) / (896 / 1296) - 1, 669 / 658 - 1),
        ((480, 641), (670 / 480) / (896 / 641) - 1, 670 / 658 - 1),
        ((375, 1242), (270 / 375) / (896 / 1242) - 1, 270 / 266 - 1),
        ((97, 33), (896 / 97) / (294 / 33) - 1, 0.0),
    ],
)
def test_published_registration_is_off_as_documented(size: tuple[int, int], slope_x: float, slope_y: float) -> None:
    height, width = size
    keypoints = torch.tensor([[0.3 * width, 0.4 * height], [0.7 * width, 0.8 * height]])
    off = sampled_position(size, keypoints, "published") - keypoints
    expected = keypoints.double() * torch.tensor([slope_x, slope_y], dtype=torch.float64) - 0.5
    torch.testing.assert_close(off, expected, atol=1e-3, rtol=0)


def test_the_last_row_of_a_1296x968_image_is_off_by_more_than_15_px() -> None:
    slope = 669 / 658 - 1
    assert 967 * slope - 0.5 == pytest.approx(15.67, abs=0.01)
    assert slope == pytest.approx(0.0167, abs=1e-4)


@pytest.mark.parametrize("registration", ["exact", "published"])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
def test_rows_are_unit_or_zero_and_batches_do_not_mix(mode: str, registration: str) -> None:
    torch.manual_seed(0)
    feature_map = torch.randn(3, 8, 5, 7)
    feature_map[1] = 0
    keypoints = torch.rand(3, 21, 2) * torch.tensor([97.0, 69.0])
    options = {"patch_size": 14, "scale": 1.0, "registration": registration, "mode": mode}
    out = sample_at_keypoints(feature_map, keypoints, (70, 98), **options)
    assert out.shape == (3, 21, 8)
    assert (out[1] == 0).all()
    torch.testing.assert_close(out[[0, 2]].norm(dim=-1), torch.ones(2, 21), atol=1e-5, rtol=0)
    alone = sample_at_keypoints(feature_map[2:], keypoints[2:], (70, 98), **options)
    torch.testing.assert_close(out[2:], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("registration", ["exact", "published"])
def test_one_patch_no_keypoints_and_strided_maps(registration: str) -> None:
    options = {"patch_size": 14, "scale": 14.0, "registration": registration}
    one = sample_at_keypoints(torch.ones(1, 4, 1, 1), torch.zeros(1, 1, 2), (1, 1), **options)
    assert one.isfinite().all()
    if registration == "exact":
        torch.testing.assert_close(one, torch.full((1, 1, 4), 0.5))
    none = sample_at_keypoints(torch.ones(2, 4, 3, 3), torch.zeros(2, 0, 2), (9, 9), **options)
    assert none.shape == (2, 0, 4)
    strided = torch.randn(2, 15, 4).transpose(1, 2).unflatten(2, (3, 5))
    keypoints = torch.rand(2, 9, 2).flip(-1)[:, ::2] * 4
    a = sample_at_keypoints(strided, keypoints, (3, 5), **options)
    b = sample_at_keypoints(strided.contiguous(), keypoints.contiguous(), (3, 5), **options)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def test_a_half_precision_map_is_sampled_at_full_precision_positions() -> None:
    torch.manual_seed(0)
    feature_map = torch.randn(1, 16, 48, 64)
    keypoints = torch.rand(1, 50, 2) * torch.tensor([639.0, 479.0])
    options = {"patch_size": 14, "scale": 1.4, "registration": "exact"}
    full = sample_at_keypoints(feature_map, keypoints, (480, 640), **options)
    half = sample_at_keypoints(feature_map.bfloat16(), keypoints, (480, 640), **options)
    assert half.dtype == torch.float32
    assert (full * half).sum(dim=-1).min() > 0.999


def test_errors_name_the_value() -> None:
    feature_map, keypoints = torch.zeros(1, 4, 3, 3), torch.zeros(1, 5, 2)
    options = {"patch_size": 14, "scale": 1.0, "registration": "exact"}
    with pytest.raises(ConfigError, match=r"'cubic'.*bicubic"):
        sample_at_keypoints(feature_map, keypoints, (9, 9), **options, mode="cubic")
    with pytest.raises(ConfigError, match="'none'"):
        sample_at_keypoints(feature_map, keypoints, (9, 9), **{**options, "registration": "none"})
    with pytest.raises(ShapeError, match="feature_map"):
        sample_at_keypoints(feature_map[0], keypoints, (9, 9), **options)
    for bad in (keypoints[0], keypoints.expand(2, -1, -1), torch.zeros(1, 5, 3)):
        with pytest.raises(ShapeError, match="keypoints must be 1 x N x 2"):
            sample_at_keypoints(feature_map, bad, (9, 9), **options)
