"""Match pictures: everything at its place, in its colour, and never too much of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.types import Features, Matches
from semantic_matcher_core.viz.matches import _spread, _summary, draw_matches

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


def test_inliers_are_green_and_outliers_red() -> None:
    picture = draw_matches(black(), black(), matches([[100, 100], [100, 300]], [[200, 100], [200, 300]], [True, False]))
    right, wrong = picture[STRIP + 100, 100].astype(int), picture[STRIP + 300, 100].astype(int)
    assert right[1] > right[0] + 80 and right[1] > right[2] + 50
    assert wrong[0] > wrong[1] + 80 and wrong[0] > wrong[2] + 80
    assert picture[STRIP + 100, 400].max() > picture[STRIP + 300, 400].max()  # the line of an inlier stands out


def test_confidence_runs_from_blue_to_red() -> None:
    given = matches([[100, 100], [100, 300]], [[200, 100], [200, 300]], [True, True])
    picture = draw_matches(black(), black(), given, colour="confidence")
    least, most = picture[STRIP + 100, 100].astype(int), picture[STRIP + 300, 100].astype(int)
    assert least[2] > least[0] and most[0] > most[2]


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
    shown = _spread(points, points, confidence, np.ones(1000, bool), 100, (480, 1285, 3))
    assert len(shown) == 100 == len(set(shown.tolist()))
    assert (shown >= 950).sum() > 35
    assert (np.diff(confidence[shown]) >= 0).all()
    good = np.arange(1000) % 4 == 0
    shown = _spread(points, points, confidence, good, 100, (480, 1285, 3))
    assert good[shown].sum() == 25 and (np.diff(good[shown].astype(int)) >= 0).all()
    assert len(_spread(points, points, confidence, good, 2000, (480, 1285, 3))) == 1000
    assert len(_spread(points, points, confidence, good, 0, (480, 1285, 3))) == 0


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
    with pytest.raises(ConfigError, match="geometric check"):
        draw_matches(black(), black(), given, colour="inlier")
    with pytest.raises(ConfigError, match="height"):
        draw_matches(black(), black(), given, height=5)
    with pytest.raises(ImageError, match=r"in \[0, 1\]"):
        draw_matches(black().astype(np.float32) + 255, black(), given)
    with pytest.raises(ImageError, match="empty"):
        draw_matches(black(0, 5), black(), given)


@pytest.mark.parametrize(("height", "width"), [(1, 10_000), (16, 2048), (10_000, 1), (1, 1), (3000, 3)])
@pytest.mark.parametrize("picture_height", [32, 480, 8192])
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
