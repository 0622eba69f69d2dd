"""The depth images that belong to a camera's, found by their stamps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sensor_msgs.msg import Image

from semantic_matcher.following import FollowingSubscription
from semantic_matcher.messages import stamp_ns
from semantic_matcher.qos import IMAGE_DEPTH
from semantic_matcher_core.streams import StereoSynchronizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from semantic_matcher.matcher_node import MatcherNode

# So many images without depth in a row are worth a warning.
_ALONE = 10


class DepthInput:
    """Pairs images with the depth images on ``depth``.

    Args:
        node: the node it belongs to.
        receive: called with (image, depth) pairs in the executor's thread.
    """

    def __init__(self, node: MatcherNode, receive: Callable[[tuple[Any, Any]], None]) -> None:
        self._node = node
        self._receive = receive
        self._synchronizer: StereoSynchronizer[Any] = StereoSynchronizer(None, 10)
        self._alone = 0
        self._subscription = FollowingSubscription(
            node, Image, node.resolve_topic_name("depth"), self._add_depth, depth=IMAGE_DEPTH
        )
        self._subscription.open()

    @property
    def topic(self) -> str:
        """The topic of depth."""
        return self._subscription.topic

    def add_image(self, message: Any) -> None:
        """Take an image that waits for its depth."""
        self._alone += 1
        self._give(self._synchronizer.add_left(stamp_ns(message.header), message))

    def review(self) -> None:
        """Follow the publishers, and say what keeps depth away."""
        self._subscription.review()
        text = ""
        if self._alone >= _ALONE:
            count = len(self._subscription.publishers())
            why = (
                f"{count} publisher(s) on it, of stamps that fit no image"
                if count
                else "nobody publishes on it (remap it with -r depth:=<your registered depth>)"
            )
            text = f"no depth on {self.topic} for {self._alone} images: {why}"
        self._node.set_problem("depth", text, kind="depth" if text else "")

    def destroy(self) -> None:
        """Unsubscribe for good."""
        self._subscription.destroy()

    def _add_depth(self, message: Any) -> None:
        self._node.statistics.count("received:depth")
        self._give(self._synchronizer.add_right(stamp_ns(message.header), message))

    def _give(self, pair: tuple[Any, Any] | None) -> None:
        unpaired = sum(self._synchronizer.unpaired)
        self._node.statistics.count("without depth", unpaired - self._node.statistics.total("without depth"))
        if pair is not None:
            self._alone = 0
            self._receive(pair)
