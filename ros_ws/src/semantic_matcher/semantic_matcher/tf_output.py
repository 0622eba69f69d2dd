"""Poses on /tf, where the package tf2_msgs is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geometry_msgs.msg import TransformStamped

from semantic_matcher.optional_messages import optional_messages
from semantic_matcher_core.errors import MissingPackageError

if TYPE_CHECKING:
    from semantic_matcher.matcher_node import MatcherNode
    from semantic_matcher_core.motion.pose import Pose


def tf_messages(node: MatcherNode, what: str) -> Any:
    """Return the module of TF's messages; ``None``, and an error that names ``what`` needs it, where it is not
    installed.
    """
    try:
        return optional_messages("tf2_msgs", f"{what}: TF")
    except MissingPackageError as error:
        node.set_problem("TF", str(error), error=True)
        return None


class TransformOutput:
    """Publishes transforms on ``/tf``.

    Args:
        node: the node it belongs to.
    """

    def __init__(self, node: MatcherNode) -> None:
        self._node = node
        self._messages = tf_messages(node, "publish_tf")
        self._publisher: Any = None
        if self._messages is not None:
            self._publisher = node.create_publisher(self._messages.TFMessage, "/tf", 100)

    def publish(self, header: Any, child: str, pose: Pose) -> None:
        """Publish the pose of ``child`` in the header's frame, at its stamp."""
        if self._publisher is None:
            return
        missing = "" if header.frame_id and child and header.frame_id != child else self._frame_text(header, child)
        self._node.set_problem("frames of TF", missing)
        if missing:
            return
        transform = TransformStamped(header=header, child_frame_id=child)
        place, turn = transform.transform.translation, transform.transform.rotation
        place.x, place.y, place.z = map(float, pose.translation)
        turn.x, turn.y, turn.z, turn.w = map(float, pose.quaternion)
        self._publisher.publish(self._messages.TFMessage(transforms=[transform]))

    @staticmethod
    def _frame_text(header: Any, child: str) -> str:
        if header.frame_id == child and child:
            return f"nothing is published on /tf: a frame has no place in itself, and both are {child!r}"
        return (
            "nothing is published on /tf: the images have no frame_id; set it in the camera's driver (frame_id, "
            "camera_frame_id), or name base_frame where there is odometry"
        )

    def destroy(self) -> None:
        """Let go of the topic."""
        if self._publisher is not None:
            self._node.destroy_publisher(self._publisher)
        self._publisher = None
