"""Where the camera is, as nav_msgs/Odometry and on TF; frames as REP-105 has them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.qos import DurabilityPolicy, QoSProfile

from semantic_matcher.messages import stamp_ns
from semantic_matcher.tf_output import TransformOutput, tf_messages
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.motion.frames import StaticTree, of_base, of_camera, parse_mount
from semantic_matcher_core.motion.odometry import Odometry, OdometryStatus, OdometryStep
from semantic_matcher_core.motion.pose import Pose, log_so3

if TYPE_CHECKING:
    from semantic_matcher.matcher_node import MatcherNode
    from semantic_matcher.matching_model import MatchingModel
    from semantic_matcher_core.motion.view import View

# What RTAB-Map puts where a pose is not tied to the one before.
_UNTIED = 9999.0


def odometry_refusal(settings: SimpleNamespace) -> str:
    """Return why the odometry's parameters are refused; empty when they are good."""
    if settings.mount:
        try:
            parse_mount(settings.mount)
        except ConfigError as error:
            return f"mount: {error}"
        if not settings.base_frame:
            return "mount says where the camera is in base_frame, which is empty: name it, such as base_link"
    if settings.odometry and not settings.odom_frame:
        return "odom_frame must not be empty"
    if settings.odometry and settings.odom_frame == settings.base_frame:
        return f"odom_frame and base_frame are both {settings.odom_frame!r}; where a frame is in itself says nothing"
    return ""


class OdometryFollower:
    """Follows one camera and publishes where it, or the base that carries it, is.

    Args:
        node: with the parameters of the odometry and the output ``odometry``.
        model: matches features.
    """

    def __init__(self, node: MatcherNode, model: MatchingModel) -> None:
        self._node = node
        self._odometry = Odometry(SimpleNamespace(match=model.match_frames))
        self._settings = node.parameters.values
        self._mount = parse_mount(self._settings.mount) if self._settings.mount else None
        self._tree = StaticTree()
        self._last: tuple[int, Pose] | None = None
        self._tf = TransformOutput(node) if self._settings.publish_tf else None
        self._static: Any = None
        if self._settings.base_frame and self._mount is None:
            self._listen("base_frame without mount")
        elif self._settings.publish_tf:
            self._listen("publish_tf")

    def process(self, view: View, header: Any) -> None:
        """Publish where the camera of a view is, or say why that is not known.

        Args:
            view: with depth.
            header: of its image.
        """
        self._publish(self._odometry.process(view), header)
        self._odometry.settle()

    def _publish(self, step: OdometryStep, header: Any) -> None:
        statistics = self._node.statistics
        statistics.set("odometry", step.status.value)
        statistics.set("odometry segment", step.segment)
        statistics.set("odometry inliers", f"{step.inliers} of {step.matches}")
        lost = step.status is OdometryStatus.LOST
        self._node.set_problem(
            "odometry", f"odometry is lost: {step.reason}" if lost else "", kind="lost" if lost else ""
        )
        if lost or step.pose is None or step.covariance is None:
            statistics.count("odometry lost")
            self._last = None
            return
        if step.status is OdometryStatus.STARTED and step.segment > 0:
            self._node.get_logger().warning(
                f"odometry began anew (segment {step.segment}): its way is not tied to the one before; {step.reason}"
            )
        frames = self._in_frames(step, header)
        if frames is None:
            return
        child, pose, covariance = frames
        if step.status is OdometryStatus.STARTED and step.segment > 0:
            covariance = np.eye(6) * _UNTIED
        message = self._message(header, child, pose, covariance)
        self._last = (stamp_ns(header), pose)
        self._node.outputs["odometry"].publish(lambda: message)
        if self._tf is not None and not self._carried(child):
            self._tf.publish(message.header, child, pose)

    def destroy(self) -> None:
        """Let go of the topics of TF."""
        if self._tf is not None:
            self._tf.destroy()
        if self._static is not None:
            self._node.destroy_subscription(self._static)
        self._tf = self._static = None

    def _carried(self, child: str) -> bool:
        """Return whether another frame carries this one already, which is said: it cannot have a second parent."""
        root = self._tree.root(child)
        carried = root not in (child.lstrip("/"), self._settings.odom_frame.lstrip("/"))
        text = (
            f"nothing is published on /tf: {child!r} is fixed in {root!r} on /tf_static, and a frame has one parent "
            f"(REP-105); set base_frame to {root!r}"
        )
        self._node.set_problem("parent on TF", text if carried else "")
        return carried

    def _listen(self, what: str) -> None:
        messages = tf_messages(self._node, what)
        if messages is not None:
            latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self._static = self._node.create_subscription(messages.TFMessage, "/tf_static", self._hear, latched)

    def _hear(self, message: Any) -> None:
        for transform in message.transforms:
            t, q = transform.transform.translation, transform.transform.rotation
            pose = Pose.from_quaternion(np.array([q.x, q.y, q.z, q.w]), np.array([t.x, t.y, t.z]))
            self._tree.add(transform.header.frame_id, transform.child_frame_id, pose)

    def _in_frames(self, step: OdometryStep, header: Any) -> tuple[str, Pose, np.ndarray] | None:
        assert step.pose is not None and step.covariance is not None
        base = self._settings.base_frame
        if not base:
            self._node.check_frame(header, "~/odometry")
            return (header.frame_id, *of_camera(step.pose, step.covariance))
        mount = self._mount or self._tree.pose(base, header.frame_id)
        text = (
            "" if mount else f"where {header.frame_id!r} is in {base!r} is not on /tf_static; publish it, or set mount"
        )
        self._node.set_problem("mount", text, kind="mount" if text else "")
        return None if mount is None else (base, *of_base(step.pose, step.covariance, mount))

    def _message(self, header: Any, child: str, pose: Pose, covariance: np.ndarray) -> OdometryMessage:
        message = OdometryMessage(child_frame_id=child)
        message.header.stamp = header.stamp
        message.header.frame_id = self._settings.odom_frame
        fill_pose(message.pose.pose, pose)
        message.pose.covariance = covariance.reshape(-1).tolist()
        seconds = 0.0 if self._last is None else (stamp_ns(header) - self._last[0]) * 1e-9
        if self._last is not None and seconds > 0:
            change = self._last[1].inverse() @ pose
            twist = message.twist.twist
            speed = change.rotation.T @ change.translation / seconds
            turn = log_so3(change.rotation) / seconds
            twist.linear.x, twist.linear.y, twist.linear.z = map(float, speed)
            twist.angular.x, twist.angular.y, twist.angular.z = map(float, turn)
        return message


def fill_pose(message: Any, pose: Pose) -> None:
    """Write a pose into a geometry_msgs/Pose."""
    message.position.x, message.position.y, message.position.z = map(float, pose.translation)
    q = message.orientation
    q.x, q.y, q.z, q.w = map(float, pose.quaternion)
