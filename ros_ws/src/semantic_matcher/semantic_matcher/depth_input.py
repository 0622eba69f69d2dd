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

# A warning is given after this many images in a row without depth, or this share of those of the last ten seconds.
_ALONE = 10
_BEGIN, _END = 0.25, 0.1
# Depth is computed after the image is taken, on some cameras half a second after; images wait for it so long, at 30 Hz.
_WAITING = 30
# Depth that is stamped this much before the newest image, and so comes later, is worth telling.
_LATE_S = 0.3


class DepthInput:
    """Pairs images with the depth images on ``depth``.

    Args:
        node: the node it belongs to.
        receive: called with (image, depth) pairs in the executor's thread.
        wanted: whether images are taken; without them depth is not taken either.
    """

    def __init__(
        self, node: MatcherNode, receive: Callable[[tuple[Any, Any]], None], wanted: Callable[[], bool]
    ) -> None:
        self._node = node
        self._receive = receive
        self._synchronizer: StereoSynchronizer[Any] = StereoSynchronizer(None, _WAITING)
        self._alone = 0
        self._counted = 0
        self._wanted = wanted
        self._subscription = FollowingSubscription(
            node, Image, node.resolve_topic_name("depth"), self._add_depth, depth=IMAGE_DEPTH, what="depth images"
        )

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
        wanted = self._wanted()
        if wanted and not self._subscription.is_open:
            self._synchronizer.clear()
            self._counted, self._alone = self._synchronizer.unpaired[0], 0
            self._subscription.open()
        elif not wanted:
            self._subscription.close()
        self._subscription.review()
        text = self._share_text()
        count = len(self._subscription.publishers())
        if self._alone >= (_WAITING if count else _ALONE):
            came = self._node.statistics.recent("received:depth")
            fits = f"of stamps that fit no image{self._lateness()}" if came else "from which nothing comes"
            why = (
                f"{count} publisher(s) on it, {fits}"
                if count
                else "it has no publisher (remap it with -r depth:=<your registered depth>)"
            )
            text = f"no depth on {self.topic} for {self._alone} images: {why}"
        self._node.set_problem("depth", text, kind="depth" if text else "")

    def _share_text(self) -> str:
        """Return what is wrong where depth comes with some of the images only."""
        statistics = self._node.statistics
        alone, total = statistics.recent("without depth"), statistics.recent("received:image")
        goes_on = self._node.has_problem("depth") and alone > _END * total
        if not goes_on and (alone < _ALONE or alone < _BEGIN * total):
            return ""
        return (
            f"{alone} of {total} images in the last 10 s were left out, because there was no depth on {self.topic} for "
            f"them ({statistics.recent('received:depth')} depth images came{self._lateness()}): have the camera send "
            "both at one rate, and see that none are lost on the way"
        )

    def _lateness(self) -> str:
        late = -self._synchronizer.lead * 1e-9
        return f", {late:.1f} s after their images; {_WAITING} images wait for theirs" if late >= _LATE_S else ""

    def destroy(self) -> None:
        """Unsubscribe for good."""
        self._subscription.destroy()

    def _add_depth(self, message: Any) -> None:
        self._node.statistics.count("received:depth")
        self._give(self._synchronizer.add_right(stamp_ns(message.header), message))

    def _give(self, pair: tuple[Any, Any] | None) -> None:
        unpaired = self._synchronizer.unpaired[0]
        self._node.statistics.count("without depth", unpaired - self._counted)
        self._counted = unpaired
        if pair is not None:
            self._alone = 0
            self._compare_frames(*(message.header.frame_id for message in pair))
            self._receive(pair)

    def _compare_frames(self, image: str, depth: str) -> None:
        differ = image and depth and image.lstrip("/") != depth.lstrip("/")
        text = (
            f"depth on {self.topic} is in frame {depth!r}, the images are in {image!r}: it must be registered to them, "
            "pixel by pixel (RealSense: align_depth.enable:=true and its aligned_depth_to_color)"
        )
        self._node.set_problem("frame of depth", text if differ else "")
