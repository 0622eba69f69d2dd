"""How a node's process begins and ends."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.slow_extractor import PLAIN_SLOW, install
from tests.ros.support import (
    TIMEOUT_S,
    Client,
    Diagnostics,
    NodeProcess,
    image_message,
    in_process,
    running,
    wait_until,
)

pytestmark = pytest.mark.ros

# Far beyond what any test waits for: who waits for the model fails.
FOREVER_S = 600.0
# Two seconds are promised; a machine busy with other work may need longer to get round to it: loading torch's libraries
# alone, which nothing interrupts, takes as long there.
ENDS_WITHIN_S = 90.0


def give_it_an_image(client: Client, diagnostics: Diagnostics) -> None:
    """Publish until the node has received one: the first may be lost while DDS still connects."""
    import numpy as np
    from sensor_msgs.msg import Image

    camera = client.publisher(Image, "/image")
    for stamp in range(1, 21):
        camera.publish(image_message(np.zeros((24, 32, 3), np.uint8), stamp * 10**9))
        try:
            wait_until(
                lambda: any(int(s.values["images received"]) for s in diagnostics.of("/temporal_matcher")),
                "an image",
                timeout=3.0,
            )
            return
        except AssertionError:
            continue


def test_a_signal_ends_it_while_an_image_is_processed(client: Client, log: Path, tmp_path: Path) -> None:
    diagnostics = client.diagnostics()
    with running(
        "temporal_matcher", log, {**PLAIN_SLOW, "lazy": False}, environment=install(tmp_path, FOREVER_S)
    ) as node:
        give_it_an_image(client, diagnostics)
        assert node.stop(signal.SIGINT, ENDS_WITHIN_S) == 0, node.output
        assert "Traceback" not in node.output


def handles_signals(pid: int) -> bool:
    """Whether a process has set a handler for SIGTERM, which Python itself does not."""
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: signal.Signals(n).name)
def test_a_signal_ends_it_at_any_moment(ros: None, tmp_path: Path, number: int) -> None:
    """While Python imports, while the node is made, configured and active: one process for each moment."""
    nodes: list[NodeProcess] = []
    try:
        for i in range(4 if number != signal.SIGHUP else 2):
            nodes.append(NodeProcess("stereo_matcher", tmp_path / f"{i}.log", {"variant": "plain:sift"}, cold=True))
            # As soon as its own handlers are in place; before that, Python's are, and end it as fast.
            if i > 0:
                wait_until(lambda: handles_signals(nodes[-1].process.pid), "the node's handlers")
            time.sleep(0.25 + 0.6 * max(0, i - 1))
            code = nodes[-1].stop(number, timeout=ENDS_WITHIN_S)
            assert code in ((0, 1, -number) if i == 0 else (0,)), (i, code, nodes[-1].output)
            assert i == 0 or "Traceback" not in nodes[-1].output, nodes[-1].output
    finally:
        for node in nodes:
            node.process.kill()


def shared_memory_of(pid: int) -> set[Path]:
    """Fast DDS's segments that a process has mapped, the ports aside, which belong to the machine."""
    words = Path(f"/proc/{pid}/maps").read_text().split()
    return {Path(word) for word in words if word.startswith("/dev/shm/fastrtps_") and "port" not in word}


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in the middle of an image"])
def test_it_leaves_nothing_in_the_machines_shared_memory(client: Client, log: Path, tmp_path: Path, busy: bool) -> None:
    """64 MB of memory would be gone for good each time a node is stopped."""
    diagnostics = client.diagnostics()
    there_before = set(Path("/dev/shm").glob("fastrtps_*"))
    options = {"environment": install(tmp_path, FOREVER_S)} if busy else {}
    with running("temporal_matcher", log, {**PLAIN_SLOW, "lazy": False} if busy else PLAIN_SIFT, **options) as node:
        if busy:
            give_it_an_image(client, diagnostics)
        own = shared_memory_of(node.process.pid) - there_before
        assert any(path.stat().st_size > 60 * 2**20 for path in own), "no segment of 64 MB: is the profile in use?"
        assert node.stop(signal.SIGINT, ENDS_WITHIN_S) == 0, node.output
        assert not [path for path in own if path.exists()]


