"""Disparities aligned along the row, against pictures whose shift is known."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.geometry.stereo import sparse_points
from semantic_matcher_core.io.images import read_image
from semantic_matcher_core.motion.disparity import align_rows, aligned_matches
from semantic_matcher_core.types import Matches

WEIGHTS = {"xfeat": "xfeat.pt", "alike-n": "alike-n.pth", "aliked-n16": "aliked-n16.pth"}


def views(picture: np.ndarray, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Left and right views at a quarter of the picture's size: what was ``4 shift`` whole pixels becomes ``shift``."""
    whole = round(4 * shift)
    assert whole == 4 * shift
    width = (picture.shape[1] - whole) // 4 * 4
    height = picture.shape[0] // 4 * 4
    left, right = picture[:height, :width], picture[:height, whole : whole + width]
    return tuple(cv2.resize(side, (width // 4, height // 4), interpolation=cv2.INTER_AREA) for side in (left, right))


@pytest.fixture(scope="module")
def picture(textured) -> np.ndarray:
    return textured(960, 1600, seed=3)


def corners(image: np.ndarray, count: int = 400) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.goodFeaturesToTrack(grey, count, 0.001, 5)[:, 0].astype(np.float64)


def start(points: np.ndarray, shift: float, seed: int = 0) -> np.ndarray:
    """Right keypoints as a detector gives them: off by up to a pixel along the row and half of one across."""
    random = np.random.default_rng(seed)
    return points - [shift, 0] + random.uniform((-1, -0.5), (1, 0.5), points.shape)


@pytest.mark.parametrize("shift", [0.25, 8.5, 13.75])
def test_known_shifts_are_measured(picture, shift):
    left, right = views(picture, shift)
    points = corners(left) + np.random.default_rng(1).uniform(-0.5, 0.5, (1, 2))
    points = points[points[:, 0] > shift + 2]
    found = align_rows(left, right, points, start(points, shift))
    error = points[:, 0] - found.columns - shift
    assert found.aligned.mean() > 0.9
    assert np.median(np.abs(error[found.aligned])) < 0.02
    assert np.percentile(np.abs(error[found.aligned]), 95) < 0.1
    assert abs(np.median(error[found.aligned])) < 0.01


def test_gain_brightness_and_noise_between_the_cameras(picture):
    left, right = views(picture, 8.5)
    random = np.random.default_rng(2)
    points = corners(left)
    points = points[points[:, 0] > 12]
    dark = (right * 0.5 + 30 * np.linspace(0, 1, right.shape[1])[:, None] + random.normal(0, 2, right.shape)).clip(
        0, 255
    )
    found = align_rows(left, dark.round().astype(np.uint8), points, start(points, 8.5))
    error = (points[:, 0] - found.columns - 8.5)[found.aligned]
    assert found.aligned.mean() > 0.7 and np.median(np.abs(error)) < 0.05


@pytest.mark.parametrize("noise", [3.0, 8.0])
def test_the_standard_deviations_are_honest(picture, noise):
    random = np.random.default_rng(4)
    left, right = (
        np.clip(view + random.normal(0, noise, view.shape), 0, 255).astype(np.float32).mean(axis=2)
        for view in views(picture, 8.5)
    )
    points = corners(np.repeat(left[..., None], 3, axis=2).astype(np.uint8))
    points = points[points[:, 0] > 12]
    found = align_rows(left, right, points, start(points, 8.5))
    normalised = ((points[:, 0] - found.columns - 8.5) / found.std)[found.aligned]
    assert 0.5 < 1.4826 * np.median(np.abs(normalised)) < 2
    assert np.isinf(found.std[~found.aligned]).all()


def test_rows_that_are_off_throughout(picture):
    left, right = views(picture, 8.5)
    right = np.roll(right, 1, axis=0)
    points = corners(left)
    points = points[points[:, 0] > 12]
    found = align_rows(left, right, points, start(points, 8.5) + np.array([0, 1]))
    error = (points[:, 0] - found.columns - 8.5)[found.aligned]
    assert found.aligned.mean() > 0.9 and np.median(np.abs(error)) < 0.02


def test_what_cannot_be_measured_is_told_apart(picture):
    left, right = (view.copy() for view in views(picture, 8.5))
    height, width = left.shape[:2]
    left[40:80, 40:120] = right[40:80, 30:112][:, :80] = 90  # nothing to see
    left[100:140, 40:120] = right[100:140, 20:120][:, :80] = (np.arange(40) * 6)[:, None, None]  # nothing along the row
    given = np.array(
        [
            [80.0, 60, 71.5, 60],  # flat
            [80, 120, 71.5, 120],  # aperture
            [200, 150, 191.5 - 30, 150],  # wrong
            [-40, 10, -60, 10],  # outside
            [np.nan, 10, 5, 10],
            [200, 150, np.inf, 150],
            [width + 3, height + 2, width, height],
        ]
    )
    found = align_rows(left, right, given[:, :2], given[:, 2:])
    assert not found.aligned.any()
    np.testing.assert_array_equal(found.columns, given[:, 2])


def test_at_the_edges_of_the_image_only_what_is_seen_counts(picture):
    left, right = views(picture, 8.5)
    points = corners(left, 2000)
    height, width = left.shape[:2]
    distance = np.minimum.reduce(
        [points[:, 0] - 8.5, points[:, 1], width - 1 - points[:, 0], height - 1 - points[:, 1]]
    )
    near = points[(distance >= 1) & (distance < 5)]
    assert len(near) > 20
    found = align_rows(left, right, near, start(near, 8.5) * [1, 0] + near * [0, 1])
    error = (near[:, 0] - found.columns - 8.5)[found.aligned]
    assert found.aligned.mean() > 0.4 and np.median(np.abs(error)) < 0.03


def test_none_one_grey_and_non_contiguous(picture):
    left, right = views(picture, 8.5)
    none = align_rows(left, right, np.zeros((0, 2)), np.zeros((0, 2)))
    assert none.columns.shape == none.std.shape == none.aligned.shape == (0,)
    points = corners(left, 50)
    points = points[points[:, 0] > 30][:1]
    colour = align_rows(left, right, points, points - [8.2, 0])
    assert colour.aligned.all() and abs(points[0, 0] - colour.columns[0] - 8.5) < 0.05
    strided = align_rows(
        left[:, ::-1][:, ::-1], right[..., ::-1][..., ::-1], points[:, ::-1][:, ::-1], points - [8.2, 0]
    )
    np.testing.assert_allclose(strided.columns, colour.columns, atol=1e-6)
    grey = [cv2.cvtColor(side, cv2.COLOR_RGB2GRAY) for side in (left, right)]
    for kind in (np.uint8, np.uint16, np.float32, np.float64, np.int32):
        found = align_rows(*(side.astype(kind) for side in grey), points, points - [8.2, 0])
        np.testing.assert_allclose(found.columns, colour.columns, atol=1e-6)
    one_by_one = align_rows(grey[0][:1, :1], grey[1][:1, :1], points, points)
    assert not one_by_one.aligned.any()


def test_bad_input_is_named(picture):
    left, right = views(picture, 8.5)
    some = np.zeros((2, 2))
    with pytest.raises(ShapeError, match="left image must be H x W"):
        align_rows(left[None], right, some, some)
    with pytest.raises(ShapeError, match="right image must be H x W"):
        align_rows(left, right[:0], some, some)
    with pytest.raises(ShapeError, match="got 2 and 1"):
        align_rows(left, right, some, some[:1])
    with pytest.raises(ConfigError, match="max_step"):
        align_rows(left, right, some, some, max_step=0)


def test_matches_keep_all_but_their_columns(picture):
    left, right = views(picture, 8.5)
    points = corners(left, 40)
    points = points[points[:, 0] > 12]
    count = len(points)
    matches = Matches(
        torch.arange(count)[:, None].expand(-1, 2),
        torch.from_numpy(points).float(),
        torch.from_numpy(start(points, 8.5)).float(),
        torch.linspace(1, 0, count),
        inlier=torch.arange(count) % 2 == 0,
        model=torch.eye(3, dtype=torch.float64),
        model_type="fundamental",
    )
    wrong = matches.keypoints1.clone()
    wrong[3, 0] += 40
    kept = aligned_matches(replace(matches, keypoints1=wrong), left, right)
    rows = kept.indices[:, 0]
    assert 3 not in rows and len(kept) >= count - 4
    for name in ("keypoints0", "confidence", "inlier"):
        torch.testing.assert_close(getattr(kept, name), getattr(matches, name)[rows])
    torch.testing.assert_close(kept.keypoints1[:, 1], matches.keypoints1[rows, 1])
    assert kept.model is matches.model and kept.model_type == "fundamental"
    assert len(aligned_matches(matches.of_pair(0), left[:8, :8], right[:8, :8])) == 0


@pytest.mark.parametrize("name", ["compact", "xfeat", "alike-n", "aliked-n16", "sift"])
def test_real_pictures_whatever_the_extractor(shared, name):
    picture = read_image(shared / "data/stereo/left.png")[:600, :1000]
    weights = shared / "weights" / WEIGHTS[name] if name in WEIGHTS else None
    matcher = SemanticMatcher.from_pretrained(
        f"plain:{name}" if name != "compact" else name, max_keypoints=512, device="cpu", weights=weights
    )
    whole = 17
    left, right = (
        cv2.resize(side, (480, 300), interpolation=cv2.INTER_AREA)
        for side in (picture[:, :960], picture[:, whole : whole + 960])
    )
    matches = matcher.match_images(left, right)
    measured = aligned_matches(matches, left, right)
    disparity = (measured.keypoints0 - measured.keypoints1)[:, 0]
    assert len(measured) > 0.7 * len(matches) > 70
    assert float((disparity - 8.5).abs().median()) <= 0.03


def test_depth_at_seven_metres_from_keypoints_half_a_pixel_off(picture):
    left, right = views(picture, 8.5)
    points = corners(left)
    points = points[points[:, 0] > 12]
    count, focal = len(points), 595.0
    matches = Matches(
        torch.arange(count)[:, None].expand(-1, 2),
        torch.from_numpy(points).float(),
        torch.from_numpy(np.round(start(points, 8.5))).float(),
        torch.ones(count),
    )
    p0 = np.array([[focal, 0, 160, 0], [0, focal, 120, 0], [0, 0, 1, 0]])
    p1 = p0 - [[0, 0, 0, focal * 0.1], [0] * 4, [0] * 4]
    measured = aligned_matches(matches, left, right)
    cloud, _ = sparse_points(measured, p0, p1, max_row_difference=2, min_disparity=1)
    assert len(cloud) > 0.9 * count
    assert np.median(np.abs(cloud[:, 2] / 7.0 - 1)) < 0.004
