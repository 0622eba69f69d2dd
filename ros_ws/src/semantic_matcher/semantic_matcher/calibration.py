"""The camera_info of a node's images, as the core's geometry takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensor_msgs.msg import CameraInfo

from semantic_matcher.following import FollowingSubscription
from semantic_matcher.image_input import info_topic
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.geometry.camera_info import camera_of, projection_of

if TYPE_CHECKING:
    import numpy as np

    from semantic_matcher.matcher_node import MatcherNode
    from semantic_matcher_core.geometry.camera import Camera


class MissingCalibrationError(ConfigError):
    """No calibration has come yet, which is no fault when the node has just begun."""


class CameraInfoInput:
    """A subscription to ``camera_info``, of which the newest message holds, also one that was published long before.

    Args:
        node: the node it belongs to.
        name: the topic's relative name, which remapping may change; where it does not, the topic is the sibling of the
            image topic, or ``name`` where only that has publishers.
        image_topic: full name of the image topic, without the transport.
    """

    def __init__(self, node: MatcherNode, name: str, image_topic: str) -> None:
        self._node = node
        self._name = name
        own = node.resolve_topic_name(name)
        remapped = own != node.resolve_topic_name(name, only_expand=True)
        topics = [own] if remapped else list(dict.fromkeys([info_topic(image_topic), own]))
        self._candidates = [
            FollowingSubscription(node, CameraInfo, topic, self._receive, depth=1, what="calibrations")
            for topic in topics
        ]
        self._current = self._candidates[0]
        self._newest: CameraInfo | None = None
        self._current.open()

    @property
    def topic(self) -> str:
        """The topic that is subscribed now."""
        return self._current.topic

    def review(self) -> None:
        """Follow the publishers."""
        published = next((c for c in self._candidates if c.publishers()), self._current)
        if published is not self._current:
            self._current.leave()
            self._current, self._newest = published, None
            self._node.get_logger().info(f"taking the calibration from {published.topic}")
            published.open()
        self._current.review()

    def camera(self, image_size: tuple[int, int], rectified: bool) -> Camera:
        """Return the camera that images of ``(height, width)`` pixels were taken with.

        Args:
            image_size: of the image that it is wanted for.
            rectified: the image is rectified: ``P`` holds for it, and nothing distorts.

        Raises:
            MissingCalibrationError: there is none yet.
            ConfigError: it is empty, or it is for images of another size; the message names the topic.
        """
        return camera_of(self.newest(), image_size, rectified=rectified, name=self.topic)

    def projection(self, image_size: tuple[int, int]) -> np.ndarray:
        """Return ``P``, ``3 x 4``, of the rectified image; raises as :meth:`camera`."""
        return projection_of(self.newest(), image_size, name=self.topic)

    def newest(self) -> CameraInfo:
        """Return the calibration as it came.

        Raises:
            MissingCalibrationError: there is none yet.
        """
        if self._newest is None:
            count = len(self._current.publishers())
            why = f"{count} publisher(s) on it" if count else f"remap it with -r {self._name}:=<your topic>"
            raise MissingCalibrationError(f"no camera_info on {self.topic} yet: {why}")
        return self._newest

    def destroy(self) -> None:
        """Unsubscribe."""
        for candidate in self._candidates:
            candidate.destroy()

    def _receive(self, message: CameraInfo) -> None:
        self._newest = message
