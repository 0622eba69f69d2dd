"""The demo's ground truth against points in space, projected one by one."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

scenes = pytest.importorskip("semantic_matcher.demo.scenes")
sequences = pytest.importorskip("semantic_matcher.demo.sequences")


def textured(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 3.0)


def camera(**changes: object) -> scenes.Camera:
    still = scenes.Camera(scenes.pinhole(500.0, (60, 80)), (60, 80), np.eye(3), np.zeros(3))
    return replace(still, **changes)


def one_plane(height: int = 60, width: int = 80, distance: float = 2.0) -> scenes.Scene:
    layer = scenes.Layer((0.0, 0.0, 1.0), distance, textured(height, width))
    return scenes.Scene(scenes.pinhole(500.0, (height, width)), (layer,))


def project(points: np.ndarray, view: scenes.Camera) -> np.ndarray:
    """Pixels of ``N x 3`` points of the reference camera's axes."""
    seen = (points - view.centre) @ view.rotation.T
    return seen[:, :2] / seen[:, 2:] * view.matrix[[0, 1], [0, 1]] + view.matrix[:2, 2]


def test_the_homography_is_the_way_through_space() -> None:
    random = np.random.default_rng(4)
    normal, distance = (0.2, -0.3, 0.9), 1.7
    scene = scenes.Scene(scenes.pinhole(600.0, (50, 70)), (scenes.Layer(normal, distance, textured(50, 70)),))
    view = camera(rotation=scenes.rotation(3.0, -5.0, 20.0), centre=np.array([0.1, -0.2, 0.3]))
    pixels = random.uniform((0, 0), (70, 50), (100, 2))
    rays = np.concatenate([(pixels - (34.5, 24.5)) / 600.0, np.ones((100, 1))], axis=1)
    points = rays * (distance / (rays @ normal))[:, None]
    np.testing.assert_allclose(points @ normal, distance, atol=1e-12)
    np.testing.assert_allclose(
        cv2.perspectiveTransform(pixels[None], scene.homography(0, view))[0], project(points, view), atol=1e-9
    )


