"""The camera_info of a node's images, as the core's geometry takes it."""

from __future__ import annotations

import re
import time
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

# How long what was asked of a calibration stands for what its images are taken as.
_ASKED_S = 10.0


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
        self._image_topic = image_topic
        self._asked: tuple[bool, float] | None = None
        self._current.open()

    @property
    def topic(self) -> str:
        """The topic that is subscribed now."""
        return self._current.topic

    def review(self) -> None:
        """Follow the publishers, and say where the images' name contradicts what they are taken as."""
        published = next((c for c in self._candidates if c.publishers()), self._current)
        if published is not self._current:
            self._current.leave()
            self._current, self._newest = published, None
            self._node.get_logger().info(f"taking the calibration from {published.topic}")
            published.open()
        self._current.review()
        asked, newest = self._asked, self._newest
        text = ""
        if asked is not None and newest is not None and any(newest.d) and time.monotonic() - asked[1] < _ASKED_S:
            text = rectification_doubt(self._image_topic, self.topic, asked[0])
        self._node.set_problem(f"rectification of {self._image_topic}", text)

    def camera(self, image_size: tuple[int, int], rectified: bool) -> Camera:
        """Return the camera that images of ``(height, width)`` pixels were taken with.

        Args:
            image_size: of the image that it is wanted for.
            rectified: the image is rectified: ``P`` holds for it, and nothing distorts.

        Raises:
            MissingCalibrationError: there is none yet.
            ConfigError: it is empty, or it is for images of another size; the message names the topic.
        """
        self._asked = rectified, time.monotonic()
        return camera_of(self.newest(), image_size, rectified=rectified, name=self.topic)

    def projection(self, image_size: tuple[int, int]) -> np.ndarray:
        """Return ``P``, ``3 x 4``, of the rectified image; raises as :meth:`camera`."""
        self._asked = True, time.monotonic()
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


def rectification_doubt(image_topic: str, info_topic: str, rectified: bool) -> str:
    """Return why images are hardly as the parameter ``rectified`` says, by the name of their topic; empty where they
    may be.

    Args:
        image_topic: of the images, named as image_proc names them where it says anything.
        info_topic: of their calibration, of a lens that distorts.
        rectified: the parameter.
    """
    words = re.split(r"[/_]", image_topic)
    named_rectified = "rect" in words or "rectified" in words
    if rectified and "raw" in words and not named_rectified:
        return (
            f"rectified is true, but images on {image_topic} are raw by their name, and their lens distorts "
            f"({info_topic}): take those that image_proc has rectified, or set rectified to false"
        )
    if named_rectified and not rectified:
        return (
            f"rectified is false, but images on {image_topic} are rectified by their name: the distortion in "
            f"{info_topic} would be removed once more; set rectified to true"
        )
    return ""
