"""Features and Matches of the core, made into messages.

rclpy converts a field of numbers to the middleware's form with one copy of its memory if it is a buffer of the right
type, and number by number, some hundred times as long, if it is not. The setters of a message make another copy, its
constructor two. So arrays are put where the setters would put them: as they are, contiguous and of the field's type.
Such a message is for publishing; it shares memory with what it was made of.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from semantic_matcher_msgs.msg import Descriptors, Keypoints, Matches
from sensor_msgs.msg import CompressedImage, Image, PointCloud2, PointField

from semantic_matcher_core.io.encoding import encode_image
from semantic_matcher_core.io.messages import descriptors_fields, keypoints_fields, matches_fields, points_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from std_msgs.msg import Header
    from torch import Tensor

    from semantic_matcher_core.streams import Frame, MatchedPair


def set_array(message: Any, field: str, values: Tensor | np.ndarray, typecode: str) -> None:
    """Set a field of a message to all elements of an array, row-major, without a copy where that is possible.

    Args:
        message: whose field it is.
        field: its name; a sequence of float32, uint32, uint16 or uint8.
        values: of any shape.
        typecode: the field's: ``f`` (float32), ``I`` (uint32), ``H`` (uint16) or ``B`` (uint8).
    """
    values = values if isinstance(values, np.ndarray) else values.cpu().numpy()
    flat: np.ndarray = np.ascontiguousarray(values, dtype=np.dtype(typecode)).reshape(-1)
    slot = f"_{field}"
    if slot in getattr(type(message), "__slots__", ()):
        setattr(message, slot, flat)
    else:  # Messages that another generator made: the best that a setter takes.
        setattr(message, field, array(typecode, flat.tobytes()))


class StoredImage(NamedTuple):
    """What a stored image is known by: its name, and the header that the messages about it carry."""

    name: str
    header: Header


def keypoints_message(frame: Frame, header: Header, name: str = "") -> Keypoints:
    """Return positions and scores of a frame's keypoints; ``name`` is a stored image's."""
    return _filled(Keypoints(header=header, image_name=name), keypoints_fields(frame.features))


def descriptors_message(
    frame: Frame, header: Header, variant: str, name: str = "", dtype: str = "float32"
) -> Descriptors:
    """Return the descriptors that matching compares; the reasoned and semantic ones where there is a reasoner.

    ``name`` is a stored image's, ``dtype`` what they are sent as: float32 or float16.
    """
    message = Descriptors(header=header, variant=variant, image_name=name)
    return _filled(message, descriptors_fields(frame.features, dtype))


def matches_message(
    pair: MatchedPair, header: Header, reference_header: Header, mode: str, reference_name: str = ""
) -> Matches:
    """Return the matches of a pair; ``header`` is the current image's, ``reference_name`` a stored reference's name."""
    message = Matches(header=header, reference_header=reference_header, mode=mode, reference_name=reference_name)
    return _filled(message, matches_fields(pair.matches))


def rgb_image_message(pixels: np.ndarray, header: Header) -> Image:
    """Return an ``H x W x 3`` uint8 RGB picture."""
    height, width = pixels.shape[:2]
    message = Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width)
    set_array(message, "data", pixels, "B")
    return message


def jpeg_message(pixels: np.ndarray, header: Header, quality: int) -> CompressedImage:
    """Return an ``H x W x 3`` uint8 RGB picture as JPEG of quality 1 to 100, named as image_transport names it.

    Raises:
        ImageError: it is too large for a JPEG.
    """
    message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
    set_array(message, "data", encode_image(pixels, jpeg_quality=quality), "B")
    return message


def points_message(
    points: np.ndarray, confidence: np.ndarray, header: Header, colours: np.ndarray | None = None
) -> PointCloud2:
    """Return an unordered cloud; its fields are those of :func:`~semantic_matcher_core.io.messages.point_rows`."""
    names, fields = points_fields(points, confidence, colours)
    parts = [PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate(names)]
    return _filled(PointCloud2(header=header, fields=parts), fields)


def _filled(message: Any, fields: Mapping[str, Any]) -> Any:
    """Set fields of a message, and return it; sequences of numbers are arrays of their type."""
    for name, value in fields.items():
        # Arrays of a fixed length are NumPy's in messages, too.
        if isinstance(value, np.ndarray) and not isinstance(getattr(message, name), np.ndarray):
            set_array(message, name, value, value.dtype.char)
        else:
            setattr(message, name, value)
    return message


def stamp_ns(header: Header) -> int:
    """Return the header's time stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
