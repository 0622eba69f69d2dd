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

from semantic_matcher_core.device import moved
from semantic_matcher_core.io.encoding import encode_image
from semantic_matcher_core.io.messages import half_bits, point_rows

if TYPE_CHECKING:
    from std_msgs.msg import Header
    from torch import Tensor

    from semantic_matcher_core.streams import Frame, MatchedPair

_TYPES: dict[str, np.dtype[Any]] = {
    "f": np.dtype(np.float32),
    "I": np.dtype(np.uint32),
    "H": np.dtype(np.uint16),
    "B": np.dtype(np.uint8),
}


def set_array(message: Any, field: str, values: Tensor | np.ndarray, typecode: str) -> None:
    """Set a field of a message to all elements of an array, row-major, without a copy where that is possible.

    Args:
        message: whose field it is.
        field: its name; a sequence of float32, uint32, uint16 or uint8.
        values: of any shape.
        typecode: the field's: ``f`` (float32), ``I`` (uint32), ``H`` (uint16) or ``B`` (uint8).
    """
    values = values if isinstance(values, np.ndarray) else values.cpu().numpy()
    flat: np.ndarray = np.ascontiguousarray(values, dtype=_TYPES[typecode]).reshape(-1)
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
    height, width = frame.features.image_size
    message = Keypoints(header=header, width=width, height=height, image_name=name)
    # From a GPU together: each would be waited for alone.
    for field, values in moved({"xy": frame.features.keypoints[0], "scores": frame.features.scores[0]}, "cpu").items():
        set_array(message, field, values, "f")
    return message


def descriptors_message(
    frame: Frame, header: Header, variant: str, name: str = "", dtype: str = "float32"
) -> Descriptors:
    """Return the descriptors that matching compares; the reasoned and semantic ones where there is a reasoner.

    ``name`` is a stored image's, ``dtype`` what they are sent as: float32 or float16.
    """
    features = frame.features
    main = features.descriptors if features.reasoned is None else features.reasoned
    message = Descriptors(header=header, variant=variant, dim=main.shape[-1], image_name=name, dtype=dtype)
    _set_numbers(message, "data", main[0], dtype)
    if features.semantic is not None:
        message.semantic_dim = features.semantic.shape[-1]
        _set_numbers(message, "semantic_data", features.semantic[0], dtype)
    return message


def _set_numbers(message: Descriptors, field: str, values: Tensor, dtype: str) -> None:
    if dtype == "float16":
        # On the device: half as many bytes to fetch from it.
        set_array(message, f"{field}16", half_bits(values.half().cpu().numpy()), "H")
    else:
        set_array(message, field, values, "f")


def matches_message(
    pair: MatchedPair, header: Header, reference_header: Header, mode: str, reference_name: str = ""
) -> Matches:
    """Return the matches of a pair; ``header`` is the current image's, ``reference_name`` a stored reference's name."""
    matches = pair.matches
    message = Matches(
        header=header,
        reference_header=reference_header,
        mode=mode,
        model_type=matches.model_type,
        reference_name=reference_name,
    )
    set_array(message, "index0", matches.indices[:, 0], "I")
    set_array(message, "index1", matches.indices[:, 1], "I")
    set_array(message, "xy0", matches.keypoints0, "f")
    set_array(message, "xy1", matches.keypoints1, "f")
    set_array(message, "confidence", matches.confidence, "f")
    if matches.inlier is not None:
        set_array(message, "inlier", matches.inlier, "B")
    if matches.model is not None:
        message.model = matches.model.cpu().numpy().astype(np.float64).reshape(9)
    return message


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
    """Return an unordered cloud of points; its fields are those of
    :func:`~semantic_matcher_core.io.messages.point_rows`.
    """
    names, rows = point_rows(points, confidence, colours)
    message = PointCloud2(
        header=header,
        height=1,
        width=len(rows),
        fields=[PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate(names)],
        is_bigendian=False,
        point_step=4 * len(names),
        row_step=4 * len(names) * len(rows),
        is_dense=True,
    )
    set_array(message, "data", rows.view(np.uint8), "B")
    return message


def stamp_ns(header: Header) -> int:
    """Return the header's time stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
