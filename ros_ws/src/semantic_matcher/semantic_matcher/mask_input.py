"""Where keypoints of a camera's images are wanted: what a file says, and the newest mask on a topic."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from sensor_msgs.msg import Image

from semantic_matcher.following import FollowingSubscription
from semantic_matcher.messages import stamp_ns
from semantic_matcher_core.io.masks import Mask, mask_of_message

if TYPE_CHECKING:
    import numpy as np

    from semantic_matcher.matcher_node import MatcherNode

# Masks of a camera wait for images that are as old.
_HELD = 16
# A latched mask comes soon after its publisher was found.
_GRACE_S = 2.0


class MaskInput:
    """The mask of images: zero where keypoints are not wanted, of the images' size.

    Of the masks on the topic that holds which was stamped last at or before the image; a mask that is not stamped, or
    the first where all are later (one that is published once, say), holds for any image. Where there is a file's mask
    too, both do.

    Args:
        node: the node it belongs to.
        name: the topic's relative name, which remapping may change.
        stored: the file's mask, or ``None``.
    """

    def __init__(self, node: MatcherNode, name: str, stored: Mask | None) -> None:
        self._node = node
        self._name = name
        self._stored = stored
        self._held: deque[Any] = deque(maxlen=_HELD)
        self._read: tuple[Any, Mask] | None = None
        self._awaited_since: float | None = None
        self._subscription = FollowingSubscription(
            node, Image, node.resolve_topic_name(name), self._receive, depth=_HELD, what="masks"
        )
        self._subscription.open()

    @property
    def topic(self) -> str:
        """The topic of masks."""
        return self._subscription.topic

    def of(self, header: Any, size: tuple[int, int]) -> np.ndarray | None:
        """Return ``H x W`` bool for an image of ``(height, width)``, or ``None`` where there is no mask.

        Raises:
            ImageError: a mask is of another size, or the message is none.
        """
        masks = [mask.of_size(size) for mask in (self._stored, self._newest(header)) if mask is not None]
        subject = f"mask of {self._name}"
        if not masks:
            self._node.set_problem(subject, "")
            return None
        wanted = masks[0] if len(masks) == 1 else masks[0] & masks[1]
        share = float(wanted.mean())
        self._node.statistics.set(f"{self._name}: share of the image that is wanted", f"{share:.3f}")
        text = f"the mask on {self.topic} leaves nothing of the image: no keypoint is wanted, and none is found"
        self._node.set_problem(subject, text if share == 0 else "")
        return wanted

    def review(self) -> None:
        """Follow the publishers, and say that images are taken whole while their mask is awaited."""
        self._subscription.review()
        count = len(self._subscription.publishers())
        if self._held or not count:
            self._awaited_since = None
        elif self._awaited_since is None:
            self._awaited_since = time.monotonic()
        late = self._awaited_since is not None and time.monotonic() - self._awaited_since >= _GRACE_S
        text = f"no mask on {self.topic} yet, with {count} publisher(s) on it: images are taken whole" if late else ""
        self._node.set_problem(f"{self._name} awaited", text)

    def destroy(self) -> None:
        """Unsubscribe for good."""
        self._subscription.destroy()

    def _receive(self, message: Any) -> None:
        if not self._held:
            self._node.get_logger().info(f"taking masks from {self.topic}")
        self._held.append(message)

    def _newest(self, header: Any) -> Mask | None:
        held = list(self._held)
        if not held:
            return None
        stamp = stamp_ns(header)
        fitting = [message for message in held if not stamp or stamp_ns(message.header) <= stamp]
        # Of equal stamps, and of none, the last that came.
        chosen = max(reversed(fitting), key=lambda m: stamp_ns(m.header)) if fitting else held[0]
        if self._read is None or self._read[0] is not chosen:
            self._read = chosen, mask_of_message(chosen, f"the mask on {self.topic}")
        return self._read[1]
