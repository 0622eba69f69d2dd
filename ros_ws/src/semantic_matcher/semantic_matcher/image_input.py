"""One image topic of a node: subscription, what keeps images away from it, and whether they are wanted."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rclpy.qos import QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from semantic_matcher.clocks import clock_disagreement, clocks_agree
from semantic_matcher.fastdds_profile import PROFILE_VARIABLES, SOCKET_BUFFER, profile_path, socket_buffer_limit
from semantic_matcher.following import FollowingSubscription
from semantic_matcher.messages import stamp_ns
from semantic_matcher.qos import IMAGE_DEPTH

if TYPE_CHECKING:
    from semantic_matcher.matcher_node import MatcherNode

_COMPRESSED = "/compressed"
# In the names of what image_transport's plugins send, such as ffmpeg_image_transport_msgs/msg/FFMPEGPacket.
_TRANSPORTED = ("CompressedImage", "Packet", "Video")
# Of the images of the last ten seconds: warned of from the first share on, over below the second.
_LOST_BEGIN, _LOST_END, _LOST_AT_LEAST = 0.05, 0.02, 3


class ImageInput:
    """A subscription to a raw or compressed image topic.

    Args:
        node: the node it belongs to.
        name: the topic's relative name, which remapping may change.
        on_message: called with each message; must return at once.
        wanted: whether an output made of the images has a subscriber; called again and again.
        on_open: called when images begin to come, again after each pause.
    """

    def __init__(
        self,
        node: MatcherNode,
        name: str,
        on_message: Callable[[Any], None],
        wanted: Callable[[], bool],
        on_open: Callable[[], None],
    ) -> None:
        self._node = node
        self._name = name
        self._on_message = on_message
        self._wanted = wanted
        self._on_open = on_open
        self._opened_at = 0.0
        self._clocks: tuple[float, float] | None = None
        self.clocks_agree = True
        """Whether the stamps of its images can be compared with the node's time."""
        settings = node.parameters.values
        self.base = node.resolve_topic_name(name)
        """The topic without its transport."""
        compressed = settings.image_transport == "compressed"
        if compressed and self.base.endswith(_COMPRESSED) and self.base != _COMPRESSED:
            self.base = self.base.removesuffix(_COMPRESSED)
            node.get_logger().info(
                f"{name} is remapped to a topic that ends in {_COMPRESSED} already; image_transport compressed adds "
                f"that by itself, to {self.base}"
            )
        self.topic = f"{self.base}{_COMPRESSED}" if compressed else self.base
        self._subscription = FollowingSubscription(
            node,
            CompressedImage if compressed else Image,
            self.topic,
            self._receive,
            depth=IMAGE_DEPTH,
            what="images",
            reliability=settings.image_reliability,
            lost=self._count_lost,
            overrun=functools.partial(node.statistics.count, "overrun"),
        )

    @property
    def is_open(self) -> bool:
        """Whether it is subscribed now."""
        return self._subscription.is_open

    def review(self) -> None:
        """Subscribe or unsubscribe as is wanted, follow the publishers, and say what keeps images away or is odd."""
        wanted = self._wanted()
        if wanted and not self.is_open:
            self._on_open()
            self._opened_at = time.monotonic()
            self._subscription.open()
        elif not wanted and self.is_open:
            self._subscription.close()
            self._clocks = None
        self._subscription.review()
        self._warn_of_silence()
        self._warn_of_losses()
        self._warn_of_clocks()

    def destroy(self) -> None:
        """Unsubscribe for good."""
        self._subscription.destroy()

    def _receive(self, message: Any) -> None:
        self._node.statistics.count("received")
        self._node.statistics.count(f"received:{self._name}")
        stamp = stamp_ns(message.header)
        self._clocks = (stamp * 1e-9, self._node.get_clock().now().nanoseconds * 1e-9) if stamp else None
        self.clocks_agree = self._clocks is None or clocks_agree(*self._clocks)
        self._on_message(message)

    def _count_lost(self, number: int) -> None:
        self._node.statistics.count("lost", number)
        self._node.statistics.count(f"lost:{self._name}", number)

    def _warn_of_silence(self) -> None:
        silence = min(self._node.statistics.since(f"received:{self._name}"), time.monotonic() - self._opened_at)
        period = self._node.parameters.values.no_image_warning_period
        text = f"no image on {self.topic}"
        if not (self.is_open and 0 < period <= silence):
            self._node.set_problem(text, "")
            return
        count = len(self._subscription.publishers())
        if count:
            why = f"{count} publisher(s) on it"
        elif other := self._other_transport():
            why = f"it has no publisher; {other}"
        else:
            why = f"it has no publisher (remap it with -r {self._name}:=<your topic>; {self._published_images()})"
        self._node.set_problem(text, f"{text} for {silence:.0f} s: {why}", kind=why)

    def _other_transport(self) -> str:
        """Return how these images can be taken as they are published; empty where they are not."""
        if self.topic == self.base:
            other, kind, transport = f"{self.base}{_COMPRESSED}", "sensor_msgs/msg/CompressedImage", "compressed"
        else:
            other, kind, transport = self.base, "sensor_msgs/msg/Image", "raw"
        if any(info.topic_type == kind for info in self._node.get_publishers_info_by_topic(other)):
            return f"start this node with image_transport:={transport}, the images are on {other}"
        # image_transport has them below the topic, in messages of its plugins' own.
        below = [
            name
            for name, types in self._node.get_topic_names_and_types()
            if name.rpartition("/")[0] == self.base
            and any(word in type_ for type_ in types for word in _TRANSPORTED)
            and self._node.count_publishers(name)
        ]
        return f"{', '.join(sorted(below))} has them: decompress it with image_transport's republish" if below else ""

    def _published_images(self) -> str:
        """Return topics with images that others publish, in words."""
        own = f"{self._node.get_fully_qualified_name()}/"
        kinds = {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}
        found = [
            name
            for name, types in self._node.get_topic_names_and_types()
            if kinds.intersection(types) and not name.startswith(own) and self._node.count_publishers(name)
        ]
        return f"images are on {', '.join(sorted(found))}" if found else "no topic has images now"

    def _warn_of_losses(self) -> None:
        subject = f"losses of {self.topic}"
        lost = self._node.statistics.recent(f"lost:{self._name}")
        total = lost + self._node.statistics.recent(f"received:{self._name}")
        begun = lost >= _LOST_AT_LEAST and lost >= _LOST_BEGIN * total
        if not begun and (lost <= _LOST_END * total or not self._node.has_problem(subject)):
            self._node.set_problem(subject, "")
            return
        reliable = self._subscription.qos.reliability == QoSReliabilityPolicy.RELIABLE
        text = (
            f"{lost} of {total} images on {self.topic} were lost on the way in the last 10 s, with reliability "
            f"{'reliable' if reliable else 'best_effort'}: {self._remedy(reliable)}"
        )
        self._node.set_problem(subject, text, kind=subject)

    def _remedy(self, reliable: bool) -> str:
        publishers = self._subscription.publishers()
        offers = {info.qos_profile.reliability for info in publishers}
        if not reliable and offers == {QoSReliabilityPolicy.RELIABLE}:
            return "its publisher is reliable; start this node with image_reliability:=auto"
        remedies = [f"start the publisher with {PROFILE_VARIABLES[0]}={profile_path()}"]
        if not reliable:
            remedies.append("or have it publish reliably")
        limit = socket_buffer_limit()
        if limit is not None and limit < SOCKET_BUFFER:
            remedies.append(
                f"or allow larger socket buffers (sysctl -w net.core.rmem_max={SOCKET_BUFFER}, now {limit})"
            )
        return " ".join(remedies)

    def _warn_of_clocks(self) -> None:
        text = ""
        if self._clocks is not None:
            clock: Any = self._node.get_clock()
            sim_time = clock.ros_time_is_active
            # A clock that stands at 0 is a problem of its own.
            if self._clocks[1] > 0:
                text = clock_disagreement(self.topic, *self._clocks, sim_time)
        self._node.set_problem(f"clock of {self.topic}", text, kind=f"clock of {self.topic}" if text else "")


def info_topic(image_topic: str) -> str:
    """Return the topic of an image topic's calibration: its sibling ``camera_info``, as image_transport has it."""
    return f"{Path(image_topic).parent.as_posix().rstrip('/')}/camera_info"
