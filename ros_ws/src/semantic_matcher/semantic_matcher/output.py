"""One topic that a node publishes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.qos import QoSDurabilityPolicy

from semantic_matcher.qos import endpoints_text, latched_qos, mismatch, output_qos, policy_text
from semantic_matcher.qos_overrides import override_name, with_policies

if TYPE_CHECKING:
    from semantic_matcher.matcher_node import MatcherNode


class Output:
    """A publisher whose messages are built only while there is a subscriber and the node is active.

    Args:
        node: the node it belongs to.
        message_type: the class of its messages.
        topic: the topic's name, ``~/…``.
        latched: this many messages are published even without a subscriber, and given to those who subscribe later;
            0 for what is made of the images, of which nothing is kept unless a parameter ``qos_overrides.…`` says so.
    """

    def __init__(self, node: MatcherNode, message_type: type, topic: str, *, latched: int = 0) -> None:
        self._node = node
        self._type = message_type
        self._latched = latched
        self._topic = node.resolve_topic_name(topic)
        self._overrides = node.qos_overrides.policies(self._topic, "publisher")
        self._incompatible = False
        self._create()

    def _create(self) -> None:
        self._published = False
        self._qos = with_policies(latched_qos(self._latched) if self._latched else output_qos(), self._overrides)
        self._publisher = self._node.create_lifecycle_publisher(
            self._type,
            self._topic,
            self._qos,
            event_callbacks=PublisherEventCallbacks(
                incompatible_qos=self._incompatible_qos, matched=lambda event: self._node.soon(self._node.review)
            ),
        )

    @property
    def calls_for_images(self) -> bool:
        """Whether images have to be processed for its sake."""
        return not self._latched and self.wanted

    @property
    def wanted(self) -> bool:
        """Whether there is a subscriber, or may do so later and will get what is published now."""
        keeps = self._qos.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
        return bool(self._publisher.is_activated and (keeps or self._publisher.get_subscription_count() > 0))

    def renew(self, latched: int) -> None:
        """Forget the messages that are kept for later subscribers, and keep this many from now on."""
        if not self._published and latched == self._latched:
            return
        active = self._publisher.is_activated
        self.destroy()
        self._latched = latched
        self._create()
        if active:
            self._publisher.on_activate(None)

    def review(self) -> None:
        """Say which subscribers hear nothing, and take it back when they are gone."""
        if self._incompatible:
            text = self._mismatch_text()
            self._node.set_problem(f"QoS of {self._topic}", text, kind=text.partition(":")[0])

    def publish(self, build: Callable[[], Any]) -> bool:
        """Build and publish a message if there is a subscriber; return whether there was."""
        if not self.wanted:
            return False
        self._publisher.publish(build())
        self._published = True
        return True

    def destroy(self) -> None:
        """Take the publisher down."""
        self._node.destroy_lifecycle_publisher(self._publisher)

    def _incompatible_qos(self, event: Any) -> None:
        self._incompatible = True
        self._node.soon(self._node.review)

    def _mismatch_text(self) -> str:
        subscribers = self._node.get_subscriptions_info_by_topic(self._topic)
        deaf = [(info, mismatch(self._qos, info.qos_profile)) for info in subscribers]
        deaf = [(info, policy) for info, policy in deaf if policy]
        if not deaf:
            self._incompatible = False
            return ""
        info, policy = deaf[0]
        requested, where = policy_text(info.qos_profile, policy), override_name(self._topic, "publisher", policy)
        return (
            f"a subscriber of {self._topic} requests incompatible QoS ({policy.upper()}), nothing will reach it: "
            f"{endpoints_text([info])} requests {requested}, this node offers {policy_text(self._qos, policy)}; start "
            f"this node with the parameter {where} set to {requested}, or change the subscriber's QoS"
        )