def test_rotation_is_about_x_then_y_then_z() -> None:
    np.testing.assert_allclose(scenes.rotation(90, 0, 0) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(scenes.rotation(0, 90, 0) @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(scenes.rotation(0, 0, 90) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(scenes.rotation(90, 90, 0) @ [0, 1, 0], [1, 0, 0], atol=1e-12)


def test_a_shift_by_whole_pixels_moves_them_unchanged() -> None:
    scene = one_plane()
    # 500 px focal length, 2 m away: 0.004 m are one pixel.
    moved = camera().moved((0.020, -0.012, 0.0))
    image, labels = scenes.render(scene, moved), scenes.label_map(scene, moved)
    photo = scene.layers[0].texture
    np.testing.assert_array_equal(image[3:, :-5], photo[:-3, 5:])
    np.testing.assert_array_equal(labels[3:, :-5], 0)
    np.testing.assert_array_equal(labels[:, -4:], scenes.NO_LAYER)
    np.testing.assert_array_equal(image[labels == scenes.NO_LAYER], 0)


def test_moved_goes_along_the_cameras_own_axes() -> None:
    turned = camera(rotation=scenes.rotation(0.0, 0.0, 30.0), centre=np.array([0.3, 0.2, 0.1]))
    right = turned.moved((0.1, 0.0, 0.0))
    point = np.array([[0.4, 0.1, 2.5]])
    seen = (point - turned.centre) @ turned.rotation.T
    disparity = project(point, turned) - project(point, right)
    np.testing.assert_allclose(disparity, [[500.0 * 0.1 / seen[0, 2], 0.0]], atol=1e-9)


def two_planes() -> tuple[scenes.Scene, scenes.Camera, scenes.Camera]:
    """A wall 4 m away, a square 2 m away; the right camera sees the square 20 px, the wall 10 px further left."""
    wall, square = textured(60, 80), textured(60, 80)
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 35:55] = 255
    layers = (scenes.Layer((0, 0, 1), 4.0, wall), scenes.Layer((0, 0, 1), 2.0, square, mask))
    scene = scenes.Scene(scenes.pinhole(500.0, (60, 80)), layers)
    return scene, camera(), camera().moved((0.08, 0.0, 0.0))


def test_points_move_with_their_layer() -> None:
    scene, left, right = two_planes()
    labels = scenes.label_map(scene, left)
    assert labels[30, 45] == 1 and labels[10, 45] == 0
    points = np.array([[45.25, 30.0], [45.25, 10.0], [62.0, 30.0]])
    np.testing.assert_allclose(
        scenes.transfer(scene, left, right, points), [[25.25, 30.0], [35.25, 10.0], [52.0, 30.0]], atol=1e-9
    )


def test_what_is_hidden_or_outside_has_no_place() -> None:
    scene, left, right = two_planes()
    hidden = [30.0, 30.0]  # the wall at x = 20 of the right view, where the square is
    outside = [5.0, 10.0]
    nowhere = [-3.0, 10.0]
    moved = scenes.transfer(scene, left, right, np.array([hidden, outside, nowhere, [np.nan, 3.0]]))
    assert np.isnan(moved).all()
    assert scenes.transfer(scene, left, right, np.zeros((0, 2))).shape == (0, 2)


def test_transfer_and_back() -> None:
    sequence = sequences.temporal()
    (first,), (second,) = sequence.cameras(3), sequence.cameras(9)
    points = np.random.default_rng(0).uniform((0, 0), (639, 479), (300, 2))
    there = scenes.transfer(sequence.scene, first, second, points)
    kept = ~np.isnan(there[:, 0])
    assert kept.sum() > 150
    back = scenes.transfer(sequence.scene, second, first, there[kept])
    np.testing.assert_allclose(back, points[kept], atol=1e-8)


@pytest.mark.parametrize("kind", ["temporal", "stereo"])
def test_the_pixels_are_where_transfer_says(kind: str) -> None:
    sequence = getattr(sequences, kind)()
    first, second = (sequence.cameras(2) + sequence.cameras(5))[:2]
    # Without noise and exposure.
    first_image, second_image = (scenes.render(sequence.scene, view) for view in (first, second))
    y, x = np.mgrid[10:470:7, 10:630:7]
    points = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
    moved = scenes.transfer(sequence.scene, first, second, points)
    kept = ~np.isnan(moved[:, 0])
    assert kept.mean() > 0.8

    def sampled(image: np.ndarray, at: np.ndarray) -> np.ndarray:
        where = np.ascontiguousarray(at[:, None].astype(np.float32))
        return cv2.remap(image, where[..., 0], where[..., 1], cv2.INTER_LINEAR).reshape(-1, 3).astype(float)

    off = moved[kept] + (2.5, 2.5)
    error = np.abs(sampled(first_image, points[kept]) - sampled(second_image, moved[kept]))
    error_off = np.abs(sampled(first_image, points[kept]) - sampled(second_image, off))
    assert np.median(error) <= 1.0
    assert error.mean() < 0.4 * error_off.mean()


def test_noise_and_exposure() -> None:
    scene, view = one_plane(), camera()
    plain = scenes.render(scene, view).astype(float)
    noisy = scenes.render(scene, view, noise=2.0, seed=5).astype(float)
    np.testing.assert_array_equal(noisy, scenes.render(scene, view, noise=2.0, seed=5))
    assert (noisy != scenes.render(scene, view, noise=2.0, seed=6)).mean() > 0.5
    assert 1.8 < (noisy - plain).std() < 2.2
    brighter = scenes.render(scene, view, exposure=1.1).astype(float)
    assert np.abs(brighter - np.minimum(1.1 * plain, 255)).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("index", [0, 17, 44, 71])
@pytest.mark.parametrize("kind", ["temporal", "stereo"])
def test_sequences_show_the_hall_and_nothing_behind_it(kind: str, index: int) -> None:
    sequence = getattr(sequences, kind)()
    images = sequence.images(index)
    assert len(images) == len(sequence.cameras(index)) == {"temporal": 1, "stereo": 2}[kind]
    for image, view in zip(images, sequence.cameras(index), strict=True):
        assert image.shape == (480, 640, 3) and image.dtype == np.uint8
        seen = np.unique(scenes.label_map(sequence.scene, view))
        assert scenes.NO_LAYER not in seen and len(seen) > 15
    for image, again in zip(images, sequence.images(index), strict=True):
        np.testing.assert_array_equal(image, again)


def test_the_stereo_pair_is_rectified() -> None:
    sequence = sequences.stereo()
    y, x = np.mgrid[5:475:10, 5:635:10]
    points = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)
    moved = scenes.transfer(sequence.scene, *sequence.cameras(11), points)
    moved, points = moved[~np.isnan(moved[:, 0])], points[~np.isnan(moved[:, 0])]
    np.testing.assert_allclose(moved[:, 1], points[:, 1], atol=1e-9)
    disparity = points[:, 0] - moved[:, 0]
    assert disparity.min() > 7 and disparity.max() < 60
    assert np.ptp(disparity) > 25  # from the far wall to the floor ahead


def test_the_camera_moves_smoothly() -> None:
    sequence = sequences.temporal()
    corners = np.array([[20.0, 20.0], [600.0, 30.0], [40.0, 450.0], [320.0, 240.0], [590.0, 440.0]])
    for index in range(40):
        moved = scenes.transfer(sequence.scene, *sequence.cameras(index), *sequence.cameras(index + 1), corners)
        assert 1.0 < np.nanmax(np.linalg.norm(moved - corners, axis=1)) < 60.0


def test_a_board_lies_where_its_corners_do() -> None:
    texture = textured(40, 50)
    corner, right, down = (0.3, -0.4, 3.0), (0.0, 0.2, -0.9), (0.1, 0.6, 0.0)
    scene = scenes.Scene(np.eye(3), (scenes.board(texture, corner, right, down),))
    view = camera(rotation=scenes.rotation(2.0, 5.0, -3.0), centre=np.array([0.1, 0.05, -0.2]))
    edges = np.array([[-0.5, -0.5], [49.5, -0.5], [-0.5, 39.5], [49.5, 39.5]])
    places = np.array(corner) + np.array([[0, 0, 0], right, down, np.add(right, down)])
    np.testing.assert_allclose(
        cv2.perspectiveTransform(edges[None], scene.homography(0, view))[0], project(places, view), atol=1e-9
    )


def test_a_keypoint_on_an_edge_has_the_place_of_either_side() -> None:
    from semantic_matcher.demo.evaluation import Match, errors_px

    scene, left, right = two_planes()
    sequence = sequences.Sequence("pair", scene, lambda index: (left, right), (1.0, 1.0))
    # The wall's last pixel before the square, which hides it in the other image; and one farther in.
    points = np.array([[34.0, 30.0], [28.0, 30.0]])
    assert np.isnan(scenes.transfer(scene, left, right, points)).all()
    found = Match(0, 0, points, points - (20.0, 0.0), np.ones(2), 0.0)
    np.testing.assert_allclose(errors_px(found, sequence, {0: 0}), [0.0, np.inf], atol=1e-9)
