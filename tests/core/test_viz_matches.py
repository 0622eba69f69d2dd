"""Match pictures: everything at its place, in its colour, and never too much of it."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError, ImageError, PoseError
from semantic_matcher_core.matching.verification import verify
from semantic_matcher_core.types import Features, Matches
from semantic_matcher_core.viz.matches import _summary, draw_matches
from semantic_matcher_core.viz.palette import INLIER, OUTLIER, THEMES, amount
from semantic_matcher_core.viz.spread import spread

STRIP, GAP = 36, 5  # of a picture 480 high


def matches(points0: list[list[float]], points1: list[list[float]], inlier: list[bool] | None = None) -> Matches:
    count = len(points0)
    rows = torch.arange(count)
    return Matches(
        torch.stack([rows, rows], dim=1),
        torch.tensor(points0, dtype=torch.float32).reshape(-1, 2),
        torch.tensor(points1, dtype=torch.float32).reshape(-1, 2),
        torch.linspace(0.5, 0.9, count),
        inlier=None if inlier is None else torch.tensor(inlier, dtype=torch.bool),
    )


def black(height: int = 480, width: int = 640) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def keypoints(points: list[list[float]], size: tuple[int, int] = (480, 640)) -> Features:
    tensor = torch.tensor(points, dtype=torch.float32).reshape(1, -1, 2)
    return Features(tensor, torch.ones(tensor.shape[:2]), torch.ones(1, tensor.shape[1], 4), size)


def lit(picture: np.ndarray) -> np.ndarray:
    """Where something was drawn below the strip and outside the gap."""
    return picture[STRIP:].max(axis=-1) > 60


def test_images_are_side_by_side_and_untouched() -> None:
    random = np.random.default_rng(0)
    image0 = random.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    image1 = random.integers(0, 256, (480, 500, 3), dtype=np.uint8)
    copies = image0.copy(), image1.copy()
    picture = draw_matches(image0, image1, matches([], []))
    assert picture.shape == (STRIP + 480, 640 + GAP + 500, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture[STRIP:, :640], image0)
    assert np.array_equal(picture[STRIP:, 640 + GAP :], image1)
    assert np.array_equal(image0, copies[0]) and np.array_equal(image1, copies[1])


def test_ends_of_a_line_lie_at_the_keypoints() -> None:
    picture = draw_matches(black(), black(), matches([[100, 50]], [[300, 200]]))
    drawn = lit(picture)
    for x, y in ((100, 50), (640 + GAP + 300, 200)):
        assert drawn[y, x]
        # Half way and at both ends the line is there, beside it nothing is.
        assert not drawn[y - 8, x] and not drawn[y + 8, x]
    middle = ((100 + 640 + GAP + 300) // 2, (50 + 200) // 2)
    assert drawn[middle[1] - 2 : middle[1] + 3, middle[0]].any()
    assert not drawn[middle[1] + 20, middle[0]]


@pytest.mark.parametrize("scale", [0.5, 2.0, 3.0])
def test_keypoints_scale_with_the_image(scale: float) -> None:
    height, width = int(480 * scale), int(640 * scale)
    x, y = 0.25 * width, 0.75 * height
    picture = draw_matches(black(height, width), black(), matches([[x, y]], [[10, 10]]), max_lines=0)
    rows, columns = np.nonzero(lit(picture)[:, :640])
    assert columns.mean() == pytest.approx((x + 0.5) / scale - 0.5, abs=0.3)
    assert rows.mean() == pytest.approx((y + 0.5) / scale - 0.5, abs=0.3)


def near(pixel: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() < 40)


def test_inliers_are_blue_and_outliers_vermilion() -> None:
    picture = draw_matches(black(), black(), matches([[100, 100], [100, 300]], [[200, 100], [200, 300]], [True, False]))
    right, wrong = picture[STRIP + 100, 100].astype(int), picture[STRIP + 300, 100].astype(int)
    assert near(right, INLIER) and near(wrong, OUTLIER)
    assert picture[STRIP + 100, 400].max() > picture[STRIP + 300, 400].max()  # the line of an inlier stands out


def test_confidence_runs_from_dark_blue_to_yellow() -> None:
    given = matches([[100, 100], [100, 300]], [[200, 100], [200, 300]], [True, True])
    picture = draw_matches(black(), black(), given, colour="confidence")
    least, most = picture[STRIP + 100, 100].astype(int), picture[STRIP + 300, 100].astype(int)
    assert near(least, amount(0)) and near(most, amount(1))


def test_equal_confidence_and_none_at_all_are_drawn() -> None:
    one = matches([[10, 10]], [[20, 20]])
    assert lit(draw_matches(black(), black(), one)).any()
    assert not lit(draw_matches(black(), black(), matches([], [])))[:, :640].any()
    assert not lit(draw_matches(black(), black(), matches([], [], [])))[:, :640].any()


def test_unmatched_keypoints_are_drawn_when_given() -> None:
    features = keypoints([[50, 60], [600, 400]])
    picture = draw_matches(black(), black(), matches([], []), features0=features, features1=features)
    drawn = lit(picture)
    assert drawn[60, 50] and drawn[400, 600] and drawn[60, 640 + GAP + 50]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (37, 53), (37, 53, 3), (900, 300, 3)])
def test_any_size_and_grey(shape: tuple[int, ...]) -> None:
    picture = draw_matches(np.zeros(shape, np.uint8), black(), matches([[0, 0]], [[5, 5]]), title="any size")
    assert picture.shape[0] == STRIP + 480 and picture[STRIP:].any()


@pytest.mark.parametrize("height", [32, 100, 1080])
def test_any_height_of_the_picture(height: int) -> None:
    given = matches([[10, 10]], [[20, 20]], [True])
    picture = draw_matches(black(), black(), given, height=height, title="a title that is far too long " * 20)
    assert picture.shape[0] == height + max(30, round(height * 0.075))


def test_no_more_lines_than_asked_for_and_spread_over_the_image() -> None:
    random = np.random.default_rng(3)
    # 950 sure matches in one corner, 50 poor ones all over.
    points = np.vstack([random.uniform(0, 60, (950, 2)), random.uniform((100, 100), (640, 480), (50, 2))])
    confidence = np.r_[random.uniform(0.8, 1, 950), random.uniform(0.1, 0.2, 50)]
    shown = spread(points, confidence, np.ones(1000, bool), 100, (480, 1285, 3))
    assert len(shown) == 100 == len(set(shown.tolist()))
    assert (shown >= 950).sum() > 35
    assert (np.diff(confidence[shown]) >= 0).all()
    good = np.arange(1000) % 4 == 0
    shown = spread(points, confidence, good, 100, (480, 1285, 3))
    assert good[shown].sum() == 25 and (np.diff(good[shown].astype(int)) >= 0).all()
    assert len(spread(points, confidence, good, 2000, (480, 1285, 3))) == 1000
    assert len(spread(points, confidence, good, 0, (480, 1285, 3))) == 0


def test_the_same_input_gives_the_same_picture() -> None:
    points = np.random.default_rng(0).uniform((0, 0), (640, 480), (500, 2)).tolist()
    given = matches(points, points)
    assert np.array_equal(draw_matches(black(), black(), given), draw_matches(black(), black(), given))


def test_the_strip_says_what_there_is() -> None:
    given = matches([[0, 0]] * 4, [[0, 0]] * 4, [True, True, True, False])
    features = keypoints([[1, 1]] * 9)
    assert _summary(given, features, features, 4) == "9 + 9 keypoints, 4 matches, 3 inliers (75%)"
    assert _summary(given, None, None, 2) == "4 matches, 3 inliers (75%), 2 lines shown"
    assert _summary(matches([], [], []), None, None, 0) == "0 matches, 0 inliers"
    assert _summary(matches([[0, 0]], [[0, 0]]), None, None, 1) == "1 match"
    # A text that is drawn changes the strip; a title on top of it changes it again.
    plain = draw_matches(black(), black(), given)[:STRIP]
    titled = draw_matches(black(), black(), given, title="plain:sift")[:STRIP]
    assert len(np.unique(plain)) > 10 and not np.array_equal(plain, titled)


def test_refusals() -> None:
    given = matches([[0, 0]], [[0, 0]])
    with pytest.raises(ConfigError, match="'rainbow'; use one of auto, confidence, inlier"):
        draw_matches(black(), black(), given, colour="rainbow")
    with pytest.raises(ConfigError, match="'dots'; use one of lines, arrows, warp, epipolar"):
        draw_matches(black(), black(), given, view="dots")
    with pytest.raises(ConfigError, match="'grey'; use one of dark, light"):
        draw_matches(black(), black(), given, theme="grey")
    with pytest.raises(ConfigError, match=r"verify\(matches, 'homography'\)"):
        draw_matches(black(), black(), given, view="warp")
    with pytest.raises(ConfigError, match=r"verify\(matches, 'fundamental'\)"):
        draw_matches(black(), black(), given, view="epipolar")
    # What was checked in vain is not told to be checked.
    for kind, view in (("homography", "warp"), ("fundamental", "epipolar")):
        with pytest.raises(
            PoseError, match=f"no model was found in a check of 1 matches, so view '{view}' has nothing"
        ):
            draw_matches(black(), black(), verify(given, kind), view=view)
    with pytest.raises(ConfigError, match="geometric check"):
        draw_matches(black(), black(), given, colour="inlier")
    with pytest.raises(ConfigError, match="height"):
        draw_matches(black(), black(), given, height=5)
    with pytest.raises(ImageError, match=r"in \[0, 1\]"):
        draw_matches(black().astype(np.float32) + 255, black(), given)
    with pytest.raises(ImageError, match="empty"):
        draw_matches(black(0, 5), black(), given)


@pytest.mark.parametrize(
    ("height", "width", "picture_height"),
    [
        *((h, w, at) for h, w in ((1, 10_000), (16, 2048), (10_000, 1), (1, 1), (3000, 3)) for at in (32, 480)),
        (10_000, 1, 8192),
        (1, 10_000, 4096),
    ],
)
def test_extreme_shapes_give_bounded_pictures_that_a_jpeg_holds(height: int, width: int, picture_height: int) -> None:
    image = np.zeros((height, width), np.uint8)
    places = torch.tensor([[0.0, 0.0], [width - 1.0, height - 1.0]])
    matches = Matches(torch.tensor([[0, 0], [1, 1]]), places, places, torch.tensor([0.5, 0.9]))
    picture = draw_matches(image, image, matches, height=picture_height)
    assert picture.shape[0] <= 1.1 * picture_height + 40 and picture.shape[1] <= 17 * picture_height + 90
    assert picture.shape[1] < 65_500
    if picture_height == 480:
        encoded, _ = cv2.imencode(".jpg", picture)
        assert encoded


def test_arrows_run_on_the_second_image_from_where_it_was_to_where_it_is() -> None:
    picture = draw_matches(black(), black(), matches([[100, 100]], [[200, 140]], [True]), view="arrows")
    assert picture.shape == (2 * STRIP + 480, 640, 3)
    drawn = picture[2 * STRIP :].max(axis=-1) > 60
    assert drawn[100, 100] and drawn[120, 150] and drawn[140, 200] and not drawn[:80].any() and not drawn[:, 230:].any()
    # The head is at the second end.
    assert drawn[:, 185:].sum() > 1.5 * drawn[:, :115].sum()
    still = draw_matches(black(), black(), matches([[100, 100]], [[100.5, 100]], [False]), view="arrows")
    assert lit(still[STRIP:]).sum() > 4  # no motion: a mark all the same


def test_light_surroundings() -> None:
    given = matches([[10, 10]], [[20, 20]])
    light = draw_matches(black(), black(), given, theme="light")
    assert tuple(light[0, 0]) == THEMES["light"].background == (255, 255, 255)
    assert np.array_equal(light[STRIP:, :640], draw_matches(black(), black(), given)[STRIP:, :640])


def test_a_warp_lays_the_first_image_where_the_homography_puts_it() -> None:
    rng = np.random.default_rng(0)
    image0 = cv2.resize(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    model = np.array([[0.9, 0.1, 30.0], [-0.05, 1.05, 10.0], [1e-4, 0, 1]])
    image1 = cv2.warpPerspective(image0, model, (640, 480))
    points0 = rng.uniform((50, 50), (590, 430), (60, 2))
    points1 = cv2.perspectiveTransform(points0[None], model)[0]
    checked = verify(matches(points0.tolist(), points1.tolist()), "homography")
    picture = draw_matches(image0, image1, checked, view="warp")
    beside, over = picture[STRIP:, :640].astype(int), picture[STRIP:, 645:].astype(int)
    assert np.array_equal(beside, image1)
    # The squares of the first image look like the second, and most of the picture is in both.
    assert np.median(np.abs(over - beside).max(axis=-1)) <= 3
    unlike = draw_matches(255 - image0, image1, checked, view="warp")[STRIP:, 645:].astype(int)
    assert 0.25 < (np.abs(unlike - beside).max(axis=-1) > 20).mean() < 0.6


@pytest.mark.parametrize("kind", ["fundamental", "essential"])
def test_epipolar_lines_run_through_the_matches(kind: str) -> None:
    rng = np.random.default_rng(0)
    camera = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    world = rng.uniform((-1.5, -1, 3), (1.5, 1, 8), (60, 3))
    sides = [world, world - (0.5, 0.1, 0)]
    points0, points1 = ((p @ camera.T)[:, :2] / p[:, 2:] for p in sides)
    given = matches(points0.tolist(), points1.tolist())
    checked = verify(given, kind, **({"K0": camera, "K1": camera} if kind == "essential" else {}))
    picture = draw_matches(
        black(), black(), checked, view="epipolar", cameras=(camera, camera) if kind == "essential" else None
    )
    blue = (np.abs(picture.astype(int) - INLIER).max(axis=-1) < 90)[STRIP:, 645:]
    # All lines run along the motion: (0.5, 0.1) of x to y; each from edge to edge.
    columns = np.flatnonzero(blue.any(axis=0))
    assert blue.sum() > 16 * 200 and columns.min() < 5 and columns.max() > 634
    if kind == "essential":
        with pytest.raises(ConfigError, match="needs cameras"):
            draw_matches(black(), black(), checked, view="epipolar")


@pytest.mark.parametrize("view", ["lines", "arrows", "warp", "epipolar"])
def test_no_view_minds_strange_input(view: str) -> None:
    strange = matches(
        [[float("nan"), 1], [1e9, -1e9], [3, 3]], [[1, 1], [float("inf"), 0], [4, 4]], [True, False, True]
    )
    model = torch.tensor([[1e-9, 0, 5], [0, 1, 0], [0, 3, 1e-12]], dtype=torch.float64)
    kind = {"warp": "homography"}.get(view, "fundamental")
    given = dataclasses.replace(strange, model=model, model_type=kind)
    for shape in ((1, 1), (48, 64, 3), (16, 2048)):
        assert draw_matches(np.zeros(shape, np.uint8), black(), given, view=view, height=64).dtype == np.uint8
