"""~/odometry of the temporal and the stereo node: frames, stamps, covariance, and the way of a rendered camera."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from semantic_matcher_core.motion.frames import AHEAD, of_base, parse_mount
from semantic_matcher_core.motion.odometry import OdometryStatus, OdometryStep
from semantic_matcher_core.motion.pose import Pose, exp_so3
from semantic_matcher_core.offline.options import RunOptions
from tests.core.rendered_room import (
    BASELINE,
    CAMERA,
    FOCAL,
    HEIGHT,
    WIDTH,
    Room,
    walk,
    write_depth_bag,
    write_pair_bag,
)
from tests.ros.conftest import PLAIN_SIFT
from tests.ros.support import Client, image_message, in_process, of_stamp, running, set_stamp, stamp_of, wait_until

pytestmark = pytest.mark.ros

STAMPS = itertools.count(1_700_000_000_000_000_000, 100_000_000)
MOUNT = "0.2 0.1 0.5 -1.5707963 0 -1.5707963"


@pytest.fixture(scope="module")
def room(textured: Callable[..., np.ndarray]) -> Room:
    return Room(textured)


def info_message(stamp: int, baseline: float = 0.0) -> Any:
    from sensor_msgs.msg import CameraInfo

    message = CameraInfo(height=HEIGHT, width=WIDTH, distortion_model="plumb_bob", d=[0.0] * 5)
    k = CAMERA.matrix
    message.k = k.reshape(-1).tolist()
    message.p = np.hstack([k, [[-FOCAL * baseline], [0], [0]]]).reshape(-1).tolist()
    set_stamp(message, stamp)
    return message


def depth_message(depth: np.ndarray, stamp: int) -> Any:
    from sensor_msgs.msg import Image

    millimetres = np.round(depth * 1000).astype("<u2")
    message = Image(height=HEIGHT, width=WIDTH, encoding="16UC1", step=2 * WIDTH)
    message.data = millimetres.tobytes()
    message.header.frame_id = "camera_optical"
    set_stamp(message, stamp)
    return message


def pose_of(message: Any) -> Pose:
    p, q = message.pose.pose.position, message.pose.pose.orientation
    return Pose.from_quaternion(np.array([q.x, q.y, q.z, q.w]), np.array([p.x, p.y, p.z]))


def send_until(send: Callable[[int], None], heard: list[Any], tries: int = 20) -> Any:
    """Publish the same images with new stamps until something of one of them is heard."""
    for _ in range(tries):
        stamp = next(STAMPS)
        send(stamp)
        try:
            return wait_until(lambda s=stamp: of_stamp(heard, s), "odometry", timeout=2.0)
        except AssertionError:
            continue
    raise AssertionError("no odometry")


def assert_as_offline(messages: list[Any], bag: Path, options: Any, topics: list[str], depth: str = "") -> None:
    """Compare what a node said with a run of the same images."""
    from semantic_matcher_core.io.bags import BagReader
    from semantic_matcher_core.offline.run import run
    from semantic_matcher_core.offline.sources import BagSource
    from semantic_matcher_core.pipeline import SemanticMatcher

    output = bag.with_suffix(".out.mcap")
    matcher = SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=500)
    run(BagSource(bag, topics, depth=depth), matcher, output, options)
    with BagReader(output) as reader:
        recorded = [item.message for item in reader.messages([f"/{options.mode}_matcher/odometry"])]
    assert [stamp_of(m.header) for m in messages] == [stamp_of(m.header) for m in recorded]
    for ours, theirs in zip(messages, recorded, strict=True):
        assert (ours.header.frame_id, ours.child_frame_id) == (theirs.header.frame_id, theirs.child_frame_id)
        np.testing.assert_allclose(pose_of(ours).matrix, pose_of(theirs).matrix, atol=1e-9)
        np.testing.assert_allclose(ours.pose.covariance, theirs.pose.covariance, rtol=1e-6, atol=1e-15)


def test_temporal_odometry_with_depth(client: Client, log: Path, room: Room, tmp_path: Path) -> None:
    from nav_msgs.msg import Odometry
    from semantic_matcher_msgs.msg import Descriptors
    from sensor_msgs.msg import CameraInfo, Image

    heard = client.listen(Odometry, "/temporal_matcher/odometry")
    diagnostics = client.diagnostics()
    parameters = {**PLAIN_SIFT, "odometry": True, "base_frame": "base_link", "mount": MOUNT}
    with running("temporal_matcher", log, parameters) as node:
        camera, depth, info = (
            client.publisher(t, f"/{n}") for t, n in ((Image, "image"), (Image, "depth"), (CameraInfo, "camera_info"))
        )
        poses = walk(3)
        seen = [room.see(pose) for pose in poses]

        def send(index: int, with_depth: bool = True) -> Callable[[int], None]:
            def publish(stamp: int) -> None:
                info.publish(info_message(stamp))
                camera.publish(image_message(seen[index][0], stamp, "camera_optical"))
                if with_depth:
                    depth.publish(depth_message(seen[index][1], stamp))

            return publish

        mount = parse_mount(MOUNT)
        np.testing.assert_allclose(mount.rotation, AHEAD.rotation, atol=1e-6)
        messages = []
        for index, pose in enumerate(poses):
            message = send_until(send(index), heard)
            messages.append(message)
            assert message.header.frame_id == "odom" and message.child_frame_id == "base_link"
            expected, _ = of_base(poses[0].inverse() @ pose, np.zeros((6, 6)), mount)
            off = pose_of(message).change_to(expected)
            assert np.linalg.norm(off[:3]) < 0.005 and np.degrees(np.linalg.norm(off[3:])) < 0.1
            covariance = np.reshape(message.pose.covariance, (6, 6))
            np.testing.assert_allclose(covariance, covariance.T)
            assert (np.linalg.eigvalsh(covariance) > 0).all() or index == 0
        # The way leads ahead (x), and to the right of the camera (-y).
        assert pose_of(message).translation[0] > 0.05 and pose_of(message).translation[1] < -0.03
        assert message.twist.twist.linear.x > 0

        stamps = [stamp_of(m.header) for m in messages]
        bag = write_depth_bag(tmp_path / "in.mcap", seen, stamps=stamps, later=0)
        options = RunOptions(odometry=True, base_frame="base_link", mount=MOUNT)
        assert_as_offline(messages, bag, options, ["/camera/color/image_raw"], "/camera/depth")

        # Without depth nothing is made up, and the reason is told.
        known = len(heard)

        def warned() -> Any:
            send(2, with_depth=False)(next(STAMPS))
            time.sleep(0.05)
            return next((s for s in diagnostics.of("/temporal_matcher") if "no depth on /depth" in s.message), None)

        wait_until(warned, "a warning of no depth")
        assert len(heard) == known

        # Depth that cannot be used costs odometry, and nothing else that is made of the image.
        descriptors = client.listen(Descriptors, "/temporal_matcher/descriptors")

        def described() -> Any:
            stamp = next(STAMPS)
            message = depth_message(seen[2][1], stamp)
            message.encoding = "mono8"
            send(2, with_depth=False)(stamp)
            depth.publish(message)
            return descriptors

        wait_until(described, "descriptors", every=0.1)
        node.wait_for("odometry failed: depth of encoding 'mono8'; expected 16UC1")
        assert len(heard) == known
        assert "Traceback" not in node.output


def test_stereo_odometry_in_the_cameras_own_frame(client: Client, log: Path, room: Room, tmp_path: Path) -> None:
    from nav_msgs.msg import Odometry
    from sensor_msgs.msg import CameraInfo, Image

    heard = client.listen(Odometry, "/stereo_matcher/odometry")
    parameters = {**PLAIN_SIFT, "odometry": True, "rectified": True, "publish_tf": True}
    with running("stereo_matcher", log, parameters) as node:
        cameras = [client.publisher(Image, f"/{side}/image") for side in ("left", "right")]
        infos = [client.publisher(CameraInfo, f"/{side}/camera_info") for side in ("left", "right")]
        # It looks up as well: rows change by more than the band between left and right allows.
        poses = [pose @ Pose(exp_so3(np.array([0.04 * i, 0, 0]))) for i, pose in enumerate(walk(3))]
        pairs, messages = [room.pair(pose) for pose in poses], []
        for pose, pair in zip(poses, pairs, strict=True):

            def send(stamp: int, pair: Any = pair) -> None:
                for shift, info, camera, pixels in zip((0.0, BASELINE), infos, cameras, pair, strict=True):
                    info.publish(info_message(stamp, shift))
                    camera.publish(image_message(pixels, stamp, "left_optical"))

            message = send_until(send, heard)
            messages.append(message)
            assert message.header.frame_id == "odom" and message.child_frame_id == "left_optical"
            off = pose_of(message).change_to(AHEAD @ poses[0].inverse() @ pose)
            assert np.linalg.norm(off[:3]) < 0.01 and np.degrees(np.linalg.norm(off[3:])) < 0.2
        bag = write_pair_bag(tmp_path / "in.mcap", pairs, stamps=[stamp_of(m.header) for m in messages])
        options = RunOptions(mode="stereo", rectified=True, odometry=True)
        assert_as_offline(messages, bag, options, ["/left/image", "/right/image"])
        if "tf2_msgs" not in os.environ.get("AMENT_PREFIX_PATH", ""):
            wait_until(lambda: "TF needs tf2_msgs" in node.output or _has_tf(), "the reason why there is no TF")
        assert stamp_of(message.header) > 0 and "Traceback" not in node.output


def _has_tf() -> bool:
    import importlib.util

    return importlib.util.find_spec("tf2_msgs") is not None


def test_a_frame_gets_no_second_parent_on_tf(ros: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from geometry_msgs.msg import TransformStamped
    from std_msgs.msg import Header

    from semantic_matcher.odometry_output import OdometryFollower

    module = ModuleType("tf2_msgs.msg")
    vars(module)["TFMessage"] = SimpleNamespace
    monkeypatch.setitem(sys.modules, "tf2_msgs", ModuleType("tf2_msgs"))
    monkeypatch.setitem(sys.modules, "tf2_msgs.msg", module)
    sent: list[Any] = []
    hear: list[Callable[[Any], None]] = []
    problems: dict[str, str] = {}
    values = SimpleNamespace(base_frame="", mount="", publish_tf=True, odom_frame="odom")
    node: Any = SimpleNamespace(
        parameters=SimpleNamespace(values=values),
        statistics=SimpleNamespace(set=lambda *given: None, count=lambda *given: None),
        outputs={"odometry": SimpleNamespace(publish=lambda build: None)},
        set_problem=lambda subject, text, kind="", error=False: problems.update({subject: text}),
        check_frame=lambda *given: None,
        create_publisher=lambda *given: SimpleNamespace(publish=sent.append),
        create_subscription=lambda type_, topic, callback, qos: hear.append(callback),
    )
    follower = OdometryFollower(node, SimpleNamespace(match_frames=None))  # type: ignore[arg-type]
    step = OdometryStep(0, OdometryStatus.TRACKING, 0, Pose(), np.eye(6))
    monkeypatch.setattr(follower._odometry, "process", lambda view: step)
    header = Header(frame_id="camera_optical")
    follower.process(None, header)  # type: ignore[arg-type]
    assert len(sent) == 1 and not any(problems.values())
    for parent, child in (("camera_link", "camera_optical"), ("base_footprint", "camera_link")):
        transform = TransformStamped(header=Header(frame_id=parent), child_frame_id=child)
        hear[0](SimpleNamespace(transforms=[transform]))
    follower.process(None, header)  # type: ignore[arg-type]
    assert len(sent) == 1 and "set base_frame to 'base_footprint'" in problems["parent on TF"]
    values.base_frame = "base_footprint"
    follower.process(None, header)  # type: ignore[arg-type]
    assert len(sent) == 2 and not any(problems.values())
    assert sent[1].transforms[0].child_frame_id == "base_footprint"


def test_depth_that_is_late_or_of_another_camera_is_told(ros: None) -> None:
    from sensor_msgs.msg import Image

    pixels, distances = np.zeros((HEIGHT, WIDTH), np.uint8), np.ones((HEIGHT, WIDTH))
    with in_process("temporal_matcher", {**PLAIN_SIFT, "odometry": True, "lazy": False, "warmup_width": 0}) as node:
        node.trigger_configure(), node.trigger_activate()
        taken: list[Any] = []
        node._depth._receive = taken.append
        node.create_publisher(Image, "/depth", 1)
        wait_until(node._depth._subscription.publishers, "its own publisher")

        def warned() -> str:
            node._depth.review()
            return "\n".join(node._problems.now())

        def send(count: int, later: int, frame: str = "camera_optical") -> None:
            """Images ten times a second, and depth so many images after its own."""
            stamps = [next(STAMPS) for _ in range(count)]
            for index, stamp in enumerate(stamps):
                node._depth.add_image(image_message(pixels, stamp, "camera_optical"))
                if index >= later:
                    depth = depth_message(distances, stamps[index - later])
                    depth.header.frame_id = frame
                    node._depth._add_depth(depth)

        # A second and a half is waited for.
        send(30, later=15)
        assert len(taken) == 15 and all(image.header.stamp == depth.header.stamp for image, depth in taken)
        assert warned() == ""
        send(90, later=40)
        assert "4.0 s after their images; 30 images wait for theirs" in warned()
        send(40, later=0, frame="depth_optical")
        assert "'depth_optical', the images are in 'camera_optical': it must be registered" in warned()
        send(40, later=0)
        assert "registered" not in warned()


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"odometry": True, "mount": "1 2 3", "base_frame": "base_link"}, "six numbers"),
        ({"odometry": True, "mount": "0 0 0 0 0 0"}, "base_frame"),
        ({"odometry": True, "odom_frame": ""}, "odom_frame"),
    ],
)
def test_parameters_that_contradict_each_other_end_the_start(parameters: dict[str, Any], named: str) -> None:
    pytest.importorskip("nav_msgs")
    from semantic_matcher.odometry_output import odometry_refusal
    from semantic_matcher_core.options import TABLES

    defaults = {spec.name: spec.default for spec in TABLES["stereo_matcher"]}
    assert odometry_refusal(SimpleNamespace(**defaults)) == ""
    assert named in odometry_refusal(SimpleNamespace(**{**defaults, **parameters}))
