"""More images than the model can take: the newest wins, the age of results stays bounded, drops are counted."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.ros.slow_extractor import PLAIN_SLOW, install
from tests.ros.support import Client, image_message, running, stamp_of

pytestmark = pytest.mark.ros

SECONDS_PER_IMAGE = 0.25
# Ten times what the model can take, for four seconds; `python -m benchmarks.ros.load` does a minute.
RATE = 40
IMAGES = 160
# On top of two runs of the model: what a machine busy with other work may add to most, and to a single one. A queue
# would add more than three seconds.
MOSTLY_S, BUSY_S = 0.5, 1.5


def test_a_fast_camera_does_not_make_results_old(client: Client, log: Path, tmp_path: Path) -> None:
    from semantic_matcher_msgs.msg import Keypoints
    from sensor_msgs.msg import Image

    ages: list[float] = []
    stamps: list[int] = []

    def note(message: Keypoints) -> None:
        ages.append((time.time_ns() - stamp_of(message.header)) * 1e-9)
        stamps.append(stamp_of(message.header))

    client.node.create_subscription(Keypoints, "/temporal_matcher/keypoints", note, 50)
    diagnostics = client.diagnostics()
    environment = install(tmp_path, SECONDS_PER_IMAGE)
    with running("temporal_matcher", log, PLAIN_SLOW, environment=environment):
        memory: list[float] = []
        camera = client.publisher(Image, "/image")
        pixels = np.zeros((120, 160, 3), np.uint8)
        begin = time.monotonic()
        for i in range(IMAGES):
            # The stream's own pace: what is tested is what happens at it.
            time.sleep(max(0.0, begin + i / RATE - time.monotonic()))
            camera.publish(image_message(pixels, time.time_ns()))
            if i % RATE == 0 and diagnostics.of("/temporal_matcher"):
                memory.append(float(diagnostics.of("/temporal_matcher")[-1].values["memory [MB]"]))
        last_sent = time.time_ns()

        def settled(status: object) -> bool:
            values = status.values  # type: ignore[attr-defined]
            taken = int(values["images processed"]) + int(values["images dropped (a newer one came first)"])
            return int(values["images received"]) > 0 and taken == int(values["images received"])

        status = diagnostics.wait_for("/temporal_matcher", settled, "every image processed or dropped")
    received = int(status.values["images received"])
    processed = int(status.values["images processed"])
    assert received > IMAGES / 2
    # Four seconds at a quarter of a second each; a queue would have held the rest.
    assert 6 <= processed <= received / 5
    assert len(stamps) > 3 and stamps == sorted(stamps)
    # In a queue the last results would be more than three seconds old.
    assert float(np.median(ages)) < 2 * SECONDS_PER_IMAGE + MOSTLY_S
    assert max(ages) < 2 * SECONDS_PER_IMAGE + BUSY_S
    assert (last_sent - stamps[-1]) * 1e-9 < 2 * SECONDS_PER_IMAGE + BUSY_S
    assert float(status.values["age p50 [ms]"]) < 1000 * (2 * SECONDS_PER_IMAGE + MOSTLY_S)
    # Flat after a start: a picture that is kept of every hundred would show.
    assert max(memory[len(memory) // 2 :]) - memory[len(memory) // 3] < 5.0, memory
    assert float(status.values["age p50 [ms]"]) >= 1000 * SECONDS_PER_IMAGE


def test_images_over_the_age_limit_are_skipped(client: Client, log: Path, tmp_path: Path) -> None:
    from semantic_matcher_msgs.msg import Keypoints
    from sensor_msgs.msg import Image

    keypoints = client.listen(Keypoints, "/temporal_matcher/keypoints")
    diagnostics = client.diagnostics()
    parameters = {**PLAIN_SLOW, "max_image_age": 100.0}
    with running("temporal_matcher", log, parameters, environment=install(tmp_path, 0.0)):
        camera = client.publisher(Image, "/image")
        pixels = np.zeros((120, 160, 3), np.uint8)
        while not keypoints:
            camera.publish(image_message(pixels, time.time_ns()))
            time.sleep(0.2)
        heard = len(keypoints)
        for _ in range(3):
            camera.publish(image_message(pixels, time.time_ns() - 200 * 10**9))
            time.sleep(0.2)
        key = "images skipped (older than max_image_age)"
        diagnostics.wait_for("/temporal_matcher", lambda s: int(s.values[key]) > 0, "a skipped image")
        old = [m for m in keypoints[heard:] if stamp_of(m.header) < time.time_ns() - 150 * 10**9]
        assert old == []
