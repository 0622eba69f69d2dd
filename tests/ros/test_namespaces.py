"""Two nodes in two namespaces hear and say nothing of each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, image_message, running, stamp_of, wait_until

pytestmark = pytest.mark.ros


def test_two_cameras_do_not_mix(client: Client, tmp_path: Path, textured: Callable[..., np.ndarray]) -> None:
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from sensor_msgs.msg import Image

    sizes = {"front": (160, 200), "rear": (176, 144)}
    # Even stamps for one, odd ones for the other.
    stamps = {name: itertools.count(1_700_000_000_000_000_000 + i, 50_000_000) for i, name in enumerate(sizes)}
    keypoints = {name: client.listen(Keypoints, f"/{name}/temporal_matcher/keypoints") for name in sizes}
    matches = {name: client.listen(Matches, f"/{name}/temporal_matcher/matches") for name in sizes}
    diagnostics = client.diagnostics()
    with ExitStack() as stack:
        for name in sizes:
            log = tmp_path / f"{name}.log"
            arguments = ("-r", f"__ns:=/{name}")
            stack.enter_context(running("temporal_matcher", log, PLAIN_SIFT, arguments=arguments))
        cameras = {name: client.publisher(Image, f"/{name}/image") for name in sizes}
        for _ in range(40):
            for i, (name, (height, width)) in enumerate(sizes.items()):
                image = image_message(textured(height, width, seed=i), next(stamps[name]), f"{name}_camera")
                cameras[name].publish(image)
            try:
                wait_until(lambda: min(map(len, matches.values())) >= 3, "matches of both", timeout=1.0)
                break
            except AssertionError:
                continue
        assert min(map(len, matches.values())) >= 3
        for i, (name, (height, width)) in enumerate(sizes.items()):
            for message in keypoints[name]:
                assert (message.height, message.width) == (height, width)
                assert message.header.frame_id == f"{name}_camera"
                assert stamp_of(message.header) % 2 == i
            for message in matches[name]:
                assert message.header.frame_id == message.reference_header.frame_id == f"{name}_camera"
                assert stamp_of(message.header) % 2 == stamp_of(message.reference_header) % 2 == i
            diagnostics.wait_for(f"/{name}/temporal_matcher", lambda s: s.values["state"] == "active", "active")
