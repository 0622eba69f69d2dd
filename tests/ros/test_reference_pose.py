"""~/pose of the reference node and of the tracker, and /tf: a poster of known width in front of a camera."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from semantic_matcher_core.motion.pose import Pose, exp_so3
from tests.core.rendered_room import CAMERA, HEIGHT, WIDTH
from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, image_message, of_stamp, running, set_stamp, wait_until

pytestmark = pytest.mark.ros

STAMPS = itertools.count(1_700_000_000_000_000_000, 100_000_000)
POSTER_WIDTH = 0.9


def photograph(poster: np.ndarray, pose: Pose) -> np.ndarray:
    """What the camera at ``pose`` sees of the poster, whose middle is z = 0."""
    height, width = poster.shape[:2]
    pitch = POSTER_WIDTH / width
    plane = [[pitch, 0, (0.5 - width / 2) * pitch], [0, pitch, (0.5 - height / 2) * pitch], [0, 0, 0], [0, 0, 1]]
    fine = np.array([[4, 0, 1.5], [0, 4, 1.5], [0, 0, 1]])
    homography = fine @ CAMERA.matrix @ pose.inverse().matrix[:3] @ np.array(plane)
    large = cv2.warpPerspective(poster, homography, (4 * WIDTH, 4 * HEIGHT), borderValue=(90, 90, 90))
    return cv2.resize(large, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


# The template's parameters have a name of their own.
NODES = {"reference_matcher": "reference_images", "template_tracker": "template_image"}


@pytest.mark.parametrize("name", NODES)
def test_pose_of_a_poster(
    name: str, client: Client, log: Path, tmp_path: Path, textured: Callable[..., np.ndarray]
) -> None:
    from geometry_msgs.msg import PoseWithCovarianceStamped
    from sensor_msgs.msg import CameraInfo, Image

    poster = textured(400, 600, seed=90)
    cv2.imwrite(str(tmp_path / "poster.png"), poster[..., ::-1])
    rotation = exp_so3(np.array([0.15, -0.25, 0.1]))
    pose = Pose(rotation, -1.2 * rotation[:, 2] + np.array([0.05, -0.03, 0]))
    heard = client.listen(PoseWithCovarianceStamped, f"/{name}/pose")
    image = str(tmp_path / "poster.png")
    parameters = {
        **PLAIN_SIFT,
        NODES[name]: [image] if name == "reference_matcher" else image,
        "reference_width": POSTER_WIDTH,
        "publish_tf": True,
    }
    with running(name, log, parameters) as node:
        camera, info = client.publisher(Image, "/image"), client.publisher(CameraInfo, "/camera_info")

        def located(pixels: np.ndarray, timeout: float = 2.0) -> Any:
            stamp = next(STAMPS)
            message = CameraInfo(height=HEIGHT, width=WIDTH, distortion_model="plumb_bob", d=[0.0] * 5)
            message.k = CAMERA.matrix.reshape(-1).tolist()
            set_stamp(message, stamp)
            info.publish(message)
            camera.publish(image_message(pixels, stamp, "camera_optical"))
            try:
                return wait_until(lambda: of_stamp(heard, stamp), "", timeout=timeout)
            except AssertionError:
                return None

        message = wait_until(lambda: located(photograph(poster, pose)), "a pose")
        assert message.header.frame_id == "camera_optical"
        p, q = message.pose.pose.position, message.pose.pose.orientation
        found = Pose.from_quaternion(np.array([q.x, q.y, q.z, q.w]), np.array([p.x, p.y, p.z]))
        off = found.change_to(pose.inverse())
        assert np.linalg.norm(off[:3]) <= 0.012 and np.degrees(np.linalg.norm(off[3:])) <= 0.5
        assert (np.linalg.eigvalsh(np.reshape(message.pose.covariance, (6, 6))) > 0).all()
        # Another poster is no pose of this one.
        assert located(photograph(textured(400, 600, seed=91), pose), timeout=1.0) is None
        assert "Traceback" not in node.output
        if importlib.util.find_spec("tf2_msgs") is None:
            # One sentence says what is missing, and all else goes on.
            errors = [line for line in node.output.splitlines() if line.startswith("[ERROR]")]
            assert len(errors) == 1 and "publish_tf: TF needs tf2_msgs" in errors[0]


def test_frames_are_called_like_their_pictures() -> None:
    pytest.importorskip("geometry_msgs")
    from semantic_matcher.reference_pose import frame_of

    names = ("dock.png", "dock", "my dock.JPG", "v1.2", "..")
    assert [frame_of(name) for name in names] == ["dock", "dock", "my_dock", "v1_2", "__"]


def test_transforms_where_tf_is_installed(ros: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to /tf, with a stand-in for the package that no wheel has."""
    from std_msgs.msg import Header

    module = ModuleType("tf2_msgs.msg")
    vars(module)["TFMessage"] = lambda transforms: SimpleNamespace(transforms=transforms)
    monkeypatch.setitem(sys.modules, "tf2_msgs", ModuleType("tf2_msgs"))
    monkeypatch.setitem(sys.modules, "tf2_msgs.msg", module)
    from semantic_matcher.tf_output import TransformOutput

    sent: list[Any] = []
    made: list[tuple[Any, ...]] = []
    node: Any = SimpleNamespace(
        create_publisher=lambda *given: made.append(given) or SimpleNamespace(publish=sent.append),
        destroy_publisher=lambda publisher: made.append(()),
        set_problem=lambda subject, text, **named: text and pytest.fail(text),
    )
    output = TransformOutput(node)
    assert made[0][1:] == ("/tf", 100)
    pose = Pose(exp_so3(np.array([0.1, 0.2, -0.3])), np.array([1.0, -2.0, 3.0]))
    header = Header(frame_id="camera_optical")
    header.stamp.sec = 12
    output.publish(header, "dock", pose)
    (transform,) = sent[0].transforms
    assert (transform.header.frame_id, transform.child_frame_id, transform.header.stamp.sec) == (
        "camera_optical", "dock", 12,
    )  # fmt: skip
    t, q = transform.transform.translation, transform.transform.rotation
    found = Pose.from_quaternion(np.array([q.x, q.y, q.z, q.w]), np.array([t.x, t.y, t.z]))
    np.testing.assert_allclose(found.matrix, pose.matrix, atol=1e-12)
    output.destroy()
    output.publish(header, "dock", pose)
    assert len(sent) == 1 and made[-1] == ()
