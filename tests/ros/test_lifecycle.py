"""States, parameters at run time, and what happens when configuring fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import (
    TIMEOUT_S,
    Client,
    NodeProcess,
    image_message,
    machine_stamps,
    of_stamp,
    participant,
    running,
    wait_until,
)

pytestmark = pytest.mark.ros

NAME = "/temporal_matcher"
STAMPS = machine_stamps()


def keypoints_of(camera: Any, pixels: np.ndarray, keypoints: list[Any]) -> int:
    """How many keypoints an image gives, sent until it is answered."""
    for _ in range(20):
        stamp = next(STAMPS)
        camera.publish(image_message(pixels, stamp))
        try:
            return len(wait_until(lambda s=stamp: of_stamp(keypoints, s), "keypoints", timeout=3.0).scores)
        except AssertionError:
            continue
    raise AssertionError("no keypoints after 20 images")


def test_transitions_and_parameters(client: Client, log: Path, textured: Callable[..., np.ndarray]) -> None:
    import rclpy
    from rcl_interfaces.srv import DescribeParameters
    from semantic_matcher_msgs.msg import Keypoints
    from sensor_msgs.msg import Image

    pixels = textured(200, 200, seed=4)
    keypoints = client.listen(Keypoints, f"{NAME}/keypoints")
    camera = client.publisher(Image, "/image", subscribers=0)
    diagnostics = client.diagnostics()
    parameters = {**PLAIN_SIFT, "autostart": False, "no_image_warning_period": 0.5, "max_keypoint": 3}
    with running(
        "temporal_matcher",
        log,
        parameters,
        ready="'max_keypoint'; its value has no effect; did you mean 'max_keypoints'?",
    ) as node:
        assert client.state(NAME) == "unconfigured"
        # rclpy itself would end the process here.
        assert not client.change_state(NAME, "activate")
        assert client.state(NAME) == "unconfigured"
        node.wait_for("transition 'activate' is not possible in state 'unconfigured': possible are configure, shutdown")

        assert client.change_state(NAME, "configure")
        assert client.state(NAME) == "inactive"
        assert camera.get_subscription_count() == 0
        assert client.change_state(NAME, "activate")
        assert client.state(NAME) == "active"
        node.wait_for("no image on /image")
        status = diagnostics.wait_for(NAME, lambda s: s.level == 1, "a warning")
        assert "no image on /image" in status.message and "1 publisher(s)" in status.message
        wait_until(lambda: camera.get_subscription_count() == 1, "the subscription")
        assert keypoints_of(camera, pixels, keypoints) > 100
        diagnostics.wait_for(NAME, lambda s: s.level == 0 and s.values["state"] == "active", "OK")

        # One that was left running, or another file's: what both publish is mixed.
        namesake = rclpy.create_node("temporal_matcher", context=participant())
        status = diagnostics.wait_for(NAME, lambda s: "2 nodes are called /temporal_matcher" in s.message, "a namesake")
        assert status.level == 1 and "-r __node:=<name>" in status.message
        namesake.destroy_node()
        node.wait_for("over: 2 nodes are called")

        assert client.set_parameter(NAME, "max_keypoints", 40).successful
        # The keypoints of an image that was in work when the value changed may still be as before.
        assert 40 in [keypoints_of(camera, pixels, keypoints) for _ in range(2)]
        for parameter, value, reason in (
            ("max_keypoints", 0, "max_keypoints"),
            ("ratio", 1.5, "ratio"),
            ("reference_policy", "next", "'next'"),
            ("detection_threshold", 0.5, "'sift'"),
            ("variant", "plain:xfeat", "variant"),
        ):
            result = client.set_parameter(NAME, parameter, value)
            assert not result.successful and reason in result.reason, (parameter, result)
        assert keypoints_of(camera, pixels, keypoints) == 40
        # A whole number where a fraction is meant, as people write it.
        assert "'ratios'" in client.set_parameter(NAME, "ratios", 1).reason
        assert client.set_parameter(NAME, "ratio", 1).successful

        described = client.call(
            DescribeParameters, f"{NAME}/describe_parameters", names=["max_keypoints", "variant", "ratio"]
        ).descriptors
        assert [d.read_only for d in described] == [False, True, False]
        assert described[0].integer_range[0].to_value == 65536
        assert described[2].floating_point_range[0].to_value == 1.0
        assert all(d.description for d in described)

        assert client.change_state(NAME, "deactivate")
        wait_until(lambda: camera.get_subscription_count() == 0, "the end of the subscription")
        assert client.change_state(NAME, "cleanup")
        assert client.state(NAME) == "unconfigured"
        for label in ("configure", "activate"):
            assert client.change_state(NAME, label)
        wait_until(lambda: camera.get_subscription_count() == 1, "the subscription")
        assert keypoints_of(camera, pixels, keypoints) == 40
        assert client.change_state(NAME, "deactivate")
        assert client.change_state(NAME, "shutdown")
        assert client.state(NAME) == "finalized"
        assert node.stop() == 0, node.output
        assert "Traceback" not in node.output


@pytest.fixture
def no_weights(tmp_path: Path) -> dict[str, str]:
    """An environment in which no weights are found."""
    return {"SEMANTIC_MATCHER_HOME": str(tmp_path / "home"), "SEMANTIC_MATCHER_WEIGHTS": ""}


def test_a_node_that_starts_itself_ends_when_it_cannot(client: Client, log: Path, no_weights: dict[str, str]) -> None:
    diagnostics = client.diagnostics()
    # A node that ends this soon may be gone before a busy machine has discovered it.
    for _ in range(3):
        node = NodeProcess("temporal_matcher", log, {"variant": "xfeat", "device": "cpu"}, environment=no_weights)
        assert node.process.wait(TIMEOUT_S) == 1
        errors = [line for line in node.output.splitlines() if "ERROR" in line]
        assert len(errors) == 1
        assert "semantic-matcher weights fetch xfeat" in errors[0] and "plain:xfeat" in errors[0]
        assert "Traceback" not in node.output
        if diagnostics.of(NAME):
            break
    status = diagnostics.wait_for(NAME, lambda s: s.level == 2, "the error")
    assert "semantic-matcher weights fetch xfeat" in status.message


def test_a_managed_node_survives_a_configure_that_fails(
    client: Client, log: Path, no_weights: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "variant"
    parameters = {"variant": str(folder), "device": "cpu", "autostart": False, "diagnostics_period": 0.2}
    diagnostics = client.diagnostics()
    node = NodeProcess("temporal_matcher", log, parameters, environment=no_weights)
    try:
        for _ in range(2):
            assert not client.change_state(NAME, "configure")
            assert client.state(NAME) == "unconfigured"
        status = diagnostics.wait_for(NAME, lambda s: s.level == 2, "the error")
        assert str(folder) in status.message
        assert status.values["state"] == "unconfigured"
        assert node.stop() == 0, node.output
        assert "Traceback" not in node.output
    finally:
        node.process.kill()


def test_an_absent_gpu_is_an_error_and_no_fallback(ros: None, log: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    node = NodeProcess("temporal_matcher", log, {"variant": "plain:sift", "device": "cuda"})
    assert node.process.wait(TIMEOUT_S) == 1
    assert "device 'cuda' requested" in node.output
    assert "Traceback" not in node.output


def test_a_licence_that_forbids_commercial_use_is_in_the_log(
    ros: None, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from semantic_matcher_core.extractors.superpoint import SuperPoint
    from semantic_matcher_core.weights.catalogue import get_entry
    from semantic_matcher_core.weights.licences import require_acceptance
    from tests.core.extractor_checks import randomize

    extractor = SuperPoint()
    randomize(extractor)
    weights = tmp_path / "weights"
    weights.mkdir()
    torch.save(extractor.net.state_dict(), weights / "superpoint_v1.pth")
    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", str(weights))
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path / "home"))
    entry = get_entry("superpoint-extractor")
    require_acceptance(entry, accept=True)
    parameters = {**PLAIN_SIFT, "variant": "plain:superpoint", "device": "cpu"}
    with running("temporal_matcher", log, parameters) as node:
        (note,) = [line for line in node.output.splitlines() if "non-commercial" in line]
        assert "WARN" in note and entry.name in note and entry.licence in note
