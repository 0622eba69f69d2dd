"""Geometric checks on scenes whose geometry is known in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.matching.verification import BACKENDS, KINDS, MINIMUM_MATCHES, residuals, verify
from semantic_matcher_core.types import Matches

K0 = np.array([[520.0, 0.0, 319.5], [0.0, 515.0, 239.5], [0.0, 0.0, 1.0]])
K1 = np.array([[610.0, 2.0, 300.0], [0.0, 605.0, 250.0], [0.0, 0.0, 1.0]])
H = np.array([[1.05, 0.08, -21.0], [-0.06, 0.98, 13.0], [8e-5, -5e-5, 1.0]])


def rotation(x: float, y: float, z: float) -> np.ndarray:
    def about(axis: int, angle: float) -> np.ndarray:
        c, s = np.cos(angle), np.sin(angle)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        out = np.eye(3)
        out[a, a], out[a, b], out[b, a], out[b, b] = c, -s, s, c
        return out

    return about(2, z) @ about(1, y) @ about(0, x)


R, T = rotation(0.05, -0.12, 0.03), np.array([0.9, -0.1, 0.2])
E = np.array([[0, -T[2], T[1]], [T[2], 0, -T[0]], [-T[1], T[0], 0]]) @ R
F = np.linalg.inv(K1).T @ E @ np.linalg.inv(K0)


def project(points: np.ndarray) -> np.ndarray:
    return points[:, :2] / points[:, 2:]


def scene(kind: str, count: int, outliers: int, noise: float = 0.2, seed: int = 0) -> tuple[Matches, np.ndarray]:
    """Matches that agree with H or with the two cameras, then ``outliers`` random ones, shuffled; and which agree."""
    random = np.random.default_rng(seed)
    if kind == "homography":
        points0 = random.uniform((0, 0), (640, 480), (count, 2))
        points1 = project(np.hstack([points0, np.ones((count, 1))]) @ H.T)
    else:
        world = random.uniform((-2, -1.5, 3), (2, 1.5, 9), (count, 3))
        points0, points1 = project(world @ K0.T), project((world @ R.T + T) @ K1.T)
    points1 = points1 + random.normal(0, noise, points1.shape) if noise else points1
    points0 = np.vstack([points0, random.uniform((0, 0), (640, 480), (outliers, 2))])
    points1 = np.vstack([points1, random.uniform((0, 0), (640, 480), (outliers, 2))])
    order = random.permutation(count + outliers)
    good = (np.arange(count + outliers) < count)[order]
    rows = torch.arange(count + outliers)
    return (
        Matches(
            torch.stack([rows, rows], dim=1),
            torch.from_numpy(points0[order].astype(np.float32)),
            torch.from_numpy(points1[order].astype(np.float32)),
            torch.ones(len(rows)),
        ),
        good,
    )


def cameras(kind: str) -> dict[str, np.ndarray]:
    return {"K0": K0, "K1": K1} if kind == "essential" else {}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_inliers_and_model_of_a_known_scene(kind: str, backend: str) -> None:
    matches, good = scene(kind, 300, 200)
    checked = verify(matches, kind, threshold_px=1.5, backend=backend, **cameras(kind))
    assert checked.inlier is not None and checked.inlier.dtype == torch.bool
    found = checked.inlier.numpy()
    assert found[good].mean() > 0.98
    # An outlier lies within 1.5 px of its epipolar line by chance about once in a hundred.
    assert found[~good].mean() < (0.01 if kind == "homography" else 0.08)
    assert checked.model is not None and checked.model.dtype == torch.float64
    assert checked.model_type == kind
    model = checked.model.numpy()
    if kind == "homography":
        corners = np.array([[0, 0, 1], [639, 0, 1], [0, 479, 1], [639, 479, 1.0]])
        assert np.abs(project(corners @ model.T) - project(corners @ H.T)).max() < 0.5
        assert model[2, 2] == 1
    else:
        truth = E if kind == "essential" else F
        assert np.linalg.norm(model) == pytest.approx(1)
        if kind == "essential":
            truth = truth / np.linalg.norm(truth)
            truth *= np.sign((truth * model).sum())
            assert np.abs(model - truth).max() < 0.01
        perfect, _ = scene(kind, 200, 0, noise=0, seed=5)
        in_pixels = model if kind == "fundamental" else np.linalg.inv(K1).T @ model @ np.linalg.inv(K0)
        errors = residuals(in_pixels, kind, perfect.keypoints0.double().numpy(), perfect.keypoints1.double().numpy())
        assert np.median(errors) < 0.3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_everything_else_of_the_matches_stays(kind: str, backend: str) -> None:
    matches, _ = scene(kind, 60, 10)
    checked = verify(matches, kind, backend=backend, **cameras(kind))
    assert checked.indices is matches.indices and checked.keypoints0 is matches.keypoints0
    assert checked.confidence is matches.confidence and matches.inlier is None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_flags_are_the_distances_to_the_model(kind: str, backend: str) -> None:
    matches, _ = scene(kind, 80, 80, seed=3)
    checked = verify(matches, kind, threshold_px=1.0, backend=backend, **cameras(kind))
    assert checked.model is not None and checked.inlier is not None
    model = checked.model.numpy()
    if kind == "essential":
        model = np.linalg.inv(K1).T @ model @ np.linalg.inv(K0)
    errors = residuals(model, kind, matches.keypoints0.double().numpy(), matches.keypoints1.double().numpy())
    assert np.array_equal(checked.inlier.numpy(), errors <= 1.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_larger_arrays_are_as_good_as_copies(kind: str, backend: str) -> None:
    matches, _ = scene(kind, 80, 40, seed=5)
    expected = verify(matches, kind, backend=backend, **cameras(kind))
    # Columns of rows that hold more, and of cameras the part of P that most people take.
    wide = [torch.cat([points.double(), points.double()], dim=1) for points in (matches.keypoints0, matches.keypoints1)]
    parts = replace(matches, keypoints0=wide[0][:, 2:], keypoints1=wide[1][:, :2])
    projections = {name: np.hstack([K, np.full((3, 1), 7.0)])[:, :3] for name, K in cameras(kind).items()}
    found = verify(parts, kind, backend=backend, **projections)
    assert expected.inlier is not None and int(expected.inlier.sum()) >= 80 and found.model_type == kind
    np.testing.assert_array_equal(found.inlier, expected.inlier)
    np.testing.assert_array_equal(found.model, expected.model)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_result(kind: str, backend: str) -> None:
    matches, _ = scene(kind, 100, 300, seed=9)
    first, second = (verify(matches, kind, backend=backend, seed=4, **cameras(kind)) for _ in range(2))
    assert first.inlier is not None and second.inlier is not None
    assert torch.equal(first.inlier, second.inlier)
    assert first.model is not None and second.model is not None and torch.equal(first.model, second.model)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_few_matches(kind: str, backend: str) -> None:
    for count in range(MINIMUM_MATCHES[kind]):
        matches, _ = scene(kind, count, 0, noise=0)
        checked = verify(matches, kind, backend=backend, **cameras(kind))
        assert checked.inlier is not None and checked.inlier.shape == (count,) and not checked.inlier.any()
        assert checked.model is None and checked.model_type == ""
    # A few more than the least are enough to find all of them.
    matches, _ = scene(kind, MINIMUM_MATCHES[kind] + 4, 0, noise=0)
    checked = verify(matches, kind, backend=backend, **cameras(kind))
    assert checked.inlier is not None and checked.inlier.all() and checked.model is not None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["one point", "one line", "noise"])
def test_degenerate_sets_give_no_nan(kind: str, backend: str, shape: str) -> None:
    random = np.random.default_rng(1)
    points = random.uniform(0, 400, (30, 2))
    other = random.uniform(0, 400, (30, 2))
    if shape == "one point":
        points[:] = other[:] = (100, 80)
    elif shape == "one line":
        points[:, 1] = other[:, 1] = 50
    rows = torch.arange(30)
    matches = Matches(
        torch.stack([rows, rows], dim=1),
        torch.from_numpy(points.astype(np.float32)),
        torch.from_numpy(other.astype(np.float32)),
        torch.ones(30),
    )
    checked = verify(matches, kind, backend=backend, **cameras(kind))
    assert checked.inlier is not None and checked.inlier.shape == (30,)
    if checked.model is None:
        assert not checked.inlier.any() and checked.model_type == ""
    else:
        assert torch.isfinite(checked.model).all() and checked.inlier.sum() >= MINIMUM_MATCHES[kind]


def test_pairs_of_a_batch_are_checked_on_their_own() -> None:
    first, good0 = scene("homography", 50, 20, seed=1)
    second, _ = scene("homography", 2, 0, seed=2)
    third, good2 = scene("homography", 40, 30, seed=3)
    parts = [first, second, third]
    batch = Matches(
        torch.cat([p.indices for p in parts]),
        torch.cat([p.keypoints0 for p in parts]),
        # The third pair moves in another way.
        torch.cat([first.keypoints1, second.keypoints1, third.keypoints1 + torch.tensor([100.0, -50.0])]),
        torch.cat([p.confidence for p in parts]),
        pair=torch.repeat_interleave(torch.arange(3), torch.tensor([70, 2, 70])),
        batch_size=3,
    )
    checked = verify(batch, "homography")
    assert checked.model is None and checked.batch_size == 3 and checked.inlier is not None
    flags = checked.inlier.numpy()
    assert flags[:70][good0].mean() > 0.95 and flags[:70][~good0].mean() < 0.1
    assert not flags[70:72].any()
    assert flags[72:][good2].mean() > 0.95 and flags[72:][~good2].mean() < 0.1
    alone = verify(batch.of_pair(2), "homography")
    assert alone.inlier is not None and np.array_equal(alone.inlier.numpy(), flags[72:])


def test_residuals_in_closed_form() -> None:
    shift = np.array([[1.0, 0, 10], [0, 1, 0], [0, 0, 1]])
    points = np.array([[0.0, 0.0], [5.0, 7.0]])
    assert residuals(shift, "homography", points, points + np.array([13, 4])) == pytest.approx([5, 5])
    # Rectified stereo: x1' F x0 = y1 - y0, so rows must agree; half the squared error belongs to each image.
    rectified = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    assert residuals(rectified, "fundamental", points, points + np.array([-20, 3])) == pytest.approx(
        [3 / np.sqrt(2)] * 2
    )
    at_infinity = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert np.isinf(residuals(at_infinity, "homography", points, points)).all()


def test_bad_arguments_are_named() -> None:
    matches, _ = scene("homography", 10, 0)
    with pytest.raises(ConfigError, match="'affine'; use one of homography, fundamental, essential"):
        verify(matches, "affine")
    with pytest.raises(ConfigError, match="'ransac'; use one of magsac, poselib"):
        verify(matches, "homography", backend="ransac")
    for threshold in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="threshold_px"):
            verify(matches, "homography", threshold_px=threshold)
    with pytest.raises(ConfigError, match="needs the camera matrices"):
        verify(matches, "essential", K0=K0)
    with pytest.raises(ConfigError, match="of no use"):
        verify(matches, "homography", K0=K0, K1=K1)
    with pytest.raises(ShapeError, match="K1 must be a 3 x 3"):
        verify(matches, "essential", K0=K0, K1=np.eye(4))
    with pytest.raises(ConfigError, match="K0 is no camera matrix"):
        verify(matches, "essential", K0=np.zeros((3, 3)), K1=K1)


def test_the_former_name_of_magsac_is_understood() -> None:
    matches, _ = scene("homography", 30, 5)
    assert torch.equal(verify(matches, "homography", backend="opencv").model, verify(matches, "homography").model)
