"""What is made beside matches fails alone: points and poses that cannot be had cost an image nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, image_message, in_process, machine_stamps, of_stamp, stamp_of, wait_until
from tests.ros.test_calibrated import BASELINE, HEIGHT, WIDTH, camera_info, layered_views

pytestmark = pytest.mark.ros

STAMPS = machine_stamps()


def processed(node: Any, item: Any) -> None:
    """Have a node work on an item, to its end."""
    before = node.statistics.total("processed")
    node.offer("", item)
    wait_until(lambda: node.statistics.total("processed") > before, "the image")


def test_points_that_cannot_be_had_cost_nothing_else(
    client: Client, textured: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from semantic_matcher_msgs.msg import Descriptors
    from sensor_msgs.msg import PointCloud2

    from semantic_matcher import stereo_node

    name = "/stereo_matcher"
    clouds = client.listen(PointCloud2, f"{name}/points")
    descriptors = client.listen(Descriptors, f"{name}/right/descriptors")
    views = layered_views(textured, (10, 25))
    with in_process("stereo_matcher", {**PLAIN_SIFT, "rectified": True}) as node:
        assert node.autostart()
        wait_until(lambda: node.outputs["points"].wanted and node.outputs["right/descriptors"].wanted, "the listener")

        def answered(pair: tuple[np.ndarray, np.ndarray], infos: tuple[Any, Any], frame: str = "camera") -> str:
            """What is wrong after a pair whose descriptors come all the same."""
            stamp = next(STAMPS)
            for kept, info in zip(node._infos, infos, strict=True):
                kept._receive(info)
            processed(node, tuple(image_message(pixels, stamp, frame) for pixels in pair))
            wait_until(lambda: of_stamp(descriptors, stamp), "descriptors")
            return "; ".join(node._problems.now())

        good = camera_info(), camera_info(BASELINE)
        assert answered(views, good) == ""
        wait_until(lambda: clouds, "points")
        for infos, words in (
            ((camera_info(), camera_info()), "no baseline"),
            (good[::-1], "are the two sides exchanged?"),
            ((camera_info(size=(0, 0)), good[1]), "/left/camera_info gives no size of its images (0 x 0)"),
            ((camera_info(size=(HEIGHT, 2 * WIDTH)), good[1]), f"describes images of {2 * WIDTH} x {HEIGHT}"),
        ):
            assert words in answered(views, infos)
        uncalibrated = camera_info()
        uncalibrated.p = [0.0] * 12
        assert "the left camera is not calibrated" in answered(views, (uncalibrated, good[1]))
        # Calibrations in their places, and images that are not.
        assert "matches became points" in (said := answered(views[::-1], good)) and "exchanged" in said, said
        assert "no frame_id, so RViz and TF can place ~/points nowhere" in answered(views, good, frame="")
        assert answered(views, good) == ""

        def defect(*_: Any, **__: Any) -> None:
            raise ValueError("a defect")

        count = len(clouds)
        monkeypatch.setattr(stereo_node, "sparse_points", defect)
        answered(views, good)
        assert node.statistics.last_error == "points failed: ValueError('a defect')"
        assert node.statistics.total("failed") == 0
        monkeypatch.undo()
        answered(views, good)
        wait_until(lambda: len(clouds) > count, "points again")


def test_a_pose_that_cannot_be_had_costs_nothing_else(
    client: Client, textured: Callable[..., np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geometry_msgs.msg import PoseWithCovarianceStamped
    from semantic_matcher_msgs.msg import Descriptors

    from semantic_matcher import reference_pose

    name = "/reference_matcher"
    pixels = textured(HEIGHT, WIDTH, seed=51)
    cv2.imwrite(str(tmp_path / "poster.png"), pixels[..., ::-1])
    poses = client.listen(PoseWithCovarianceStamped, f"{name}/pose")
    descriptors = client.listen(Descriptors, f"{name}/descriptors")
    parameters = {**PLAIN_SIFT, "reference_images": [str(tmp_path / "poster.png")], "reference_width": 0.6}
    with in_process("reference_matcher", parameters) as node:
        assert node.autostart()
        wait_until(lambda: node.outputs["pose"].wanted and node.outputs["descriptors"].wanted, "the listener")

        def answered(info: Any) -> str:
            stamp = next(STAMPS)
            node._infos[""]._receive(info)
            processed(node, image_message(pixels, stamp))
            wait_until(lambda: of_stamp(descriptors, stamp), "descriptors")
            return "; ".join(node._problems.now())

        assert answered(camera_info()) == ""
        wait_until(lambda: poses, "a pose")
        unknown = camera_info(distortion=(0.1,) * 5)
        unknown.distortion_model = "omnidirectional"
        assert "unknown distortion model 'omnidirectional'" in answered(unknown)
        uncalibrated = camera_info()
        uncalibrated.k = [0.0] * 9
        assert "calibrate the camera" in answered(uncalibrated)

        def defect(*_: Any) -> None:
            raise np.linalg.LinAlgError("a defect")

        monkeypatch.setattr(reference_pose, "Localiser", defect)
        assert answered(camera_info()) == ""
        assert node.statistics.last_error == "pose failed: LinAlgError('a defect')"
        assert stamp_of(poses[-1].header) < stamp_of(descriptors[-1].header)


def test_a_request_that_rclpy_cannot_read_does_not_end_the_node(client: Client, log: Path) -> None:
    from rcl_interfaces.msg import Parameter, ParameterValue
    from rcl_interfaces.srv import SetParameters

    from tests.ros.support import running

    name = "/temporal_matcher"
    with running("temporal_matcher", log, PLAIN_SIFT) as node:
        service = client.node.create_client(SetParameters, f"{name}/set_parameters")
        wait_until(service.service_is_ready, "the service")
        service.call_async(SetParameters.Request(parameters=[Parameter(name="ratio", value=ParameterValue(type=200))]))
        node.wait_for("a callback failed: ValueError")
        assert client.set_parameter(name, "ratio", 0.9).successful
        assert node.stop() == 0
