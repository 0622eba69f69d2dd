"""One image topic of a node: subscription, warnings about what keeps images away, and decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import qos_policy_name_from_kind
from sensor_msgs.msg import CompressedImage, Image

from semantic_matcher.qos import image_qos, overridable

if TYPE_CHECKING:
    from rclpy.node import Node

    from semantic_matcher.node_statistics import Statistics


class ImageInput:
    """A subscription to a raw or compressed image topic.

    Args:
        node: the node it belongs to.
        name: the topic's relative name, which remapping may change.
        transport: ``raw``, or ``compressed``, which is found at ``<topic>/compressed`` of the remapped topic.
        on_message: called with each message; must return at once.
        statistics: where arrivals and trouble are noted.
    """

    def __init__(
        self, node: Node, name: str, transport: str, on_message: Callable[[Any], None], statistics: Statistics
    ) -> None:
        self._node = node
        self._name = name
        self._on_message = on_message
        self._statistics = statistics
        resolved = node.resolve_topic_name(name)
        self.topic = f"{resolved}/compressed" if transport == "compressed" else resolved
        self.trouble = ""
        """Why images stay away, as far as the middleware has told."""
        self._subscription = node.create_subscription(
            CompressedImage if transport == "compressed" else Image,
            self.topic,
            self._receive,
            image_qos(),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._incompatible_qos, incompatible_type=self._incompatible_type
            ),
            qos_overriding_options=overridable(),
        )

    @property
    def silence(self) -> float:
        """Seconds since the last image; infinity before the first."""
        return self._statistics.since(f"received:{self._name}")

    def publishers_text(self) -> str:
        """How many publish on the topic, in words; with the reason they are not heard where it is known."""
        count = self._node.count_publishers(self.topic)
        if count == 0:
            return f"nobody publishes on it (remap it with -r {self._name}:=<your topic>, or see `ros2 topic list`)"
        return f"{count} publisher(s) on it" + (f"; {self.trouble}" if self.trouble else "")

    def problems(self) -> list[str]:
        """What keeps images away, or mixes them."""
        found = [self.trouble] if self.trouble else []
        count = self._node.count_publishers(self.topic)
        if count > 1:
            found.append(f"{count} publishers on {self.topic}: their images are mixed")
        return found

    def destroy(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def _receive(self, message: Any) -> None:
        self._statistics.count("received")
        self._statistics.count(f"received:{self._name}")
        self._on_message(message)

    def _incompatible_qos(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).split(".")[-1]
        self._warn(
            f"a publisher on {self.topic} offers incompatible QoS ({policy}), its images will not arrive; change "
            f"qos_overrides.{self.topic}.subscription.{policy.lower()} of this node, or the publisher's QoS"
        )

    def _incompatible_type(self, event: Any) -> None:
        expected = "sensor_msgs/msg/" + self._subscription.msg_type.__name__
        self._warn(f"{self.topic} also has messages of another type than {expected}; those will not arrive")

    def _warn(self, text: str) -> None:
        self.trouble = text
        self._statistics.count("incompatible")
        self._node.get_logger().warning(text)
