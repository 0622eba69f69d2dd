"""Calibrated cameras against OpenCV's projections and closed forms."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.geometry.camera_info import camera_of, projection_of
from semantic_matcher_core.geometry.stereo import point_colours, points_from_disparity, sparse_points, why_few_points
from semantic_matcher_core.matching.calibrated import verify_calibrated
from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.motion.pose import Pose
from semantic_matcher_core.types import Matches
from semantic_matcher_core.weights.hashing import sha256_of_weights

K = np.array([[410.0, 0.0, 321.0], [0.0, 405.0, 238.0], [0.0, 0.0, 1.0]])
DISTORTIONS = {
    "plumb_bob": [-0.28, 0.09, 0.001, -0.0007, -0.012],
    "rational_polynomial": [0.4, 0.1, 0.0005, -0.0003, 0.01, 0.75, 0.15, 0.03],
    "equidistant": [0.02, -0.01, 0.003, -0.0005],
}


def scene(count: int = 300) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.uniform((-2, -1.5, 3), (2, 1.5, 7), (count, 3))


def project(points: np.ndarray, model: str, coefficients: list[float], rotation=(0, 0, 0), translation=(0, 0, 0)):
    """Pixels by OpenCV's own forward model."""
    r, t = np.array(rotation, float), np.array(translation, float)
    forward = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    if model == "equidistant":
        pixels, _ = forward(points[:, None], r, t, K, np.array(coefficients))
    else:
        pixels, _ = forward(points, r, t, K, np.array(coefficients) if coefficients else None)
    return pixels.reshape(-1, 2)


@pytest.mark.parametrize("model", DISTORTIONS)
def test_undistorted_undoes_the_projection(model):
    camera = Camera(K, model, DISTORTIONS[model])
    bent, straight = project(scene(), model, DISTORTIONS[model]), project(scene(), "", [])
    assert np.abs(bent - straight).max() > 1
    np.testing.assert_allclose(camera.undistorted(bent), straight, atol=1e-3)
    assert camera.undistorted(np.zeros((0, 2))).shape == (0, 2)


@pytest.mark.parametrize("model", ["plumb_bob", "rational_polynomial"])
def test_the_corners_of_a_wide_lens_are_undistorted_as_well_as_its_middle(model):
    # EuRoC's cam0, and a wide rational lens: OpenCV's own five rounds are half a pixel off there.
    coefficients = [-0.28, 0.07, 0.0002, 1e-5] if model == "plumb_bob" else [5.0, 2, 0.001, 0.001, 0.1, 5.4, 3.5, 0.5]
    x, y = np.meshgrid(np.linspace(-1.1, 1.1, 12), np.linspace(-0.8, 0.8, 9))
    rays = np.stack((x, y, np.ones_like(x)), axis=-1).reshape(-1, 3)
    bent, straight = project(rays, model, coefficients), project(rays, "", [])
    np.testing.assert_allclose(Camera(K, model, coefficients).undistorted(bent), straight, atol=1e-3)


def test_a_camera_and_a_pose_keep_what_they_were_given():
    coefficients, points, turn, step = np.array(DISTORTIONS["plumb_bob"]), np.ones((2, 2)), np.eye(3), np.ones(3)
    camera, pose = Camera(K, "plumb_bob", coefficients), Pose(turn, step)
    Camera(K).undistorted(points)[:] = 7
    coefficients[:], turn[:], step[:] = 0, 0, 0
    assert camera.distorts and (points == 1).all()
    np.testing.assert_array_equal(pose.matrix[:, 3], 1)
    np.testing.assert_array_equal(pose.rotation, np.eye(3))


