"""Which frames are matched with which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.streams import (
    Frame,
    MatchedPair,
    ReferenceStream,
    StampMonitor,
    StampOrder,
    StereoStream,
    StereoSynchronizer,
    TemporalPairing,
    TemporalStream,
    inlier_share,
    overlap,
)
from semantic_matcher_core.types import Features, Matches

MS = 1_000_000


class Numbers:
    """A matcher of "images" that are numbers: keypoints lie on a grid, and ``shared`` of the first ones match.

    It counts how often each image's features are computed.
    """

    def __init__(self, count: int = 16, shared: int = 16) -> None:
        self.count = count
        self.shared = shared
        self.extracted: list[Any] = []

    def extract(self, image: Any) -> Features:
        if image is None:
            raise ImageError("no image")
        self.extracted.append(image)
        side = 4
        grid = [(40.0 * (i % side) + 20, 40.0 * (i // side) + 20) for i in range(self.count)]
        keypoints = torch.tensor(grid).reshape(1, self.count, 2)
        # As an extractor of fixed size gives them: two rows of padding.
        padded = torch.cat([keypoints, torch.zeros(1, 2, 2)], dim=1)
        valid = torch.arange(self.count + 2)[None] < self.count
        descriptors = torch.zeros(1, self.count + 2, 4)
        return Features(padded, torch.zeros(1, self.count + 2), descriptors, (160, 160), valid=valid)

    def match(self, features0: Features, features1: Features) -> Matches:
        assert features0.valid is None and features1.valid is None
        rows = torch.arange(min(self.shared, features0.keypoints.shape[1], features1.keypoints.shape[1]))
        return Matches(
            torch.stack([rows, rows], dim=1),
            features0.keypoints[0, rows],
            features1.keypoints[0, rows],
            torch.ones(len(rows)),
        )


def references(stream: TemporalStream, images: list[int]) -> list[Any]:
    """The reference image of each image's matches; ``None`` where it has none."""
    pairs = [stream.process(image, stamp=image)[1] for image in images]
    return [None if pair is None else pair.reference.image for pair in pairs]


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        (TemporalPairing(), [None, 1, 2, 3, 4, 5, 6]),
        (TemporalPairing("every_nth", every_nth=1), [None, 1, 2, 3, 4, 5, 6]),
        (TemporalPairing("every_nth", every_nth=3), [None, 1, 1, 1, 4, 4, 4]),
        (TemporalPairing("keyframe"), [None, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_reference_follows_the_policy(pairing: TemporalPairing, expected: list[Any]) -> None:
    assert references(TemporalStream(Numbers(), pairing), [1, 2, 3, 4, 5, 6, 7]) == expected


def test_features_are_computed_once_for_each_frame() -> None:
    matcher = Numbers()
    references(TemporalStream(matcher, TemporalPairing("keyframe")), [1, 2, 3, 4])
    assert matcher.extracted == [1, 2, 3, 4]


def test_a_keyframe_is_replaced_when_too_few_keypoints_are_matched() -> None:
    matcher = Numbers(shared=16)
    stream = TemporalStream(matcher, TemporalPairing("keyframe", min_inlier_share=0.5, min_overlap=0.0))
    assert references(stream, [1, 2]) == [None, 1]
    matcher.shared = 7
    # The frame that found too little is still matched with the old keyframe; the next one with the new.
    assert references(stream, [3]) == [1]
    matcher.shared = 16
    assert references(stream, [4, 5]) == [3, 3]


def test_a_keyframe_is_replaced_when_too_little_of_it_is_in_view() -> None:
    matcher = Numbers(shared=16)
    stream = TemporalStream(matcher, TemporalPairing("keyframe", min_inlier_share=0.0, min_overlap=0.75))
    assert references(stream, [1, 2]) == [None, 1]
    matcher.shared = 8  # the upper half
    assert references(stream, [3, 4]) == [1, 3]


def test_the_policy_may_change_between_frames() -> None:
    stream = TemporalStream(Numbers(), TemporalPairing("keyframe"))
    assert references(stream, [1, 2, 3]) == [None, 1, 1]
    stream.pairing = TemporalPairing("previous")
    assert references(stream, [4, 5]) == [1, 4]


def test_a_frame_without_keypoints_neither_fails_nor_stays_keyframe() -> None:
    matcher = Numbers(count=0)
    stream = TemporalStream(matcher, TemporalPairing("keyframe", min_inlier_share=0.01))
    assert references(stream, [1, 2]) == [None, 1]
    matcher.count = 16
    assert references(stream, [3, 4, 5]) == [2, 3, 3]


def test_a_bad_image_leaves_the_stream_as_it_was() -> None:
    stream = TemporalStream(Numbers())
    stream.process(1, stamp=1)
    with pytest.raises(ImageError):
        stream.process(None, stamp=2)
    assert references(stream, [3]) == [1]


def test_inliers_alone_count_where_they_are_known() -> None:
    matcher = Numbers(count=16, shared=16)
    frames = [Frame(0, image, matcher.extract(image)[0]) for image in (1, 2)]
    matches = matcher.match(frames[0].features, frames[1].features)
    pair = MatchedPair(frames[0], frames[1], matches)
    assert inlier_share(pair) == overlap(pair) == 1.0

    def checked(matches: Matches) -> Matches:
        from dataclasses import replace

        return replace(matches, inlier=torch.arange(len(matches)) < 4)

    stream = TemporalStream(matcher, verify=checked)
    stream.process(1)
    pair = stream.process(2)[1]
    assert pair is not None
    assert inlier_share(pair) == overlap(pair) == 0.25


def test_stamps_that_repeat_come_late_or_begin_again() -> None:
    monitor = StampMonitor()
    second = 1000 * MS
    expected = [
        (5 * second, StampOrder.NEWER),
        (5 * second, StampOrder.REPEATED),
        (5 * second - 30 * MS, StampOrder.LATE),
        (6 * second, StampOrder.NEWER),
        (1 * second, StampOrder.RESTARTED),
        (1 * second + 30 * MS, StampOrder.NEWER),
        (0, StampOrder.NEWER),
        (0, StampOrder.NEWER),
    ]
    assert [monitor.admit(stamp) for stamp, _ in expected] == [order for _, order in expected]
    assert [order.usable for order in StampOrder] == [True, False, False, True]


def test_after_a_restart_matching_begins_anew() -> None:
    stream = TemporalStream(Numbers())
    second = 1000 * MS
    for stamp in (10 * second, 11 * second, 2 * second, 3 * second):
        assert stream.admit(stamp).usable
        _, pair = stream.process(stamp, stamp)
        assert (pair is None) == (stamp in (10 * second, 2 * second))


def test_stereo_matches_left_with_right_and_keeps_what_it_is_given() -> None:
    pair = StereoStream(Numbers()).process("left", "right", (1, 2), ("l", "r"))
    assert (pair.reference.image, pair.current.image) == ("left", "right")
    assert (pair.reference.stamp, pair.current.stamp) == (1, 2)
    assert (pair.reference.tag, pair.current.tag) == ("l", "r")
    assert len(pair.matches) == 16


def test_references_are_all_matched_and_a_bad_one_changes_nothing() -> None:
    matcher = Numbers()
    stream = ReferenceStream(matcher)
    assert stream.process(1)[1] == []
    stream.set_references([("a", "poster"), ("b", "door")])
    frame, pairs = stream.process(2, 7, "header")
    assert (frame.image, frame.stamp, frame.tag) == (2, 7, "header")
    assert [pair.reference.tag for pair in pairs] == ["poster", "door"]
    assert matcher.extracted == [1, "a", "b", 2]
    with pytest.raises(ImageError):
        stream.set_references([("c", "wall"), (None, "bad")])
    assert [reference.tag for reference in stream.references] == ["poster", "door"]


class Corner:
    """A matcher whose one keypoint is the middle of the last pixel; it notes the sizes that it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def extract(self, image: np.ndarray, mask: Any = None) -> Features:
        height, width = image.shape[:2]
        self.seen.append((height, width))
        corner = torch.tensor([[[width - 1.0, height - 1.0]]])
        return Features(corner, torch.ones(1, 1), torch.ones(1, 1, 1), (height, width), scales=torch.ones(1, 1))

    def match(self, features0: Features, features1: Features) -> Matches:
        raise NotImplementedError


def test_stored_images_far_larger_than_the_frames_are_looked_at_as_large_as_those() -> None:
    matcher = Corner()
    stream = ReferenceStream(matcher)
    photograph, picture = np.zeros((3000, 4000, 3), np.uint8), np.zeros((600, 900), np.uint8)
    stream.set_references([(photograph, "photograph"), (picture, "picture")])
    assert matcher.seen == [(1200, 1600), (600, 800), (300, 400), (600, 900), (300, 450), (150, 225)]
    assert stream.fit(640) and not stream.fit(640)
    assert matcher.seen[6:] == [(480, 640), (240, 320), (120, 160)]
    features = stream.references[0].features
    assert features.image_size == (3000, 4000) and stream.references[0].image is photograph
    for row, (width, height, larger) in enumerate([(640, 480, 6.25), (320, 240, 12.5), (160, 120, 25)]):
        # The middle of the last pixel, in pixels of the photograph.
        assert features.keypoints[0, row].tolist() == pytest.approx(
            [(width - 0.5) * larger - 0.5, (height - 0.5) * larger - 0.5]
        )
        assert features.scales is not None and features.scales[0, row] == larger
        assert features.shrink is not None and features.shrink[0, row] == larger
    stream.set_references([(photograph, "again")])
    assert matcher.seen[9:] == [(480, 640), (240, 320), (120, 160)]
    assert stream.fit(4000) and matcher.seen[12:] == [(3000, 4000), (1500, 2000), (750, 1000)]


def arrivals(synchronizer: StereoSynchronizer[str], events: list[tuple[str, int]]) -> list[tuple[str, str]]:
    """The pairs that come out when (side, stamp) arrive in this order."""
    add = {"L": synchronizer.add_left, "R": synchronizer.add_right}
    pairs = [add[side](stamp, f"{side}{stamp}") for side, stamp in events]
    return [pair for pair in pairs if pair is not None]


def test_stamps_within_the_slop_are_paired_with_the_nearest() -> None:
    synchronizer: StereoSynchronizer[str] = StereoSynchronizer(slop=3)
    assert arrivals(synchronizer, [("L", 10), ("L", 14), ("R", 13), ("R", 18)]) == [("L14", "R13")]
    assert synchronizer.unpaired == [1, 0]


def test_what_can_find_no_partner_any_more_is_given_up_at_once() -> None:
    synchronizer: StereoSynchronizer[str] = StereoSynchronizer(slop=3)
    assert arrivals(synchronizer, [("L", 10), ("R", 14)]) == []
    assert synchronizer.unpaired == [1, 0]
    assert arrivals(synchronizer, [("L", 17)]) == [("L17", "R14")]


def test_repeated_and_late_stamps_are_given_up() -> None:
    synchronizer: StereoSynchronizer[str] = StereoSynchronizer(slop=3)
    assert arrivals(synchronizer, [("L", 100), ("L", 100), ("L", 90), ("R", 100), ("R", 100), ("R", 99)]) == [
        ("L100", "R100")
    ]
    assert synchronizer.unpaired == [2, 2]


def test_one_side_alone_holds_no_more_than_its_queue() -> None:
    synchronizer: StereoSynchronizer[str] = StereoSynchronizer(queue_size=3)
    assert arrivals(synchronizer, [("L", i) for i in range(1, 101)]) == []
    assert synchronizer.unpaired == [97, 0]
    assert arrivals(synchronizer, [("R", 97), ("R", 99)]) == [("L99", "R99")]


def test_when_time_goes_back_both_sides_pair_again() -> None:
    synchronizer: StereoSynchronizer[str] = StereoSynchronizer(queue_size=5)
    start, later = 1000 * MS, 100_000 * MS
    arrivals(synchronizer, [("L", later), ("R", later), ("L", later + 1), ("R", later + 2)])
    assert arrivals(synchronizer, [("L", start), ("R", start), ("R", start + 1), ("L", start + 1)]) == [
        (f"L{start}", f"R{start}"),
        (f"L{start + 1}", f"R{start + 1}"),
    ]


def test_images_without_stamps_are_paired_as_they_come() -> None:
    synchronizer: StereoSynchronizer[str] = StereoSynchronizer()
    assert len(arrivals(synchronizer, [("L", 0), ("R", 0), ("L", 0), ("R", 0)])) == 2


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TemporalPairing("next"), "'next'"),
        (lambda: TemporalPairing(every_nth=0), "every_nth"),
        (lambda: TemporalPairing(min_overlap=1.5), "min_overlap"),
        (lambda: TemporalPairing(min_inlier_share=float("nan")), "min_inlier_share"),
        (lambda: StereoSynchronizer(slop=-1), "-1"),
        (lambda: StereoSynchronizer(queue_size=0), "queue_size"),
    ],
)
def test_bad_options_are_named(make: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make()


def test_both_images_of_a_stereo_pair_are_one_batch(textured: Callable[..., np.ndarray]) -> None:
    from semantic_matcher_core import SemanticMatcher
    from semantic_matcher_core.extractors.sift import Sift

    matcher = SemanticMatcher.from_parts(Sift(200), device="cpu")
    shapes: list[tuple[int, ...]] = []
    extract = matcher.extract

    def counted(image: np.ndarray) -> Features:
        shapes.append(image.shape)
        return extract(image)

    matcher.extract = counted  # type: ignore[method-assign, assignment]
    scene = textured(120, 200, seed=4)
    left, right = scene[:, :160].copy(), scene[:, 12:172].copy()
    together = StereoStream(matcher).process(left, right).matches
    apart = StereoStream(matcher).process(left, right[:, :150].copy()).matches
    assert shapes == [(2, 120, 160, 3), (120, 160, 3), (120, 150, 3)]
    expected = matcher.match(extract(left)[0], extract(right)[0])
    assert torch.equal(together.indices, expected.indices) and len(together) > 30
    assert len(apart) > 30
