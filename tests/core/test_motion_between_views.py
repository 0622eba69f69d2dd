"""Pose between two views, up to scale and metric: against exact poses, with noise, outliers and degenerate scenes."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import semantic_matcher_core as smc
from semantic_matcher_core.errors import ConfigError, PoseError, ShapeError
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.motion.metric import Observation, metric_pose
from semantic_matcher_core.motion.pose import Pose, exp_so3
from semantic_matcher_core.motion.relative import relative_pose
from semantic_matcher_core.types import Matches

K = np.array([[500.0, 0, 320], [0, 495.0, 240], [0, 0, 1]])
LENSES = {
    "": [],
    "plumb_bob": [-0.28, 0.09, 0.001, -0.0007, -0.012],
    "rational_polynomial": [0.4, 0.1, 0.0005, -0.0003, 0.01, 0.75, 0.15, 0.03],
    "equidistant": [0.02, -0.01, 0.003, -0.0005],
}


def scene(random: np.random.Generator, count: int) -> np.ndarray:
    return random.uniform((-2, -1.5, 3), (2, 1.5, 8), (count, 3))


def seen(points: np.ndarray, camera: Camera) -> np.ndarray:
    zero = np.zeros(3)
    if camera.distortion_model == "equidistant":
        return cv2.fisheye.projectPoints(points[:, None], zero, zero, camera.matrix, camera.distortion)[0][:, 0]
    return cv2.projectPoints(points, zero, zero, camera.matrix, camera.distortion)[0][:, 0]


def matches_of(pixels0: np.ndarray, pixels1: np.ndarray, inlier: np.ndarray | None = None) -> Matches:
    count = len(pixels0)
    return Matches(
        torch.arange(count)[:, None].expand(-1, 2),
        torch.from_numpy(pixels0).double(),
        torch.from_numpy(pixels1).double(),
        torch.ones(count),
        inlier=None if inlier is None else torch.from_numpy(inlier),
    )


STEP = Pose(exp_so3(np.array([0.02, -0.06, 0.03])), np.array([0.3, -0.05, 0.1]))


@pytest.mark.parametrize("lens", LENSES)
def test_relative_pose_through_any_lens(lens):
    random = np.random.default_rng(0)
    points, camera = scene(random, 300), Camera(K, lens, LENSES[lens])
    pixels0, pixels1 = seen(points, camera), seen(STEP.inverse().apply(points), camera)
    wrong = np.arange(300) % 4 == 0
    pixels1[wrong] += random.uniform(30, 90, (wrong.sum(), 2))
    found = smc.relative_pose(matches_of(pixels0, pixels1), camera)
    assert found.has_translation
    assert np.degrees((found.pose.inverse() @ STEP).angle) < 0.01
    direction = STEP.translation / np.linalg.norm(STEP.translation)
    np.testing.assert_allclose(found.pose.translation, direction, atol=2e-3)
    assert found.inliers[~wrong].all() and found.inliers[wrong].mean() < 0.1


@pytest.mark.parametrize("seed", range(8))
def test_of_a_plane_the_right_motion_or_none(seed):
    # A plane has two motions; often both have it in front of both cameras.
    random = np.random.default_rng(seed)
    camera, normal = Camera(K), np.array([*random.normal(0, 0.4, 2), 1.0])
    rays = np.column_stack([random.uniform(-0.6, 0.6, (100, 2)) * (1, 0.75), np.ones(100)])
    points = rays * (5 / (rays @ normal))[:, None]
    step = Pose(exp_so3(random.normal(0, 0.05, 3)), random.normal(0, 0.3, 3))
    pixels = [seen(p, camera) + random.normal(0, 0.3, (100, 2)) for p in (points, step.inverse().apply(points))]
    try:
        found = relative_pose(matches_of(*pixels), camera)
    except PoseError as error:
        assert "two motions" in str(error) or "where to" in str(error)
    else:
        direction = step.translation / np.linalg.norm(step.translation)
        assert np.arccos(found.pose.translation @ direction) < 6 * np.sqrt(np.trace(found.covariance[:3, :3]))
    # A few points off the plane tell the two apart.
    points[::5] *= random.uniform(0.6, 0.9, (20, 1))
    pixels = [seen(p, camera) + random.normal(0, 0.1, (100, 2)) for p in (points, step.inverse().apply(points))]
    found = relative_pose(matches_of(*pixels), camera)
    assert np.degrees((found.pose.inverse() @ step).angle) < 0.5


@pytest.mark.parametrize("width", [0.1, 0.4])
@pytest.mark.parametrize("shift", [0.0, 0.03, 0.3])
def test_a_step_before_a_plane_is_no_certain_turn(width, shift):
    # What faces the camera moves by a step nearly as by a turn, the more so the less of it is seen.
    turn, off = exp_so3(np.array([0.01, 0.02, 0])), []
    for seed in range(12):
        random = np.random.default_rng(seed)
        points = np.column_stack([random.uniform(-width, width, (100, 2)) * (5, 4), np.full(100, 5.0)])
        views = (points, points @ turn.T + (shift, 0, 0))
        pixels = [seen(p, Camera(K)) + random.normal(0, 0.3, (100, 2)) for p in views]
        try:
            found = relative_pose(matches_of(*pixels), Camera(K))
        except PoseError:
            continue
        error = (found.pose @ Pose(turn)).change_to(Pose())[3:]
        off.append(error @ np.linalg.solve(found.covariance[3:, 3:], error) / 3)
        assert shift or np.degrees(np.sqrt(np.trace(found.covariance[3:, 3:]))) < 0.3 / width
    assert np.mean(off or 0) < 4


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("slope", [(1, 0.5, 0), (1, 0.5, 1), (0, 0, 0)], ids=["flat", "deep", "one place"])
def test_matches_on_one_line_are_no_pose(slope, noise):
    # Turned about the line, everything looks the same: the residuals are small, and what they say of the pose is wrong.
    random = np.random.default_rng(4)
    points, camera = random.uniform(-1, 1, (60, 1)) * slope + (0, 0, 5), Camera(K)
    moved = STEP.inverse().apply(points)
    pixels0, pixels1 = (seen(p, camera) + random.normal(0, noise, (60, 2)) for p in (points, moved))
    with pytest.raises(PoseError, match=r"one line|agree on one motion"):
        relative_pose(matches_of(pixels0, pixels1), camera)
    near = np.linspace(0, 1, 60) < 0.7
    views = [
        Observation((pixels - K[:2, 2]) / K[[0, 1], [0, 1]], 1 / p[:, 2], np.full(60, 1e-4), 500.0)
        for pixels, p in ((pixels0, points), (pixels1, moved))
    ]
    with pytest.raises(PoseError, match=r"one line|agree on one motion|say nothing"):
        metric_pose(*views)
    # With some matches beside the line there is one.
    points[~near] = scene(random, 60)[~near]
    pixels0, pixels1 = (seen(p, camera) for p in (points, STEP.inverse().apply(points)))
    found = relative_pose(matches_of(pixels0, pixels1), camera)
    assert np.degrees((found.pose.inverse() @ STEP).angle) < 0.1


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_relative_poses_are_as_uncertain_as_they_say(share):
    """Also of a fifth of the step, which moves points by some 5 pixels of which half a pixel is noise."""
    random = np.random.default_rng(1)
    camera, normalised = Camera(K), []
    direction = STEP.translation / np.linalg.norm(STEP.translation)
    step = Pose(STEP.rotation, share * STEP.translation)
    for trial in range(12):
        points = scene(random, 250)
        pixels = [seen(p, camera) + random.normal(0, 0.5, (250, 2)) for p in (points, step.inverse().apply(points))]
        found = relative_pose(matches_of(*pixels), camera, seed=trial)
        assert found.has_translation
        error = found.pose.change_to(Pose(STEP.rotation, direction))
        error[:3] -= found.pose.translation * (found.pose.translation @ error[:3])
        normalised.append(error @ np.linalg.pinv(found.covariance, rcond=1e-8, hermitian=True) @ error / 5)
        assert np.isclose(found.pose.translation @ found.covariance[:3, :3] @ found.pose.translation, 0, atol=1e-12)
    assert 0.5 < np.mean(normalised) < 2


def test_a_step_too_small_to_be_seen_is_none():
    random = np.random.default_rng(4)
    camera, step = Camera(K), Pose(STEP.rotation, 0.02 * STEP.translation)
    for trial in range(4):
        points = scene(random, 250)
        pixels = [seen(p, camera) + random.normal(0, 0.5, (250, 2)) for p in (points, step.inverse().apply(points))]
        found = relative_pose(matches_of(*pixels), camera, seed=trial)
        assert not found.has_translation
        turn = found.pose.change_to(step)[3:]
        assert turn @ np.linalg.solve(found.covariance[3:, 3:], turn) / 3 < 4


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("turn", [0.0, 0.1])
def test_a_camera_that_only_turns_has_no_translation(turn, noise):
    random = np.random.default_rng(2)
    points, camera = scene(random, 300), Camera(K)
    rotation = Pose(exp_so3(np.array([0.2, 1, 0.1]) * turn))
    pixels = [seen(p, camera) + random.normal(0, noise, (300, 2)) for p in (points, rotation.inverse().apply(points))]
    found = relative_pose(matches_of(*pixels), camera)
    assert not found.has_translation and (found.pose.translation == 0).all()
    error = found.pose.change_to(rotation)
    assert np.degrees(np.linalg.norm(error[3:])) < 0.05
    assert np.isfinite(found.covariance).all()
    assert error[3:] @ np.linalg.pinv(found.covariance[3:, 3:]) @ error[3:] / 3 < 3


def test_relative_poses_that_cannot_be_are_named():
    random = np.random.default_rng(3)
    camera = Camera(K)
    for count in (0, 1, 14):
        with pytest.raises(PoseError, match=f"{count} matches"):
            relative_pose(matches_of(np.zeros((count, 2)), np.zeros((count, 2))), camera)
    with pytest.raises(PoseError, match="agree on one motion"):
        relative_pose(matches_of(*random.uniform(0, 480, (2, 60, 2))), camera)
    pixels = seen(scene(random, 60), camera)
    with pytest.raises(PoseError, match="0 matches"):
        relative_pose(matches_of(pixels, pixels, np.zeros(60, bool)), camera)
    with pytest.raises(ConfigError, match="threshold_px"):
        relative_pose(matches_of(pixels, pixels), camera, threshold_px=0)
    several = Matches(torch.zeros(0, 2).long(), torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0), torch.zeros(0), 2)
    with pytest.raises(ConfigError, match="one pair"):
        relative_pose(several, camera)


def observed(random, points, *, noise=0.5, disparity_noise=0.1, depth=True, baseline=0.12) -> Observation:
    rays = points[:, :2] / points[:, 2:] + random.normal(0, noise / 500, (len(points), 2))
    std = np.full(len(points), disparity_noise / (500 * baseline))
    inverse = 1 / points[:, 2] + random.normal(0, 1, len(points)) * std
    return Observation(rays, inverse if depth else np.full(len(points), np.nan), std, 500.0)


@pytest.mark.parametrize(
    ("count", "noise", "outliers", "depth"),
    [(400, 0.5, 0.3, True), (400, 0.5, 0.3, False), (200, 0.15, 0.0, True), (60, 0.5, 0.0, True)],
)
def test_metric_poses_are_as_uncertain_as_they_say(count, noise, outliers, depth):
    random = np.random.default_rng(4)
    normalised = []
    for trial in range(20):
        points = scene(random, count)
        first = observed(random, points, noise=noise)
        second = observed(random, STEP.inverse().apply(points), noise=noise, depth=depth)
        wrong = random.random(count) < outliers
        second.rays[wrong] += random.uniform(-0.5, 0.5, (wrong.sum(), 2))
        found = metric_pose(first, second, seed=trial)
        error = found.pose.change_to(STEP)
        assert np.linalg.norm(error[:3]) < 0.03 and np.linalg.norm(error[3:]) < 0.003
        assert found.inliers[~wrong].mean() > 0.9 and found.inliers[wrong].sum() <= 3
        normalised.append(error @ np.linalg.solve(found.covariance, error) / 6)
    assert 0.5 < np.mean(normalised) < 2


def test_errors_that_neighbours_share_make_a_pose_less_certain():
    """As of a rolling shutter: a smooth field over the image, a new one each time."""
    random, normalised = np.random.default_rng(8), []
    for trial in range(30):
        points = scene(random, 300)
        first = observed(random, points, noise=0.3)
        second = observed(random, STEP.inverse().apply(points), noise=0.3)
        phase, wave = random.uniform(0, 6, (3, 2)), random.normal(0, 16, (3, 2, 2))
        field = sum(np.sin(second.rays @ w + p) for w, p in zip(wave, phase, strict=True)) / 500
        found = metric_pose(first, replace(second, rays=second.rays + field), seed=trial)
        error = found.pose.change_to(STEP)
        normalised.append(error @ np.linalg.solve(found.covariance, error) / 6)
    assert 0.5 < np.mean(normalised) < 4  # 8, were each point's error its own


def test_keypoints_that_stay_where_they_were_do_not_hold_aligned_ones_back():
    """A detector finds points at the same pixels again while they moved by less than a pixel."""
    random = np.random.default_rng(9)
    small = Pose(exp_so3(np.array([0.0005, -0.0006, 0.0])), np.zeros(3))
    normalised = []
    for trial in range(20):
        points = scene(random, 400)
        aligned = np.arange(400) % 4 == 0
        true = observed(random, small.inverse().apply(points), noise=0.03)
        first = observed(random, points, noise=0)
        stuck = first.rays + random.normal(0, 0.1 / 500, (400, 2))
        second = replace(true, rays=np.where(aligned[:, None], true.rays, stuck))
        found = metric_pose(first, second, seed=trial, aligned=aligned)
        error = found.pose.change_to(small)
        assert np.linalg.norm(error[3:]) < 0.2 * small.angle
        normalised.append(error @ np.linalg.solve(found.covariance, error) / 6)
    assert np.mean(normalised) < 3


def test_metric_pose_of_exact_points_is_exact_and_stands_still():
    random = np.random.default_rng(5)
    points = scene(random, 50)
    first = observed(random, points, noise=0, disparity_noise=1e-9)
    second = observed(random, STEP.inverse().apply(points), noise=0, disparity_noise=1e-9)
    np.testing.assert_allclose(metric_pose(first, second).pose.matrix, STEP.matrix, atol=1e-7)
    still = metric_pose(first, first)
    np.testing.assert_allclose(still.pose.matrix, np.eye(4), atol=1e-9)
    assert (np.linalg.eigvalsh(still.covariance) > 0).all()


def test_metric_poses_that_cannot_be_are_named():
    random = np.random.default_rng(6)
    points = scene(random, 40)
    good, none = observed(random, points), observed(random, points, depth=False)
    with pytest.raises(PoseError, match="0 of 40 matches have depth"):
        metric_pose(none, good)
    for count in (0, 1, 3):
        with pytest.raises(PoseError, match="a pose needs 12"):
            metric_pose(good[:count], good[:count])
    with pytest.raises(PoseError, match="agree on one motion"):
        metric_pose(good, observed(random, scene(random, 40)))
    line = np.column_stack([np.linspace(-1, 1, 40), np.zeros(40), np.full(40, 4.0)])
    one = np.tile([[0.1, 0.2, 4.0]], (40, 1))
    for degenerate in (line, one):
        with pytest.raises(PoseError):
            metric_pose(*(observed(random, degenerate, noise=0, disparity_noise=1e-6) for _ in range(2)))
    with pytest.raises(ShapeError, match="come in pairs"):
        metric_pose(good, good[:10])
    with pytest.raises(ShapeError):
        Observation(np.zeros((3, 2)), np.zeros(2), np.zeros(3), 500.0)
    broken = observed(random, points)
    broken.rays[0], broken.inverse_depth[1], broken.inverse_depth[2] = np.nan, np.inf, -1
    found = metric_pose(broken, broken)
    assert np.isfinite(found.pose.matrix).all() and not found.inliers[:3].any()


def test_a_matrix_is_a_camera_without_distortion():
    points, camera = scene(np.random.default_rng(1), 100), Camera(K)
    matches = matches_of(seen(points, camera), seen(STEP.inverse().apply(points), camera))
    expected = relative_pose(matches, camera).pose
    for given in ((K,), (K, K)):
        assert np.array_equal(relative_pose(matches, *given).pose.matrix, expected.matrix)
    with pytest.raises(ShapeError, match="3 x 3"):
        relative_pose(matches, [500.0, 495.0, 320.0, 240.0])
