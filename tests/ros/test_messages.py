"""Features and matches become messages without loss."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
import torch

from semantic_matcher_core.streams import Frame, MatchedPair
from semantic_matcher_core.types import Features, Matches
from tests.ros.support import floats, set_stamp

pytestmark = pytest.mark.ros


@pytest.fixture
def messages(ros: None) -> Any:
    from semantic_matcher import messages

    return messages


def header(stamp: int, frame_id: str) -> Any:
    from sensor_msgs.msg import Image

    message = Image()
    set_stamp(message, stamp)
    message.header.frame_id = frame_id
    return message.header


def frame(count: int, reasoned: bool = False, semantic: bool = False) -> Frame:
    torch.manual_seed(count)
    # A slice of a wider tensor: what is not contiguous must not be sent as if it were.
    features = Features(
        keypoints=torch.rand(1, count, 3)[..., :2] * 100,
        scores=torch.rand(1, count),
        descriptors=torch.rand(1, 8, count).transpose(1, 2),
        image_size=(48, 64),
        reasoned=torch.rand(1, count, 16) if reasoned else None,
        semantic=torch.rand(1, count, 6) if semantic else None,
    )
    return Frame(5, None, features)


@pytest.mark.parametrize("count", [0, 1, 33])
def test_keypoints_and_descriptors(messages: Any, count: int) -> None:
    some = frame(count)
    message = messages.keypoints_message(some, header(1_500_000_007, "cam"))
    assert (message.width, message.height, message.header.frame_id) == (64, 48, "cam")
    assert messages.stamp_ns(message.header) == 1_500_000_007
    np.testing.assert_array_equal(floats(message.xy).reshape(-1, 2), some.features.keypoints[0].numpy())
    np.testing.assert_array_equal(floats(message.scores), some.features.scores[0].numpy())

    message = messages.descriptors_message(some, header(1, "cam"), "plain:sift")
    assert (message.variant, message.dim, message.semantic_dim) == ("plain:sift", 8, 0)
    np.testing.assert_array_equal(floats(message.data).reshape(count, 8), some.features.descriptors[0].numpy())


def test_what_matching_compares_is_what_is_sent(messages: Any) -> None:
    some = frame(5, reasoned=True, semantic=True)
    message = messages.descriptors_message(some, header(1, "cam"), "xfeat")
    assert (message.dim, message.semantic_dim) == (16, 6)
    np.testing.assert_array_equal(floats(message.data).reshape(5, 16), some.features.reasoned[0].numpy())
    np.testing.assert_array_equal(floats(message.semantic_data).reshape(5, 6), some.features.semantic[0].numpy())


@pytest.mark.parametrize("count", [0, 1, 9])
@pytest.mark.parametrize("checked", [False, True])
def test_matches(messages: Any, count: int, checked: bool) -> None:
    one, other = frame(20), frame(30)
    indices = torch.stack([torch.randperm(20)[:count], torch.randperm(30)[:count]], dim=1)
    matches = Matches(
        indices,
        one.features.keypoints[0][indices[:, 0]],
        other.features.keypoints[0][indices[:, 1]],
        torch.rand(count),
        inlier=torch.rand(count) < 0.5 if checked else None,
        model=torch.rand(3, 3, dtype=torch.float64) if checked else None,
        model_type="homography" if checked else "",
    )
    pair = MatchedPair(one, other, matches)
    message = messages.matches_message(pair, header(2, "right"), header(1, "left"), "stereo")
    assert (message.header.frame_id, message.reference_header.frame_id, message.mode) == ("right", "left", "stereo")
    np.testing.assert_array_equal(floats(message.index0), indices[:, 0].numpy())
    np.testing.assert_array_equal(floats(message.index1), indices[:, 1].numpy())
    np.testing.assert_array_equal(floats(message.xy0).reshape(-1, 2), matches.keypoints0.numpy())
    np.testing.assert_array_equal(floats(message.xy1).reshape(-1, 2), matches.keypoints1.numpy())
    np.testing.assert_array_equal(floats(message.confidence), matches.confidence.numpy())
    assert message.model_type == ("homography" if checked else "")
    if checked:
        np.testing.assert_array_equal(floats(message.inlier), matches.inlier.numpy())
        np.testing.assert_array_equal(message.model.reshape(3, 3), matches.model.numpy())
    else:
        assert len(message.inlier) == 0 and not message.model.any()


def test_arrays_travel_in_the_type_that_rclpy_takes_without_a_copy(messages: Any) -> None:
    message = messages.keypoints_message(frame(3), header(1, "cam"))
    assert type(message.xy) is array.array and message.xy.typecode == "f"
    assert [messages.flat_array(np.array([1, 2**32 - 1]), "I")[1]] == [2**32 - 1]


def test_a_picture(messages: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    message = messages.rgb_image_message(pixels[:, ::-1], header(1, "cam"))
    assert (message.encoding, message.width, message.height, message.step) == ("rgb8", 7, 5, 21)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8).reshape(5, 7, 3), pixels[:, ::-1])
