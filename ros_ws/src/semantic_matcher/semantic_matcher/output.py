"""One topic that a node publishes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.qos import qos_policy_name_from_kind

from semantic_matcher.qos import latched_qos, output_qos, overridable

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode

    from semantic_matcher.node_statistics import Statistics


class Output:
    """A publisher whose messages are built only while somebody subscribes and the node is active.

    Args:
        node: the node it belongs to.
        message_type: the class of its messages.
        topic: the topic's name, ``~/…``.
        statistics: where trouble is noted.
        latched: publish even when nobody subscribes, and give the last messages to those who subscribe later.
    """

    def __init__(
        self, node: LifecycleNode, message_type: type, topic: str, statistics: Statistics, *, latched: bool = False
    ) -> None:
        self._latched = latched
        self._node = node
        self._statistics = statistics
        self._publisher = node.create_lifecycle_publisher(
            message_type,
            topic,
            latched_qos() if latched else output_qos(),
            event_callbacks=PublisherEventCallbacks(incompatible_qos=self._incompatible_qos),
            qos_overriding_options=overridable(),
        )

    @property
    def wanted(self) -> bool:
        """Whether somebody subscribes, or may do so later."""
        return self._publisher.is_activated and (self._latched or self._publisher.get_subscription_count() > 0)

    def publish(self, build: Callable[[], Any]) -> bool:
        """Build and publish a message if somebody subscribes; whether that was so."""
        if not self.wanted:
            return False
        self._publisher.publish(build())
        return True

    def destroy(self) -> None:
        """Take the publisher down."""
        self._node.destroy_lifecycle_publisher(self._publisher)

    def _incompatible_qos(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).split(".")[-1]
        topic = self._publisher.topic_name
        self._statistics.count("incompatible")
        self._node.get_logger().warning(
            f"a subscriber of {topic} requests incompatible QoS ({policy}), nothing will reach it; change the "
            f"subscriber's QoS, or qos_overrides.{topic}.publisher.{policy.lower()} of this node"
        )