def test_without_coefficients_nothing_moves():
    points = np.random.default_rng(1).uniform(0, 600, (9, 2))
    for camera in (Camera(K), Camera(K, "plumb_bob", np.zeros(5)), Camera(K, "", [])):
        np.testing.assert_array_equal(camera.undistorted(points), points)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((np.zeros((3, 3)),), ConfigError, "calibrate"),
        ((np.eye(4),), ShapeError, "3 x 3"),
        (("camera.yaml",), ShapeError, "3 x 3 numbers, got str"),
        ((K, "fov", [0.9]), ConfigError, "'fov'"),
        ((K, "plumb_bob", [0.1, 0.2]), ConfigError, "4 or 5 or 8 or 12 or 14"),
        ((K, "plumb_bob", [np.nan, 0, 0, 0]), ConfigError, "finite"),
    ],
)
def test_bad_calibrations_are_named(arguments, error, named):
    with pytest.raises(error, match=named):
        Camera(*arguments)


@pytest.mark.parametrize("backend", ["opencv", "poselib"])
@pytest.mark.parametrize("model", ["", *DISTORTIONS])
def test_the_check_sees_through_distortion(backend, model):
    coefficients = DISTORTIONS.get(model, [])
    moved = {"rotation": (0.02, 0.06, -0.01), "translation": (0.5, 0.05, 0.1)}
    pixels0, pixels1 = project(scene(), model, coefficients), project(scene(), model, coefficients, **moved)
    pixels1[::5] += np.random.default_rng(2).uniform(20, 60, (60, 2))
    count = len(pixels0)
    indices = torch.arange(count)[:, None].expand(-1, 2)
    matches = Matches(indices, torch.from_numpy(pixels0).float(), torch.from_numpy(pixels1).float(), torch.ones(count))
    camera = Camera(K, model, coefficients)
    given = camera if model else K  # a matrix is a camera without distortion
    checked = verify_calibrated(matches, given, given, threshold_px=1.0, backend=backend)
    good = np.ones(count, bool)
    good[::5] = False
    inlier = checked.inlier.numpy()
    assert inlier[good].mean() > 0.97 and inlier[~good].mean() < 0.2
    assert checked.model_type == "essential"
    assert checked.keypoints0 is matches.keypoints0 and checked.keypoints1 is matches.keypoints1
    x, y, z = moved["translation"]
    expected = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ cv2.Rodrigues(np.array(moved["rotation"]))[0]
    expected /= np.linalg.norm(expected)
    difference = min(np.abs(checked.model.numpy() - s * expected).max() for s in (1, -1))
    assert difference < 0.03
    if model == "":
        same = verify(matches, "essential", threshold_px=1.0, K0=K, K1=K, backend=backend)
        np.testing.assert_array_equal(same.inlier, checked.inlier)


def rectified(baseline: float, left_shift: float = 0.0, cx_right: float = 321.0) -> tuple[np.ndarray, np.ndarray]:
    p0 = np.hstack([K, [[-410.0 * left_shift], [0], [0]]])
    p1 = np.hstack([K, [[-410.0 * (left_shift + baseline)], [0], [0]]])
    p1[0, 2] = cx_right
    return p0, p1


@pytest.mark.parametrize("cx_right", [321.0, 300.0])
@pytest.mark.parametrize("left_shift", [0.0, 0.1])
def test_disparities_give_the_points_back(cx_right, left_shift):
    points = scene()
    p0, p1 = rectified(0.12, left_shift, cx_right)

    def seen(p, world):
        image = np.hstack([world, np.ones((len(world), 1))]) @ p.T
        return image[:, :2] / image[:, 2:]

    # The projection matrices take the pair's frame; the result is in the left camera's own.
    own = points - (left_shift, 0, 0)
    np.testing.assert_allclose(points_from_disparity(seen(p0, points), seen(p1, points), p0, p1), own, rtol=1e-9)


def test_what_has_no_depth_is_nan():
    p0, p1 = rectified(0.12)
    points = points_from_disparity(
        np.array([[10.0, 5], [10, 5], [10, 5]]), np.array([[10.0, 5], [12, 5], [9, 5]]), p0, p1
    )
    assert np.isnan(points[:2]).all() and np.isfinite(points[2]).all()
    assert points_from_disparity(np.zeros((0, 2)), np.zeros((0, 2)), p0, p1).shape == (0, 3)


