"""The stereo node on a real graph: pairs in, keypoints of both sides and matches out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, floats, image_message, of_stamp, running, stamp_of, wait_until

pytestmark = pytest.mark.ros

DISPARITY = 17
STEP = 40_000_000


def test_synchronised_pairs_agree_with_the_core(client: Client, log: Path, textured: Callable[..., np.ndarray]) -> None:
    from semantic_matcher_msgs.msg import Descriptors, Keypoints, Matches
    from sensor_msgs.msg import Image

    from semantic_matcher_core import SemanticMatcher

    picture = textured(240, 360, seed=5)
    left, right = picture[:, :320], picture[:, DISPARITY : 320 + DISPARITY]
    matcher = SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=500)
    features = [matcher.extract(image) for image in (left, right)]
    expected = matcher.match(*features)

    name = "/rig/stereo_matcher"
    heard = {
        "left": client.listen(Keypoints, f"{name}/left/keypoints"),
        "right": client.listen(Keypoints, f"{name}/right/keypoints"),
    }
    descriptors = {side: client.listen(Descriptors, f"{name}/{side}/descriptors") for side in heard}
    matches = client.listen(Matches, f"{name}/matches")
    diagnostics = client.diagnostics()
    # 3 ms between the sides are within 5 ms, 15 ms are not.
    with running("stereo_matcher", log, {**PLAIN_SIFT, "slop": 0.005}, arguments=("-r", "__ns:=/rig")):
        cameras = [client.publisher(Image, f"/rig/{side}/image") for side in ("left", "right")]
        sent = [1_700_000_000_000_000_000]

        def send(offset: int) -> tuple[int, int]:
            sent.append(sent[-1] + STEP)
            stamps = sent[-1], sent[-1] + offset
            for camera, image, stamp, side in zip(cameras, (left, right), stamps, ("l", "r"), strict=True):
                camera.publish(image_message(image, stamp, f"rig_{side}"))
            return stamps

        def complete() -> int | None:
            """The stamp of a pair of which everything has arrived."""
            for message in list(matches):
                stamps = stamp_of(message.reference_header), stamp_of(message.header)
                if all(
                    of_stamp(heard[s], t) and of_stamp(descriptors[s], t) for s, t in zip(heard, stamps, strict=True)
                ):
                    return stamps[1]
            return None

        for _ in range(20):
            send(3_000_000)
            try:
                stamp = wait_until(complete, "a pair", timeout=3.0)
                break
            except AssertionError:
                continue
        else:
            pytest.fail("no answer to 20 pairs")

        message = of_stamp(matches, stamp)
        assert message.mode == "stereo"
        assert (message.reference_header.frame_id, message.header.frame_id) == ("rig_l", "rig_r")
        assert stamp_of(message.header) - stamp_of(message.reference_header) == 3_000_000
        np.testing.assert_array_equal(floats(message.index0), expected.indices[:, 0].numpy())
        np.testing.assert_array_equal(floats(message.index1), expected.indices[:, 1].numpy())
        moved = floats(message.xy1).reshape(-1, 2) - floats(message.xy0).reshape(-1, 2)
        assert len(moved) > 100
        assert (np.linalg.norm(moved - (-DISPARITY, 0), axis=1) < 3).mean() > 0.8
        for side, own in zip(heard, features, strict=True):
            k = of_stamp(heard[side], stamp if side == "right" else stamp - 3_000_000)
            d = of_stamp(descriptors[side], stamp_of(k.header))
            assert k.header.frame_id == d.header.frame_id == f"rig_{side[0]}"
            np.testing.assert_array_equal(floats(k.xy).reshape(-1, 2), own.keypoints[0].numpy())
            np.testing.assert_array_equal(floats(d.data).reshape(-1, d.dim), own.descriptors[0].numpy())

        before = len(matches)
        send(15_000_000)
        status = diagnostics.wait_for(name, lambda s: int(s.values["images without a partner"]) >= 1, "unpaired")
        assert status.values["state"] == "active"
        assert len(matches) == before

        # The tolerance may change while the node runs.
        assert client.set_parameter(name, "slop", 0.018).successful
        for _ in range(20):
            send(15_000_000)
            try:
                wait_until(lambda: len(matches) > before, "a pair 15 ms apart", timeout=3.0)
                break
            except AssertionError:
                continue
        assert stamp_of(matches[-1].header) - stamp_of(matches[-1].reference_header) == 15_000_000
