"""A subscription that takes the quality of service of its publishers, and is made anew when they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSProfile, QoSReliabilityPolicy

from semantic_matcher.qos import endpoints_text, input_qos, mismatch, policy_text
from semantic_matcher.qos_overrides import override_name, with_policies
from semantic_matcher.sequence_gaps import SequenceGaps

if TYPE_CHECKING:
    from rclpy.subscription import Subscription
    from rclpy.topic_endpoint_info import TopicEndpointInfo

    from semantic_matcher.matcher_node import MatcherNode


class FollowingSubscription:
    """Hears what comes on a topic while it is open.

    Args:
        node: the node it belongs to.
        message_type: the class of the messages.
        topic: full name.
        receive: called with each message in the executor's thread.
        depth: how many messages may wait for the executor.
        what: what the messages are, in words.
        reliability: ``auto`` follows the publishers; or ``reliable``, ``best_effort``. A parameter ``qos_overrides.…``
            of this topic has precedence.
        lost: called with the number of messages that the middleware has just found lost.
        overrun: called with the number of messages, less than none where there were fewer than was thought, that newer
            ones replaced before the executor took them: of that the middleware says nothing.
    """

    def __init__(
        self,
        node: MatcherNode,
        message_type: type,
        topic: str,
        receive: Callable[[Any], None],
        *,
        depth: int,
        what: str,
        reliability: str = "auto",
        lost: Callable[[int], None] = lambda number: None,
        overrun: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.topic = topic
        self._node = node
        self._type = message_type
        self._type_name = f"sensor_msgs/msg/{message_type.__name__}"
        self._receive = receive
        self._depth = depth
        self._what = what
        self._reliability = reliability
        self._lost = lost
        self._overrun = overrun
        self._gaps = SequenceGaps(lambda: frozenset(bytes(info.endpoint_gid) for info in self.publishers()))
        self._overrides = node.qos_overrides.policies(topic, "subscription")
        self._subscription: Subscription | None = None
        self._qos = input_qos(depth, [])
        self._destroyed = False

    @property
    def is_open(self) -> bool:
        """Whether it is subscribed now."""
        return self._subscription is not None

    @property
    def qos(self) -> QoSProfile:
        """What it asks of its publishers."""
        return self._qos

    def publishers(self) -> list[TopicEndpointInfo]:
        """Return who publishes messages of its type on the topic."""
        return [info for info in self._endpoints() if info.topic_type == self._type_name]

    def open(self) -> None:
        """Subscribe as the publishers of this moment offer it."""
        if self._subscription is None:
            self._qos = self._wanted_qos()
            self._subscribe()

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._gaps.begin()
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def leave(self) -> None:
        """Unsubscribe for another topic: what is wrong with this one counts no more."""
        self.close()
        for what in ("QoS", "type", "publishers"):
            self._node.set_problem(f"{what} of {self.topic}", "")

    def destroy(self) -> None:
        """Unsubscribe for good."""
        self._destroyed = True
        self.close()

    def review(self) -> None:
        """Subscribe anew where the publishers offer something else than they did; say what does not fit."""
        if self._destroyed:
            return
        self._overrun(self._gaps.newly_unexplained())
        if self._subscription is not None:
            wanted = self._wanted_qos()
            if (wanted.reliability, wanted.durability) != (self._qos.reliability, self._qos.durability):
                self.close()
                self._qos = wanted
                self._subscribe()
        text = self._mismatch_text()
        self._node.set_problem(f"QoS of {self.topic}", text, kind=text.partition(":")[0])
        self._node.set_problem(f"type of {self.topic}", self._type_text())
        self._warn_of_several()

    def _subscribe(self) -> None:
        # rclpy takes callbacks of two arguments, too, and does not say so in its types.
        take: Any = self._take
        self._subscription = self._node.create_subscription(
            self._type,
            self.topic,
            take,
            self._qos,
            event_callbacks=SubscriptionEventCallbacks(
                # Said by review(), and taken back when it is over; the default would log it for itself.
                incompatible_qos=self._changed,
                incompatible_type=self._changed,
                matched=self._changed,
                message_lost=self._message_lost,
            ),
        )

    def _take(self, message: Any, info: Any) -> None:
        self._gaps.note(info.get("publication_sequence_number"))
        self._receive(message)

    def _message_lost(self, event: Any) -> None:
        self._gaps.explained += event.total_count_change
        self._lost(event.total_count_change)

    def _changed(self, event: Any) -> None:
        # Not here: the event is one of the subscription that may have to go.
        self._node.soon(self.review)

    def _endpoints(self) -> list[TopicEndpointInfo]:
        return list(self._node.get_publishers_info_by_topic(self.topic))

    def _wanted_qos(self) -> QoSProfile:
        publishers = self.publishers()
        if not publishers and self._subscription is not None:
            # A driver that starts anew most likely comes back as it was.
            return self._qos
        profile = input_qos(self._depth, [info.qos_profile for info in publishers])
        if self._reliability != "auto":
            profile.reliability = getattr(QoSReliabilityPolicy, self._reliability.upper())
        return with_policies(profile, self._overrides)

    def _mismatch_text(self) -> str:
        """Return which publishers are not heard, and what would mend it; of all the policies, the first."""
        asked = self._wanted_qos() if self._subscription is None else self._qos
        unheard = [(info, mismatch(info.qos_profile, asked)) for info in self.publishers()]
        unheard = [(info, policy) for info, policy in unheard if policy]
        if not unheard:
            return ""
        info, policy = unheard[0]
        where = override_name(self.topic, "subscription", policy)
        if policy in self._overrides:
            remedy = f"leave out the parameter {where} of this node"
        elif policy == "reliability":
            remedy = "start this node with image_reliability:=auto"
        else:
            remedy = f"set {where} of this node to {policy_text(info.qos_profile, policy)}"
        return (
            f"a publisher on {self.topic} offers incompatible QoS ({policy.upper()}), its {self._what} will not "
            f"arrive: {endpoints_text([info])} offers {policy_text(info.qos_profile, policy)}, this node requests "
            f"{policy_text(asked, policy)}; {remedy}, or change the publisher"
        )

    def _warn_of_several(self) -> None:
        publishers = self.publishers()
        subject, text = f"publishers of {self.topic}", ""
        if len(publishers) > 1:
            text = (
                f"{len(publishers)} publishers on {self.topic}: their {self._what} are mixed "
                f"({endpoints_text(publishers)})"
            )
        self._node.set_problem(subject, text, kind=text and subject)

    def _type_text(self) -> str:
        others = {info.topic_type for info in self._endpoints()} - {self._type_name}
        if not others:
            return ""
        hint = ""
        if "sensor_msgs/msg/CompressedImage" in others and self._type_name == "sensor_msgs/msg/Image":
            base = self.topic.removesuffix("/compressed")
            hint = f"; for compressed images set image_transport to compressed and name the topic {base}"
            if self._what != "images":
                hint = f"; {self._what} are taken raw: have image_transport's republish decompress them"
        return (
            f"{self.topic} also has messages of another type than {self._type_name} ({', '.join(sorted(others))}); "
            f"those will not arrive{hint}"
        )