def test_sparse_points_leave_out_what_cannot_be_right():
    p0, p1 = rectified(0.12)
    left = np.array([[400.0, 100], [400, 100], [400, 100], [400, 100], [400, 100]])
    right = np.array([[390.0, 100], [390, 103], [399.5, 100], [410, 100], [380, 101]])
    matches = Matches(
        torch.arange(5)[:, None].expand(-1, 2),
        torch.from_numpy(left).float(),
        torch.from_numpy(right).float(),
        torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]),
    )
    options = {"max_row_difference": 2.0, "min_disparity": 1.0}
    points, confidence = sparse_points(matches, p0, p1, **options)
    np.testing.assert_allclose(points[:, 2], [410 * 0.12 / 10, 410 * 0.12 / 20], rtol=1e-6)
    np.testing.assert_allclose(confidence, [0.9, 0.5])
    assert points.dtype == confidence.dtype == np.float32
    checked = replace(matches, inlier=torch.tensor([False, True, True, True, True]))
    np.testing.assert_allclose(sparse_points(checked, p0, p1, **options)[1], [0.5])
    nothing = replace(matches, inlier=torch.zeros(5, dtype=torch.bool))
    assert [a.shape for a in sparse_points(nothing, p0, p1, **options)] == [(0, 3), (0,)]
    # Each point has the colour of its place in the left image.
    image = np.zeros((480, 640, 3), np.uint8)
    image[100, 400] = (10, 20, 30)
    assert point_colours(points, p0, image).tolist() == [[10, 20, 30]] * 2
    assert point_colours(points, p0, image[..., 0]).tolist() == [[10, 10, 10]] * 2
    assert point_colours(points[:0], p0, image).shape == (0, 3)


@pytest.mark.parametrize(
    ("disparity", "rows", "measured", "words"),
    [
        (12.0, 0.0, 40, ""),
        (-12.0, 0.0, 40, "disparity is -12.0 pixels (median), as of images that are exchanged"),
        (torch.tensor([-12.0, 0.5, -3.0, 0.5] * 10), 0.0, 40, "disparities are of either sign"),
        (0.5, 0.0, 40, "0.50 pixels (median), less than min_disparity (1)"),
        (12.0, 7.0, 40, "rows differ by 7.0 pixels (median), and 2 are allowed"),
        (12.0, 0.0, 1, "of 39 the disparity cannot be measured"),
    ],
)
def test_it_is_told_why_matches_become_no_points(disparity, rows, measured, words):
    p0, p1 = rectified(0.12)
    left = torch.full((40, 2), 300.0)
    matches = Matches(
        torch.arange(40)[:, None].expand(-1, 2),
        left,
        left - torch.stack([torch.as_tensor(disparity).expand(40), torch.full((40,), rows)], dim=1),
        torch.ones(40),
    )
    found = replace(
        matches, **{k: getattr(matches, k)[:measured] for k in ("indices", "keypoints0", "keypoints1", "confidence")}
    )
    options = {"max_row_difference": 2.0, "min_disparity": 1.0}
    points, _ = sparse_points(found, p0, p1, **options)
    text = why_few_points(matches, found, len(points), p0, p1, **options)
    assert (text.startswith(f"{len(points)} of 40 matches became points: ") and words in text) if words else not text
    # Where a check has left none, that says nothing of points.
    unchecked = replace(matches, inlier=torch.zeros(40, dtype=torch.bool))
    assert why_few_points(unchecked, found, 0, p0, p1, **options) == ""


