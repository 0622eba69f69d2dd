"""The temporal node on a real graph: images in, keypoints, descriptors and matches out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, floats, image_message, of_stamp, running, set_stamp, stamp_of, wait_until

pytestmark = pytest.mark.ros

SHIFT = (12, -7)
STAMPS = itertools.count(1_700_000_000_000_000_000, 33_333_333)


@pytest.fixture(scope="module")
def views(textured: Callable[..., np.ndarray]) -> list[np.ndarray]:
    """Four windows of one picture: each is the one before, moved by SHIFT."""
    picture = textured(400, 480, seed=3)
    return [picture[60 + 7 * i : 300 + 7 * i, 60 - 12 * i : 380 - 12 * i] for i in range(4)]


def exchange(publisher: Any, pixels: np.ndarray, outputs: list[list[Any]], frame_id: str = "cam") -> list[Any]:
    """Publish a picture, under new stamps until each output has a message of one of them; those messages."""
    message = image_message(pixels, 0, frame_id)
    sent: list[int] = []

    def answered() -> list[Any] | None:
        for stamp in sent:
            found = [of_stamp(output, stamp) for output in outputs]
            if all(m is not None for m in found):
                return found
        return None

    while True:
        sent.append(next(STAMPS))
        set_stamp(message, sent[-1])
        publisher.publish(message)
        try:
            return wait_until(answered, "an answer to an image", timeout=3.0)
        except AssertionError:
            assert len(sent) < 20, "no answer to 20 images"


def test_messages_agree_with_the_core(client: Client, log: Path, views: list[np.ndarray]) -> None:
    from semantic_matcher_msgs.msg import Descriptors, Keypoints, Matches
    from sensor_msgs.msg import Image

    from semantic_matcher_core import SemanticMatcher

    matcher = SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=500)
    keypoints = client.listen(Keypoints, "/temporal_matcher/keypoints")
    descriptors = client.listen(Descriptors, "/temporal_matcher/descriptors")
    matches = client.listen(Matches, "/temporal_matcher/matches")
    with running("temporal_matcher", log, PLAIN_SIFT):
        camera = client.publisher(Image, "/image")
        # The first pictures are matched with each other, and tell that every topic is connected.
        exchange(camera, views[0], [keypoints, descriptors, matches])
        for previous, current in itertools.pairwise(views):
            k, d, m = exchange(camera, current, [keypoints, descriptors, matches])
            features0, features1 = matcher.extract(previous), matcher.extract(current)
            expected = matcher.match(features0, features1)
            n, count = features1.keypoints.shape[1], len(expected)
            assert n > 100 and count > 100

            assert (k.width, k.height) == (320, 240)
            assert k.header.frame_id == d.header.frame_id == m.header.frame_id == "cam"
            np.testing.assert_array_equal(floats(k.xy).reshape(-1, 2), features1.keypoints[0].numpy())
            np.testing.assert_array_equal(floats(k.scores), features1.scores[0].numpy())

            assert (d.variant, d.dim, d.semantic_dim, len(d.semantic_data)) == ("plain:sift", 128, 0, 0)
            np.testing.assert_array_equal(floats(d.data).reshape(n, 128), features1.descriptors[0].numpy())

            assert m.mode == "temporal"
            assert m.reference_header.frame_id == "cam"
            assert stamp_of(m.reference_header) < stamp_of(m.header)
            np.testing.assert_array_equal(floats(m.index0), expected.indices[:, 0].numpy())
            np.testing.assert_array_equal(floats(m.index1), expected.indices[:, 1].numpy())
            np.testing.assert_array_equal(floats(m.xy0).reshape(-1, 2), expected.keypoints0.numpy())
            np.testing.assert_array_equal(floats(m.xy1).reshape(-1, 2), expected.keypoints1.numpy())
            np.testing.assert_allclose(floats(m.confidence), expected.confidence.numpy(), atol=1e-6)
            assert (len(m.inlier), m.model_type) == (0, "")

            moved = floats(m.xy1).reshape(-1, 2) - floats(m.xy0).reshape(-1, 2)
            assert (np.linalg.norm(moved - SHIFT, axis=1) < 3).mean() > 0.8
