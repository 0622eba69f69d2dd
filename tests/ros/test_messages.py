"""Features and matches become messages without loss."""

from __future__ import annotations

import array
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from semantic_matcher_core.io.messages import descriptors_of
from semantic_matcher_core.streams import Frame, MatchedPair
from semantic_matcher_core.types import Features, Matches
from tests.ros.support import Client, floats, set_stamp, wait_until

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


def test_half_precision_descriptors(messages: Any) -> None:
    some = frame(5, reasoned=True, semantic=True)
    message = messages.descriptors_message(some, header(1, "cam"), "xfeat", dtype="float16")
    assert (message.dtype, message.dim, message.semantic_dim, len(message.data)) == ("float16", 16, 6, 0)
    data, semantic = descriptors_of(message)
    np.testing.assert_array_equal(data, some.features.reasoned[0].half().float().numpy().reshape(-1))
    np.testing.assert_array_equal(semantic, some.features.semantic[0].half().float().numpy().reshape(-1))


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


def test_arrays_travel_without_a_copy(messages: Any) -> None:
    some = frame(3)
    values = torch.rand(1, 3, 8)
    message = messages.descriptors_message(
        Frame(5, None, replace(some.features, descriptors=values)), header(1, "cam"), "plain:sift"
    )
    assert np.shares_memory(message.data, values.numpy())
    # What is not contiguous, or of another type, is made so.
    message = messages.keypoints_message(some, header(1, "cam"))
    assert message.xy.flags["C_CONTIGUOUS"] and message.xy.dtype == np.float32
    pair = MatchedPair(some, some, Matches(torch.tensor([[1, 2**32 - 1]]), *(torch.rand(1, 2),) * 2, torch.ones(1)))
    index = messages.matches_message(pair, header(1, "cam"), header(1, "cam"), "temporal").index1
    assert index.dtype == np.uint32 and index[0] == 2**32 - 1


def test_messages_with_other_slots_get_what_their_setters_take(messages: Any) -> None:
    class Other:
        data: Any = None

    message = Other()
    messages.set_array(message, "data", torch.rand(2, 6)[:, ::2], "f")
    assert type(message.data) is array.array and message.data.typecode == "f" and len(message.data) == 6


def test_what_is_published_arrives(client: Client, messages: Any) -> None:
    """Through rclpy's conversion and the middleware, elements and lengths as they were."""
    from semantic_matcher_msgs.msg import Descriptors
    from semantic_matcher_msgs.msg import Matches as MatchesMessage

    some = frame(33, reasoned=True, semantic=True)
    sent = messages.descriptors_message(some, header(9, "cam"), "xfeat")
    received = client.listen(Descriptors, "/arrays")
    publisher = client.publisher(Descriptors, "/arrays")
    publisher.publish(sent)
    message = wait_until(lambda: received[-1] if received else None, "the descriptors")
    np.testing.assert_array_equal(floats(message.data), floats(sent.data))
    np.testing.assert_array_equal(floats(message.semantic_data), floats(sent.semantic_data))
    assert len(message.data) == 33 * 16 and message.header.frame_id == "cam"
    publisher.publish(messages.descriptors_message(some, header(10, "cam"), "xfeat", dtype="float16"))
    half = wait_until(lambda: received[-1] if received[-1].dtype == "float16" else None, "half-precision descriptors")
    assert len(half.data) == 0 and len(half.data16) == 33 * 16
    np.testing.assert_allclose(descriptors_of(half)[1], floats(sent.semantic_data), atol=1e-3)

    rows = torch.stack([torch.arange(7), torch.arange(7).flip(0)], dim=1)
    keypoints = some.features.keypoints[0]
    pair = MatchedPair(
        some, some, Matches(rows, keypoints[rows[:, 0]], keypoints[rows[:, 1]], torch.rand(7), torch.arange(7) > 3)
    )
    sent = messages.matches_message(pair, header(2, "b"), header(1, "a"), "temporal")
    received = client.listen(MatchesMessage, "/more_arrays")
    publisher = client.publisher(MatchesMessage, "/more_arrays")
    publisher.publish(sent)
    message = wait_until(lambda: received[-1] if received else None, "the matches")
    for field in ("index0", "index1", "xy0", "xy1", "confidence", "inlier"):
        np.testing.assert_array_equal(floats(getattr(message, field)), floats(getattr(sent, field)))


def test_a_picture(messages: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    message = messages.rgb_image_message(pixels[:, ::-1], header(1, "cam"))
    assert (message.encoding, message.width, message.height, message.step) == ("rgb8", 7, 5, 21)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8).reshape(5, 7, 3), pixels[:, ::-1])