def test_calibrations_without_a_size_are_said_to_be_none():
    info = SimpleNamespace(height=0, width=0, binning_x=0, binning_y=0, p=np.zeros(12), k=np.eye(3).reshape(-1),
                           roi=SimpleNamespace(height=0, width=0, x_offset=0, y_offset=0))  # fmt: skip
    for read in (camera_of, projection_of):
        with pytest.raises(ConfigError, match=r"/camera_info gives no size of its images \(0 x 0\).*calibrate"):
            read(info, (480, 640), name="/camera_info")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p0, p1: (p1, p0), "are the two sides exchanged"),
        (lambda p0, p1: (p0, p0), "no baseline.*calibrate the two cameras as a pair"),
        (lambda p0, p1: (p0, p0 - np.outer([0, 30, 0], [0, 0, 0, 1])), "no baseline.*one above the other"),
        (lambda p0, p1: (p0 * 0, p1), "left camera is not calibrated"),
        (lambda p0, p1: (p0, p1 * [[2, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]), "not a rectified pair"),
    ],
)
def test_bad_pairs_are_named(change, named):
    with pytest.raises(ConfigError, match=named):
        points_from_disparity(np.zeros((1, 2)), np.zeros((1, 2)), *change(*rectified(0.12)))


def test_the_hash_of_weights_depends_on_their_values_alone():
    torch.manual_seed(0)
    one = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    assert sha256_of_weights(one) != sha256_of_weights(other)
    other.load_state_dict(one.state_dict())
    assert sha256_of_weights(one) == sha256_of_weights(other.to(memory_format=torch.channels_last))
    assert len(sha256_of_weights(one)) == 64
    with torch.no_grad():
        other[0].bias[0] += 1e-6
    assert sha256_of_weights(one) != sha256_of_weights(other)
    assert sha256_of_weights(torch.nn.ReLU()) == ""


def test_what_is_wrong_with_a_calibration_is_told_with_what_would_do() -> None:
    roi = SimpleNamespace(height=0, width=0, x_offset=0, y_offset=0)
    info = SimpleNamespace(height=240, width=320, binning_x=2, binning_y=2, k=K.reshape(-1), d=(), p=np.zeros(12),
                           distortion_model="plumb_bob", roi=roi)  # fmt: skip
    assert camera_of(info, (120, 160)).matrix[0, 0] == K[0, 0] / 2
    with pytest.raises(
        ConfigError, match=r"images of 160 x 120 \(of 320 x 240, by its roi and binning\), but they are"
    ):
        camera_of(info, (240, 320))
    with pytest.raises(ConfigError, match=r"camera_info: P, .*, is all zeros; .* set rectified to false"):
        camera_of(info, (120, 160), rectified=True)


@pytest.mark.parametrize(
    ("model", "sent", "used"),
    [
        ("equidistant", (0.1, -0.02, 0.0, 0.003, 0.0), 4),
        ("equidistant", (0.1, 0.0, 0.0, 0.0, 0.0), 4),
        ("plumb_bob", (0.1, -0.02, 0.001, 0.0, 0.01, 0.0, 0.0), 5),
        ("plumb_bob", (0.1, 0.0, 0.0, 0.0, 0.0), 5),
        ("rational_polynomial", (0.1, *(0.01,) * 7, *(0.0,) * 6), 14),
    ],
)
def test_zeros_at_the_end_are_no_coefficients(model: str, sent: tuple[float, ...], used: int) -> None:
    """As drivers send them whose arrays have a fixed length."""
    camera = Camera(K, model, np.array(sent))
    np.testing.assert_array_equal(camera.distortion, sent[:used])
    assert np.isfinite(camera.undistorted(np.array([[10.0, 20.0]]))).all()


def test_the_two_names_of_opencvs_model_are_one() -> None:
    """Some drivers call eight coefficients plumb_bob, and five a rational polynomial, as image_geometry lets them."""
    for count in (5, 8):
        sent = np.array([0.1, -0.02, 0.001, 0.002, 0.01, 0.02, -0.01, 0.003])[:count]
        found = [Camera(K, m, sent).undistorted(np.array([[9.0, 7.0]])) for m in ("plumb_bob", "rational_polynomial")]
        np.testing.assert_array_equal(*found)


def test_more_coefficients_than_the_model_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="equidistant has 4 coefficients, got 5"):
        Camera(K, "equidistant", np.array([0.1, 0.0, 0.0, 0.0, 0.01]))
