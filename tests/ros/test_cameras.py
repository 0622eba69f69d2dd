"""Several cameras in one node: one model, fair turns, nothing mixed; and nothing kept of them when deactivated."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.slow_extractor import PLAIN_SLOW, install
from tests.ros.support import Client, image_message, participant, running, stamp_of, wait_until

pytestmark = pytest.mark.ros

NAME = "/temporal_matcher"


def test_a_fast_camera_leaves_the_slow_one_its_turns(client: Client, log: Path, tmp_path: Path) -> None:
    from semantic_matcher_msgs.msg import Keypoints, Matches
    from sensor_msgs.msg import Image

    sizes = {"front": (120, 160), "rear": (90, 130)}
    keypoints = {camera: client.listen(Keypoints, f"{NAME}/{camera}/keypoints", 200) for camera in sizes}
    matches = {camera: client.listen(Matches, f"{NAME}/{camera}/matches", 200) for camera in sizes}
    diagnostics = client.diagnostics()
    parameters = {**PLAIN_SLOW, "cameras": list(sizes)}
    with running("temporal_matcher", log, parameters, environment=install(tmp_path, 0.1)) as node:
        node.wait_for("waiting for /front/image and /rear/image")
        publishers = {camera: client.publisher(Image, f"/{camera}/image") for camera in sizes}
        pixels = {camera: np.zeros((*size, 3), np.uint8) for camera, size in sizes.items()}
        begin = time.monotonic()
        # The front camera at fifty images a second for four seconds, the rear one at two and a half.
        for i in range(200):
            time.sleep(max(0.0, begin + i / 50 - time.monotonic()))
            for camera in sizes if i % 20 == 0 else ("front",):
                stamp = 10**18 + i * 20_000_000 + (camera == "rear")
                publishers[camera].publish(image_message(pixels[camera], stamp, camera))
        wait_until(lambda: len(keypoints["rear"]) >= 6, "the rear camera's keypoints")
        for i, (camera, size) in enumerate(sizes.items()):
            for message in keypoints[camera]:
                assert (message.height, message.width) == size
                assert message.header.frame_id == camera and stamp_of(message.header) % 2 == i
            assert matches[camera]
            for message in matches[camera]:
                assert message.header.frame_id == message.reference_header.frame_id == camera
                assert stamp_of(message.reference_header) < stamp_of(message.header)
        # It had its turn for each of its images but those of a start, while the other one lost most of its.
        assert len(keypoints["front"]) < 70
        status = diagnostics.of(NAME)[-1].values
        assert float(status["front/image rate in [Hz]"]) > 5 * float(status["rear/image rate in [Hz]"]) > 0
        assert int(status["images dropped (a newer one came first)"]) > 60
        assert float(status["rear rate out [Hz]"]) > 0.7 * float(status["rear/image rate in [Hz]"])


def test_nothing_of_the_images_is_kept_when_deactivated(client: Client, textured: Callable[..., np.ndarray]) -> None:
    """Features would stay in the GPU's memory; on any device the frame that held them is gone."""
    from rclpy.parameter import Parameter

    from semantic_matcher.temporal_node import TemporalMatcher

    kept: list[Any] = []

    class Noting(TemporalMatcher):
        def process(self, source: str, item: Any) -> None:
            super().process(source, item)
            reference = self._streams[source].reference
            assert reference is not None
            kept.append(weakref.ref(reference.features))

    node = Noting(context=participant(), parameter_overrides=[Parameter(k, value=v) for k, v in PLAIN_SIFT.items()])
    try:
        assert node.autostart()
        node.offer("", image_message(textured(120, 160), 10**18))
        wait_until(lambda: kept, "the image")
        assert kept[0]() is not None
        node.trigger_deactivate()
        gc.collect()
        assert kept[0]() is None
        assert node.model is not None
        node.trigger_cleanup()
        assert node.model is None
    finally:
        node.destroy_node()
        # The lifecycle services live as long as the node's state machine, and other tests would call them.
        del node
        gc.collect()
    served = client.node.get_service_names_and_types
    # rclpy keeps this one as long as the context.
    left = f"{NAME}/get_type_description"
    wait_until(
        lambda: not any(name.startswith(NAME) for name, _ in served() if name != left), "the end of the node's services"
    )
