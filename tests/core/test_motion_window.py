"""Ties between keyframes: against weighted means in closed form, and sampled errors."""

from __future__ import annotations

import numpy as np

from semantic_matcher_core.motion.metric import PoseEstimate
from semantic_matcher_core.motion.pose import Pose, exp_so3
from semantic_matcher_core.motion.view import View
from semantic_matcher_core.motion.window import Window

VIEW = View(None, None)  # type: ignore[arg-type]


def estimate(pose: Pose, covariance: np.ndarray) -> PoseEstimate:
    return PoseEstimate(pose, covariance, np.ones(20, bool), 0.1)


def covariance(random: np.random.Generator, size: float) -> np.ndarray:
    half = size * random.normal(size=(6, 6))
    return half @ half.T + size**2 * np.eye(6) / 4


def some_pose(random: np.random.Generator) -> Pose:
    return Pose(exp_so3(random.normal(0, 0.4, 3)), random.normal(0, 1, 3))


def test_a_tie_is_the_mean_weighted_by_what_each_way_knows():
    random, unit = np.random.default_rng(0), np.diag([1e-4] * 3 + [1e-30] * 3)
    first, second, both = random.normal(0, 1, (3, 3))
    window = Window()
    a = window.begin(VIEW, Pose(), 0)
    b = window.add(VIEW, a, estimate(Pose(np.eye(3), first), unit))
    c = window.add(VIEW, b, estimate(Pose(np.eye(3), second), unit))
    worth = window.worth(c, a, 2 * unit)
    tied = window.tie(c, a, estimate(Pose(np.eye(3), both), 2 * unit))
    # Two ways of two units of variance each: half of both.
    np.testing.assert_allclose(tied.pose.translation, (first + second + both) / 2, atol=1e-9)
    np.testing.assert_allclose(tied.covariance[:3, :3], np.eye(3) * 1e-4, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(b.covariance, unit, atol=1e-12)
    assert np.isclose(worth, 1 - np.sqrt(0.5), rtol=1e-3)
    # The second way again through b, whose error is in it already: it tells of the last step alone.
    again = window.tie(tied, b, estimate(Pose(np.eye(3), second), 1e6 * unit))
    np.testing.assert_allclose(again.covariance, tied.covariance, rtol=1e-4, atol=1e-12)


def test_errors_are_as_large_as_the_joint_covariance_says():
    """Of a fourth view that is tied to three others, which hang on each other."""
    random, normalised, alone = np.random.default_rng(1), [], []
    true = [Pose(), *(some_pose(random) for _ in range(3))]
    ways = {(i, j): covariance(random, 2e-3) for j in range(4) for i in range(j)}

    def measured(i: int, j: int) -> PoseEstimate:
        step = true[i].inverse() @ true[j]
        return estimate(step.moved(random.multivariate_normal(np.zeros(6), ways[i, j])), ways[i, j])

    for _ in range(200):
        window = Window()
        placed = [window.begin(VIEW, true[0], 0)]
        for j in (1, 2, 3):
            newest = window.add(VIEW, placed[-1], measured(j - 1, j))
            if j == 3:
                alone.append(np.linalg.norm(newest.pose.change_to(true[3])))
            for i in range(j - 1):
                newest = window.tie(newest, placed[i], measured(i, j))
            placed.append(newest)
        error = newest.pose.change_to(true[3])
        normalised.append((error @ np.linalg.solve(newest.covariance, error) / 6, np.linalg.norm(error)))
    ratio, length = np.mean(normalised, axis=0)
    assert 0.85 < ratio < 1.15
    assert length < 0.8 * np.mean(alone)


def test_what_is_forgotten_leaves_the_others_as_they_were():
    random, window = np.random.default_rng(2), Window()
    placed = [window.begin(VIEW, Pose(), 0)]
    for _ in range(3):
        placed.append(window.add(VIEW, placed[-1], estimate(some_pose(random), covariance(random, 1e-3))))
    measured = estimate(placed[1].pose.inverse() @ placed[3].pose, covariance(random, 1e-3))
    worth = window.worth(placed[3], placed[1], measured.covariance)
    window.keep([placed[1], placed[3]])
    assert 0 < window.worth(placed[3], placed[1], measured.covariance) == worth < 1
    tied = window.tie(placed[3], placed[1], measured)
    assert np.trace(tied.covariance) < np.trace(placed[3].covariance)
    np.testing.assert_allclose(tied.pose.matrix, placed[3].pose.matrix, atol=1e-9)
    # Another segment hangs on nothing here: tying to what is exact tells all that the measurement tells.
    other = window.begin(VIEW, some_pose(random), 1)
    assert (other.covariance == 0).all() and window.worth(other, tied, covariance(random, 1e-3)) == 0
