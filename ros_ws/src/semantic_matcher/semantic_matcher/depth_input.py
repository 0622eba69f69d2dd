"""The depth images that belong to a camera's, found by their stamps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sensor_msgs.msg import Image

from semantic_matcher.following import FollowingSubscription
from semantic_matcher.messages import stamp_ns
from semantic_matcher.qos import IMAGE_DEPTH
from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.streams import StereoSynchronizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from semantic_matcher.matcher_node import MatcherNode

_TYPES = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
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


def depth_of(message: Any) -> np.ndarray:
    """The ``H x W`` depth of an image message: uint16 millimetres, or float32 metres.

    Raises:
        ImageError: another encoding, or less data than its size says.
    """
    kind = _TYPES.get(message.encoding)
    if kind is None:
        raise ImageError(f"depth of encoding {message.encoding!r}; expected 16UC1 (millimetres) or 32FC1 (metres)")
    dtype = np.dtype((">" if message.is_bigendian else "<") + kind)
    step = message.step or message.width * dtype.itemsize
    if step < message.width * dtype.itemsize or len(message.data) < step * message.height or not message.height:
        raise ImageError(
            f"depth of {message.width} x {message.height} {message.encoding} with {len(message.data)} bytes in rows of "
            f"{step}: its data do not fit its size"
        )
    rows = np.frombuffer(message.data, np.uint8, step * message.height).reshape(message.height, step)
    values = np.ascontiguousarray(rows[:, : message.width * dtype.itemsize]).view(dtype)
    return values.astype(dtype.newbyteorder("="))
