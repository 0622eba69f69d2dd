"""Signs of life for a lifecycle manager (nav2's), which takes everything down when those of a node end.

Both sides of a bond publish bond/msg/Status on one topic, under one id and each under an instance of its own: active
while they live, once more and not active when they go (bond_core). As nav2's own nodes do, this side does not mind
when the manager falls silent.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile

from semantic_matcher.optional_messages import optional_messages

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode

# What nav2's nodes say; of the manager's own silence nothing is made here.
_HEARTBEAT_TIMEOUT_S = 4.0


def bond_messages() -> Any:
    """Return the module of the messages.

    Raises:
        MissingPackageError: the package bond is not installed.
    """
    return optional_messages("bond", "bond_heartbeat_period")


class Bond:
    """A bond from now on until it is broken, by either side.

    Args:
        node: whose name is the bond's id; its executor beats.
        period: seconds between two signs of life.
    """

    def __init__(self, node: LifecycleNode, period: float) -> None:
        self._node = node
        self._period = period
        self._status = bond_messages().Status
        self._instance = str(uuid.uuid4())
        self._broken = False
        # Not of the lifecycle: the manager is told of the end when the node is not active any more.
        self._publisher = node.create_publisher(self._status, "bond", QoSProfile(depth=5))
        self._subscription = node.create_subscription(self._status, "bond", self._hear, QoSProfile(depth=100))
        self._timer = node.create_timer(period, self._beat, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._beat()

    def destroy(self) -> None:
        """Tell the other side that this one goes, and let go of the topic."""
        self._break()
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_publisher(self._publisher)

    def _beat(self) -> None:
        if not self._broken:
            self._publish(active=True)

    def _hear(self, message: Any) -> None:
        other = message.id == self._node.get_name() and message.instance_id != self._instance
        if other and not message.active and not self._broken:
            self._break()
            self._node.get_logger().info("the lifecycle manager has ended its bond")

    def _break(self) -> None:
        if not self._broken:
            self._publish(active=False)
            self._broken = True

    def _publish(self, *, active: bool) -> None:
        message = self._status(
            id=self._node.get_name(),
            instance_id=self._instance,
            active=active,
            heartbeat_timeout=_HEARTBEAT_TIMEOUT_S,
            heartbeat_period=self._period,
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
