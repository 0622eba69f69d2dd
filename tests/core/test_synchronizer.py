"""Pairing by time stamps, for any stamps in any order of arrival."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.streams import StereoSynchronizer, slop_of

MS = 1_000_000
START = 1_700_000_000 * 1000 * MS

Event = tuple[int, int]
Pair = tuple[int, int]

orders = st.integers(0, 2**32 - 1).map(random.Random)
slops = st.sampled_from([None, 0, 5 * MS, 40 * MS])


def fed(synchronizer: StereoSynchronizer[int], events: Sequence[Event], finish: bool = True) -> list[Pair]:
    """The pairs of stamps that come out when (side, stamp) arrive in this order."""
    add = (synchronizer.add_left, synchronizer.add_right)
    pairs = [pair for side, stamp in events if (pair := add[side](stamp, stamp)) is not None]
    return pairs + (synchronizer.finish() if finish else [])


def interleaving(order: random.Random, left: list[int], right: list[int], ahead: int = 6) -> list[Event]:
    """An order of arrival in which neither side is more than ``ahead`` messages in front of the other."""
    sides, taken, events = (left, right), [0, 0], []
    while taken[0] < len(left) or taken[1] < len(right):
        can = [
            i
            for i in (0, 1)
            if taken[i] < len(sides[i]) and (taken[i] - taken[1 - i] < ahead or taken[1 - i] == len(sides[1 - i]))
        ]
        side = order.choice(can)
        events.append((side, sides[side][taken[side]]))
        taken[side] += 1
    return events


@given(
    slops,
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 40) | st.sampled_from([10_000, 10**6])), max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_whatever_comes_each_message_is_paired_once_or_given_up(
    slop: int | None, queue_size: int, events: list[tuple[int, int]]
) -> None:
    # Zero is no stamp; repeats, late ones, restarts and sides in different epochs are all in there.
    stamped = [(side, START + step * 7 * MS if step else 0) for side, step in events]
    synchronizer: StereoSynchronizer[tuple[int, int]] = StereoSynchronizer(slop, queue_size)
    pairs = []
    for number, (side, stamp) in enumerate(stamped):
        add = synchronizer.add_right if side else synchronizer.add_left
        pair = add(stamp, (number, stamp))
        if pair is not None:
            pairs.append(pair)
        waiting = len(stamped[: number + 1]) - 2 * len(pairs) - sum(synchronizer.unpaired)
        assert 0 <= waiting <= 2 * queue_size
    pairs += synchronizer.finish()
    assert 2 * len(pairs) + sum(synchronizer.unpaired) == len(stamped)
    used = [number for pair in pairs for number, _ in pair]
    assert len(set(used)) == len(used)
    assert all(stamped[pair[side][0]] == (side, pair[side][1]) for pair in pairs for side in (0, 1))
    for side in (0, 1):
        order = [pair[side][0] for pair in pairs]
        assert order == sorted(order)
    if slop is not None:
        assert all(abs(left[1] - right[1]) <= slop for left, right in pairs)
    assert list(synchronizer.gaps) == [right[1] - left[1] for left, right in pairs][-100:]


@given(orders, st.sets(st.integers(1, 60)), st.sets(st.integers(1, 60)))
@settings(max_examples=50, deadline=None)
def test_exact_pairs_are_the_stamps_on_both_sides(order: random.Random, left: set[int], right: set[int]) -> None:
    sides = [[START + step * MS for step in sorted(side)] for side in (left, right)]
    events = interleaving(order, *sides, ahead=1000)
    synchronizer: StereoSynchronizer[int] = StereoSynchronizer(slop_of("exact", 0.0), queue_size=60)
    assert fed(synchronizer, events) == [(stamp, stamp) for stamp in sides[0] if stamp in sides[1]]


@given(
    orders,
    st.integers(10, 200),
    st.floats(-0.2, 0.2),
    st.floats(0.0, 0.05),
    st.sets(st.integers(3, 29), max_size=4),
    st.sets(st.integers(3, 29), max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_late_cameras_that_lose_frames_are_paired_frame_by_frame(
    order: random.Random, period_ms: int, offset: float, jitter: float, lost_left: set[int], lost_right: set[int]
) -> None:
    period = period_ms * MS
    wobble = [order.uniform(-1.0, 1.0) for _ in range(60)]
    stamps = [
        {
            i: START + round(period * (i + side * offset + jitter * wobble[30 * side + i]))
            for i in range(30)
            if i not in lost
        }
        for side, lost in ((0, lost_left), (1, lost_right))
    ]
    events = interleaving(order, list(stamps[0].values()), list(stamps[1].values()))
    synchronizer: StereoSynchronizer[int] = StereoSynchronizer(None, queue_size=30)
    both = sorted(stamps[0].keys() & stamps[1].keys())
    assert fed(synchronizer, events) == [(stamps[0][i], stamps[1][i]) for i in both]


@given(orders, st.integers(0, 30), st.lists(st.integers(61, 300), max_size=25), st.lists(st.integers(61, 300)))
@settings(max_examples=50, deadline=None)
def test_with_a_slop_pairs_do_not_depend_on_the_order_of_arrival(
    order: random.Random, slop: int, left: list[int], right: list[int]
) -> None:
    sides = [[START + sum(steps[: i + 1]) for i in range(len(steps))] for steps in (left, right)]
    synchronizers = [StereoSynchronizer[int](slop, queue_size=200) for _ in range(3)]
    found = [fed(s, interleaving(order, *sides, ahead=1000)) for s in synchronizers]
    assert found[0] == found[1] == found[2]
    within = [(a, b) for a in sides[0] for b in sides[1] if abs(a - b) <= slop]
    # Below half of the shortest period each has one possible partner.
    assert found[0] == within


def interleaved(period: int, offset: int, count: int) -> list[Event]:
    left = [(0, START + period * i) for i in range(count)]
    return sorted([*left, *((1, stamp + offset) for _, stamp in left)], key=lambda event: event[1])


@pytest.mark.parametrize("offset", [4, -4, 24, 49, 50])
def test_pairs_are_given_out_as_soon_as_they_are_certain(offset: int) -> None:
    events = interleaved(100 * MS, offset * MS, 20)
    synchronizer: StereoSynchronizer[int] = StereoSynchronizer(None)
    pairs = fed(synchronizer, events, finish=False)
    # Only the first waits, for a frame period to be known.
    assert len(pairs) >= 19 and all(right - left == offset * MS for left, right in pairs)
    assert set(synchronizer.gaps) == {offset * MS}
    before = len(pairs)
    for side, stamp in ((0, START + 2000 * MS), (1, START + 2000 * MS + offset * MS)):
        newest = fed(synchronizer, [(side, stamp)], finish=False)
        pairs += newest
    assert len(pairs) == before + 1


def test_what_is_given_up_tells_how_far_its_nearest_was() -> None:
    synchronizer: StereoSynchronizer[int] = StereoSynchronizer(0)
    assert fed(synchronizer, interleaved(100 * MS, 4 * MS, 20), finish=False) == []
    assert set(synchronizer.missed) == {4 * MS} and sum(synchronizer.unpaired) == 39
    # Clocks of two epochs: never a pair, however long they wait.
    synchronizer = StereoSynchronizer(None)
    assert fed(synchronizer, interleaved(100 * MS, -START + 60_000 * MS, 40)) == []
    assert min(synchronizer.missed) < -1_000_000_000 * 1000 * MS


def test_a_fast_and_a_slow_camera() -> None:
    left = [(0, START + 33 * MS * i) for i in range(60)]
    right = [(1, START + 100 * MS * i + 7 * MS) for i in range(20)]
    synchronizer: StereoSynchronizer[int] = StereoSynchronizer(None)
    pairs = fed(synchronizer, sorted([*left, *right], key=lambda event: event[1]))
    assert len(pairs) >= 18 and max(abs(a - b) for a, b in pairs) <= 17 * MS


def test_one_image_of_each_side_is_a_pair_in_the_end() -> None:
    assert fed(StereoSynchronizer(None), [(0, START), (1, START + 3 * MS)]) == [(START, START + 3 * MS)]


def test_a_slop_for_equal_stamps_is_refused() -> None:
    assert (slop_of("approximate", 0.0), slop_of("approximate", 0.004), slop_of("exact", 0.0)) == (None, 4 * MS, 0)
    with pytest.raises(ConfigError, match=r"slop 0\.01 has no effect"):
        slop_of("exact", 0.01)
    with pytest.raises(ConfigError, match="'nearest'"):
        slop_of("nearest", 0.0)
