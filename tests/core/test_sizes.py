"""A stored image that fills a part of a frame: found by the size that shows it alike, wherever a homography put it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.io.features_file import FeaturesReader, FeaturesWriter
from semantic_matcher_core.io.video import VideoFrame
from semantic_matcher_core.matching.sizes import agree, at_sizes, size_of, sizes_of
from semantic_matcher_core.registration import Template, TemplateTracker, register_pair
from semantic_matcher_core.streams import ReferenceStream
from semantic_matcher_core.types import Features, Matches
from tests.conftest import make_textured_image

SIZE = (480, 640)


@pytest.fixture(scope="module")
def compact() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("plain:compact", device="cpu", max_keypoints=1024)


@pytest.fixture(scope="module")
def poster() -> np.ndarray:
    return make_textured_image(*SIZE, seed=5)


def frame_with(picture: np.ndarray, scale: float, degrees: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """Another picture with this one on it, ``scale`` times as large as the frame, and the homography that put it there,
    from pixels to pixels.
    """
    (height, width), turn = picture.shape[:2], np.radians(degrees)
    half = np.array([width, height]) * scale / 2
    corners = np.array([[-1, -1], [1.06, -1], [1, 0.97], [-0.95, 1]]) * half
    corners = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    # Away from the middle, inside the frame.
    corners += np.array([width, height]) / 2 + (1 - scale) * np.array([0.12, -0.08]) * [width, height]
    edges = np.array([[0, 0], [width, 0], [width, height], [0, height]]) - 0.5
    h = cv2.getPerspectiveTransform(edges.astype(np.float32), corners.astype(np.float32))
    # Averaged over the pixels of the frame: four times as large, then smaller.
    larger = np.array([[4, 0, 1.5], [0, 4, 1.5], [0, 0, 1]])
    four = (4 * width, 4 * height)
    drawn = cv2.warpPerspective(picture, larger @ h, four, flags=cv2.INTER_LINEAR)
    inside = cv2.warpPerspective(np.ones((height, width), np.float32), larger @ h, four, flags=cv2.INTER_LINEAR)
    drawn, inside = (
        cv2.resize(a.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) for a in (drawn, inside)
    )
    back = make_textured_image(height, width, seed=77)
    return (back * (1 - inside[..., None]) + drawn).clip(0, 255).astype(np.uint8), h


def right(matches: Matches, h: np.ndarray, within: float = 3.0) -> int:
    places = cv2.perspectiveTransform(matches.keypoints0.double().numpy()[None], h)[0]
    return int((np.linalg.norm(places - matches.keypoints1.double().numpy(), axis=1) < within).sum())


class Counting:
    """A matcher that notes how many rows of the first side each search has."""

    def __init__(self, matcher: SemanticMatcher) -> None:
        self.matcher = matcher
        self.rows: list[int] = []

    def extract(self, image: Any, mask: Any = None) -> Features:
        return self.matcher.extract(image, mask)

    def extract_turned(self, image: Any, *, rotation: str = "quarter") -> Features:
        return self.matcher.extract_turned(image, rotation=rotation)

    def match(self, features0: Features, features1: Features) -> Matches:
        self.rows.append(features0.keypoints.shape[1])
        return self.matcher.match(features0, features1)


def stream_of(matcher: Any, poster: np.ndarray, **options: Any) -> ReferenceStream:
    stream = ReferenceStream(matcher, **options)
    stream.fit(SIZE[1])
    stream.set_references([(poster, "poster")])
    return stream


@pytest.mark.parametrize(("scale", "size", "least", "times"), [(0.5, 1, 250, 1), (0.35, 1, 150, 3), (0.25, 2, 60, 9)])
def test_a_picture_that_fills_a_part_of_the_frame_is_found(
    compact: SemanticMatcher, poster: np.ndarray, scale: float, size: int, least: int, times: int
) -> None:
    frame, h = frame_with(poster, scale)
    counting = Counting(compact)
    stream = stream_of(counting, poster)
    _, (first,) = stream.process(frame)
    whole = compact.match(compact.extract(poster), compact.extract(frame))
    assert right(first.matches, h) > max(least, times * right(whole, h))
    assert right(first.matches, h) > 0.7 * len(first.matches)
    assert stream.served == {"": [size]}

    # Rows are those of the reference, which is what is published; all of one size.
    features, rows = first.reference.features, first.matches.indices[:, 0]
    assert features is stream.references[0].features and features.image_size == SIZE
    assert torch.equal(first.matches.keypoints0, features.keypoints[0, rows])
    assert features.shrink is not None and set(features.shrink[0, rows].tolist()) == {2.0**size}

    # The next frame is matched with that size alone, and gives the same.
    _, (second,) = stream.process(frame)
    assert counting.rows == [features.keypoints.shape[1], len(sizes_of(features)[size].rows)]
    assert torch.equal(second.matches.indices, first.matches.indices)
    torch.testing.assert_close(second.matches.keypoints0, first.matches.keypoints0, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["compact", "sift"])
def test_where_it_fills_the_frame_nothing_changes(name: str, poster: np.ndarray) -> None:
    matcher = SemanticMatcher.from_pretrained(f"plain:{name}", device="cpu", max_keypoints=1024)
    frame, _ = frame_with(poster, 1.0)
    expected = matcher.match(matcher.extract(poster), matcher.extract(frame))
    stream = stream_of(matcher, poster)
    for _ in range(2):
        (pair,) = stream.process(frame)[1]
        assert torch.equal(pair.matches.indices, expected.indices)
        assert torch.equal(pair.matches.keypoints0, expected.keypoints0)
        assert torch.equal(pair.matches.confidence, expected.confidence)
    assert stream.served == {"": [0]}


def test_the_size_changes_with_the_distance_and_each_camera_has_its_own(
    compact: SemanticMatcher, poster: np.ndarray
) -> None:
    near, far, nothing = frame_with(poster, 1.0), frame_with(poster, 0.25), make_textured_image(*SIZE, seed=78)
    stream = stream_of(compact, poster)
    for (frame, h), size, camera in ((near, 0, "a"), (far, 2, "a"), (far, 2, "b"), (near, 0, "a"), (far, 2, "b")):
        (pair,) = stream.process(frame, camera=camera)[1]
        assert right(pair.matches, h) > 60 and stream.served[camera] == [size]
    stream.process(nothing, camera="b")
    assert stream.served == {"a": [0], "b": [None]}

    # Nor is it kept where it is still found, but another size shows it more as it is.
    for scale, sizes in ((0.26, (1, 2)), (0.45, (1,)), (0.9, (0,)), (0.5, (1,)), (0.25, (2,))):
        frame, h = frame_with(poster, scale)
        (pair,) = stream.process(frame, camera="c")[1]
        assert right(pair.matches, h) > 60 and stream.served["c"][0] in sizes

    # Another stream goes on where this one was.
    other = stream_of(compact, poster)
    other.resume(stream.served)
    assert other.served == stream.served
    a, b = (s.process(far[0], camera="a")[1][0].matches for s in (stream, other))
    assert other.served["a"] == stream.served["a"] == [2]
    assert torch.equal(a.indices, b.indices)
    # What was kept of other features says nothing of new ones.
    stream.set_references([(poster, "poster")])
    assert not stream.served


def test_turns_and_sizes_go_together(compact: SemanticMatcher, poster: np.ndarray) -> None:
    frame, h = frame_with(poster, 0.4, degrees=98)
    pairs = [stream_of(compact, poster, rotation=rotation).process(frame)[1][0] for rotation in ("upright", "quarter")]
    assert right(pairs[1].matches, h) > max(100, 3 * right(pairs[0].matches, h))
    features, rows = pairs[1].reference.features, pairs[1].matches.indices[:, 0]
    assert features.turn is not None and features.shrink is not None
    assert set(features.turn[0, rows].tolist()) == {90} and set(features.shrink[0, rows].tolist()) == {2.0}
    assert torch.equal(features.keypoints[0, rows], pairs[1].matches.keypoints0)


def test_the_library_offers_it(compact: SemanticMatcher, poster: np.ndarray) -> None:
    frame, h = frame_with(poster, 0.25)
    alone, smaller = (compact.match_images(poster, frame, smaller=smaller) for smaller in (False, True))
    assert right(smaller, h) > max(60, 5 * right(alone, h))
    # A batch chooses pair by pair.
    images = [torch.from_numpy(image).permute(2, 0, 1) for image in (poster, poster)]
    frames = [torch.from_numpy(image).permute(2, 0, 1) for image in (frame, frame_with(poster, 1.0)[0])]
    several = compact.match(compact.extract_at_sizes(torch.stack(images)), compact.extract(torch.stack(frames)))
    assert torch.equal(several.of_pair(0).keypoints1, smaller.keypoints1)
    assert len(several.of_pair(1)) > 500
    mask = np.zeros(SIZE, np.uint8)
    mask[100:300, 150:500] = 1
    x, y = compact.extract_at_sizes(poster, mask).keypoints[0].unbind(-1)
    # To a pixel of the smallest.
    assert ((x > 146) & (x < 504) & (y > 96) & (y < 304)).all()


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_a_template_is_tracked_where_it_is_small(compact: SemanticMatcher, poster: np.ndarray, scale: float) -> None:
    frame, h = frame_with(poster, scale)
    counting = Counting(compact)
    counting.device = torch.device("cpu")  # type: ignore[attr-defined]
    tracker = TemplateTracker(counting, Template.from_image(counting, poster))
    results = [tracker.track(VideoFrame(i, i, frame)) for i in range(2)]
    corners = torch.tensor([[100.0, 100.0], [500.0, 100.0], [500.0, 400.0], [100.0, 400.0]]).double()
    expected = cv2.perspectiveTransform(corners.numpy()[None], h)[0]
    for result in results:
        assert result.fit is not None and result.agreement is not None
        assert np.linalg.norm(result.fit.spline(corners).numpy() - expected, axis=1).max() < 2
        assert torch.equal(
            result.template.features.keypoints[0, result.matches.indices[:, 0]], result.matches.keypoints0
        )
    sizes = tracker.template.sizes
    assert counting.rows == [len(tracker.template.features.scores[0]), len(sizes[0 if scale == 1 else 1].rows)]
    assert register_pair(compact, poster, frame).fit.inliers == results[0].fit.inliers  # type: ignore[union-attr]


def test_a_tracker_follows_the_distance(compact: SemanticMatcher, poster: np.ndarray) -> None:
    counting = Counting(compact)
    counting.device = torch.device("cpu")  # type: ignore[attr-defined]
    tracker = TemplateTracker(counting, Template.from_image(counting, poster))
    for scale, size in ((0.5, 1), (0.85, 0), (0.5, 1)):
        frame, _ = frame_with(poster, scale)
        for i in range(2):
            assert tracker.track(VideoFrame(i, i, frame)).fit is not None
        assert counting.rows[-1] == len(tracker.template.sizes[size].rows)


def test_small_images_are_seen_at_one_size(compact: SemanticMatcher) -> None:
    small, larger = make_textured_image(120, 180, seed=1), make_textured_image(150, 200, seed=1)
    features = compact.extract_at_sizes(small)
    assert features.shrink is None and torch.equal(features.keypoints, compact.extract(small).keypoints)
    assert [seen.features.image_size for seen in sizes_of(features)] == [(120, 180)]
    assert [seen.features.image_size for seen in sizes_of(compact.extract_at_sizes(larger))] == [(150, 200), (75, 100)]
    flat = compact.extract_at_sizes(np.full((400, 400, 3), 128, np.uint8))
    assert len(sizes_of(flat)) == 1 and len(compact.match(flat, compact.extract(small))) == 0


def test_sizes_come_apart_as_they_were_put_together(tmp_path: Path) -> None:
    seen: list[int] = []

    def extract(side: int) -> Features:
        seen.append(side)
        # A keypoint in the middle of the last pixel of the image as it was seen, in pixels of one of 800 x 600.
        last = torch.tensor([[[800 - 400 / side - 0.5, 600 - 400 / side - 0.5], [0.0, 0.0]]])
        return Features(last, torch.ones(1, 2), torch.ones(1, 2, 1), (600, 800), scales=torch.full((1, 2), 800 / side))

    whole = at_sizes(extract, 800)
    assert seen == [800, 400, 200]
    assert whole.shrink is not None and whole.shrink.tolist() == [[1, 1, 2, 2, 4, 4]]
    parts = sizes_of(whole)
    for index, (part, (height, width)) in enumerate(zip(parts, [(600, 800), (300, 400), (150, 200)], strict=True)):
        assert part.features.image_size == (height, width) and part.features.shrink is None
        assert part.features.keypoints[0, 0].tolist() == pytest.approx([width - 1, height - 1])
        assert part.features.scales is not None and part.features.scales.tolist() == [[1, 1]]
        keypoints = part.features.keypoints[0]
        matches = Matches(torch.tensor([[1, 7], [0, 9]]), keypoints.flip(0), keypoints, torch.ones(2))
        restored = part.restored(matches, whole)
        assert restored.indices.tolist() == [[2 * index + 1, 7], [2 * index, 9]]
        assert torch.equal(restored.keypoints0, whole.keypoints[0, restored.indices[:, 0]])
        assert size_of(parts, restored) == index
        assert size_of(parts, restored[[]]) is None
    with FeaturesWriter(tmp_path / "features.h5") as writer:
        writer.write("image", whole)
    with FeaturesReader(tmp_path / "features.h5") as reader:
        read = reader.read("image")
    assert read.shrink is not None and torch.equal(read.shrink, whole.shrink)


def flat_scene(points: np.ndarray) -> np.ndarray:
    h = np.array([[0.4, 0.02, 90], [-0.03, 0.41, 60], [1e-5, -2e-5, 1]])
    return cv2.perspectiveTransform(points[None], h)[0]


def deep_scene(points: np.ndarray) -> np.ndarray:
    depth = np.random.default_rng(2).uniform(2, 6, (len(points), 1))
    rays = np.column_stack([(points - [320, 240]) / 500, np.ones(len(points))])
    moved = depth * rays @ cv2.Rodrigues(np.array([0.02, 0.1, 0.0]))[0].T + [0.4, 0.0, 0.1]
    return moved[:, :2] / moved[:, 2:] * 500 + [320, 240]


@pytest.mark.parametrize("scene", [flat_scene, deep_scene])
@pytest.mark.parametrize(("share", "expected"), [(1.0, True), (0.8, True), (0.3, False), (0.0, False)])
def test_matches_agree_where_most_are_of_one_rigid_scene(
    scene: Callable[[np.ndarray], np.ndarray], share: float, expected: bool
) -> None:
    random = np.random.default_rng(1)
    points = random.uniform([0, 0], [640, 480], (200, 2))
    there = scene(points) + random.normal(0, 0.5, (200, 2))
    wrong = random.permutation(200)[round(200 * share) :]
    there[wrong] = random.uniform([0, 0], [640, 480], (len(wrong), 2))
    assert agree(matches_of(points, there)) == expected
    assert not agree(matches_of(points[:19], there[:19]))


def test_matches_in_one_place_agree_with_nothing() -> None:
    assert not agree(matches_of(np.zeros((50, 2)), np.ones((50, 2))))


def matches_of(points0: np.ndarray, points1: np.ndarray) -> Matches:
    first, second = (torch.from_numpy(points).float() for points in (points0, points1))
    return Matches(torch.arange(len(first))[:, None].expand(-1, 2), first, second, torch.ones(len(first)))
