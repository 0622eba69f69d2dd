"""Images with depth and this node's features for RTAB-Map, where the package rtabmap_msgs is installed.

Fields: rtabmap_msgs/msg/RGBDImage.msg. RTAB-Map takes the features as they are where its parameters Vis/FeatureType and
Kp/DetectorStrategy are the same (docs/rtabmap.md).
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from semantic_matcher.messages import rgb_image_message, set_array
from semantic_matcher.optional_messages import optional_messages
from semantic_matcher_core.io.rtabmap import compressed_matrix, descriptor_rows, keypoint_rows

if TYPE_CHECKING:
    from semantic_matcher_core.motion.view import View
    from semantic_matcher_core.streams import Frame

# What RTAB-Map takes on either side; everything else is sent as the pixels that the node saw.
_ENCODINGS = frozenset({"mono8", "8UC1", "rgb8", "bgr8", "rgba8", "bgra8"})


class Side(NamedTuple):
    """One of the two images of a message.

    Attributes:
        message: as it came.
        info: calibration.
        pixels: as the node saw them; ``None`` for depth.
    """

    message: Any
    info: CameraInfo
    pixels: np.ndarray | None = None


def rgbd_types(settings: SimpleNamespace) -> dict[str, type]:
    """Return the topic, below ``~``, and the type of its messages, where it is asked for.

    Raises:
        MissingPackageError: rtabmap_msgs is not installed.
    """
    if not settings.publish_rgbd:
        return {}
    return {"rgbd_image": optional_messages("rtabmap_msgs", "publish_rgbd").RGBDImage}


def rgbd_message(frame: Frame, view: View, colour: Side, depth: Side) -> Any:
    """Return an rtabmap_msgs/RGBDImage under the header of the frame's image.

    Args:
        frame: of the colour or left image.
        view: of the same.
        colour, depth: that image, and its depth or the right one.
    """
    messages = optional_messages("rtabmap_msgs", "publish_rgbd")
    message = messages.RGBDImage(header=frame.tag)
    message.rgb, message.depth = _image(colour), _image(depth)
    message.rgb_camera_info, message.depth_camera_info = _info(colour), _info(depth)
    message.key_points = [
        messages.KeyPoint(pt=messages.Point2f(x=x, y=y), size=size, angle=angle, response=response, class_id=-1)
        for x, y, size, angle, response in keypoint_rows(frame.features).tolist()
    ]
    message.points = [messages.Point3f(x=x, y=y, z=z) for x, y, z in view.seen.points.tolist()]
    packed = compressed_matrix(descriptor_rows(frame.features))
    set_array(message, "descriptors", np.frombuffer(packed, np.uint8), "B")
    return message


def _image(side: Side) -> Any:
    message = side.message
    if side.pixels is None or (isinstance(message, Image) and message.encoding in _ENCODINGS):
        return message
    return rgb_image_message(side.pixels, message.header)


def _info(side: Side) -> CameraInfo:
    # One calibration may serve for hours; RTAB-Map looks up transforms at its stamp.
    info = copy.copy(side.info)
    info.header = side.message.header
    return info