def test_a_node_that_is_refused_leaves_nothing_there_either(ros: None) -> None:
    """Or each try of one that is started again and again would take 64 MB."""
    before = shared_memory_of(os.getpid())
    with pytest.raises(ValueError, match="max_keypoints = 0"), in_process("temporal_matcher", {"max_keypoints": 0}):
        pass
    assert shared_memory_of(os.getpid()) <= before


def test_a_signal_ends_it_while_the_model_is_loaded(client: Client, log: Path, tmp_path: Path) -> None:
    diagnostics = client.diagnostics()
    environment = install(tmp_path, FOREVER_S, warmup=True)
    parameters = {**PLAIN_SLOW, "autostart": False}
    node = NodeProcess("temporal_matcher", log, parameters, environment=environment)
    try:
        diagnostics.wait_for("/temporal_matcher", lambda s: True, "the node")
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        service = client.node.create_client(ChangeState, "/temporal_matcher/change_state")
        wait_until(service.service_is_ready, "the service")
        service.call_async(ChangeState.Request(transition=Transition(label="configure")))
        seen = len(diagnostics.of("/temporal_matcher"))
        # Once the executor is busy with the model, no diagnostics come any more.
        wait_until(lambda: _silent(diagnostics, seen), "configuring")
        assert node.stop(signal.SIGTERM, ENDS_WITHIN_S) == 0, node.output
        assert "still computing when told to stop" in node.output
    finally:
        node.process.kill()


def _silent(diagnostics: object, seen: int) -> bool:
    before = len(diagnostics.of("/temporal_matcher"))  # type: ignore[attr-defined]
    time.sleep(5 * PLAIN_SLOW["diagnostics_period"])
    return bool(len(diagnostics.of("/temporal_matcher")) == before)  # type: ignore[attr-defined]


def test_an_image_that_stays_in_work_is_told(ros: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from semantic_matcher import matcher_node

    monkeypatch.setattr(matcher_node, "_STUCK_S", 0.1)
    going_on = threading.Event()
    with in_process("temporal_matcher", PLAIN_SIFT) as node:
        assert node.autostart()
        monkeypatch.setattr(node, "process", lambda *_: going_on.wait(60))
        node.offer("", None)
        wait_until(lambda: node._worker.seconds_in_work > 0.1, "time to pass")
        node.review()
        assert [text for text in node._problems.now() if text.startswith("an image has been in work for ")]
        going_on.set()
        wait_until(lambda: not node._worker.seconds_in_work, "the end of the work")
        node.review()
        assert not [text for text in node._problems.now() if "in work" in text]


@pytest.mark.parametrize(
    ("executable", "parameters", "named"),
    [
        ("temporal_matcher", {"max_keypoints": 0}, "max_keypoints = 0 is refused: expected 1 to 65536"),
        ("stereo_matcher", {"variant": "xfeet"}, "unknown variant 'xfeet'"),
        ("temporal_matcher", {"descriptor": "aliked", "dino": "dinov2_vitb14"}, "aliked (dinov2_vits14)"),
    ],
    ids=["temporal", "stereo", "a pair that nobody trained"],
)
def test_a_bad_value_at_start_is_named_in_one_line(
    ros: None, log: Path, executable: str, parameters: dict[str, object], named: str
) -> None:
    node = NodeProcess(executable, log, parameters)
    assert node.process.wait(TIMEOUT_S) == 1
    assert named in node.output
    assert "Traceback" not in node.output
    assert len(node.output.splitlines()) == 1


def test_a_node_without_images_tells_where_images_are(client: Client, log: Path) -> None:
    from semantic_matcher_msgs.msg import Keypoints
    from sensor_msgs.msg import Image

    camera = client.node.create_publisher(Image, "/camera/image_raw", 10)
    client.listen(Keypoints, "/temporal_matcher/keypoints")
    with running("temporal_matcher", log, {**PLAIN_SIFT, "no_image_warning_period": 0.3}) as node:
        node.wait_for("it has no publisher (remap it with -r image:=<your topic>; images are on /camera/image_raw)")
    client.node.destroy_publisher(camera)
