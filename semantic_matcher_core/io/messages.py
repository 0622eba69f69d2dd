"""ROS messages without ROS: the results as semantic_matcher_msgs, in the form that rosbags writes and reads.

The definitions of semantic_matcher_msgs lie beside this file as package data, so that bags can be written where no
ROS package is installed; they are the same, byte for byte, as those of the ROS package.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from semantic_matcher_core.errors import MissingPackageError, ShapeError
from semantic_matcher_core.io.encoding import check_pixels, encode_image

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore
    from torch import Tensor

    from semantic_matcher_core.types import Features, Matches

PACKAGE = "semantic_matcher_msgs"
KEYPOINTS = f"{PACKAGE}/msg/Keypoints"
DESCRIPTORS = f"{PACKAGE}/msg/Descriptors"
MATCHES = f"{PACKAGE}/msg/Matches"
IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
NUMBERS = "std_msgs/msg/Float32MultiArray"
_POINT_FIELD = "sensor_msgs/msg/PointField"
_FLOAT32 = 7  # PointField.FLOAT32
_HEADER = "std_msgs/msg/Header"
_TIME = "builtin_interfaces/msg/Time"


def message_definitions() -> dict[str, str]:
    """Return definition text of each message of semantic_matcher_msgs, by full type name."""
    folder = files("semantic_matcher_core.io") / "msg"
    return {
        f"{PACKAGE}/msg/{entry.name.removesuffix('.msg')}": entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".msg")
    }


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Return the common ROS 2 messages and semantic_matcher_msgs; shared, not to be changed.

    Raises:
        MissingPackageError: rosbags is not installed.
    """
    rosbags_typesys = import_rosbags("typesys")
    store = rosbags_typesys.get_typestore(rosbags_typesys.Stores.ROS2_JAZZY)
    for name, text in message_definitions().items():
        store.register(rosbags_typesys.get_types_from_msg(text, name))
    return store


def import_rosbags(module: str) -> Any:
    """Return ``rosbags.<module>``, or an error that says how to install it."""
    return import_for_bags(f"rosbags.{module}")


def import_for_bags(module: str) -> Any:
    """Return a module of the packages that recordings need (rosbags, mcap, zstandard).

    Raises:
        MissingPackageError: it is not installed; the message has the command that installs them.
    """
    import importlib

    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingPackageError(
            f"reading and writing recordings needs {package}, not installed here: pip install rosbags mcap"
        ) from error


def header_message(stamp_ns: int, frame_id: str = "") -> Any:
    """Return a std_msgs/Header.

    Args:
        stamp_ns: time in nanoseconds since the epoch, not negative.
        frame_id: the (optical) frame of the camera.
    """
    types = typestore().types
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return types[_HEADER](types[_TIME](seconds, nanoseconds), frame_id)


def stamp_of(header: Any) -> int:
    """Return nanoseconds since the epoch of a header's stamp (of rosbags, rclpy or ROS 1)."""
    stamp = header.stamp
    nanoseconds = stamp.nanosec if hasattr(stamp, "nanosec") else stamp.nsec
    return int(stamp.sec) * 1_000_000_000 + int(nanoseconds)


def keypoints_fields(features: Features) -> dict[str, Any]:
    """Return the fields of a Keypoints message but ``header`` and ``image_name``, for the class of whatever library.

    Raises:
        ShapeError: ``features`` is a batch of several images or has padding; take ``features[i]``.
    """
    from semantic_matcher_core.device import moved

    _check_single(features)
    height, width = features.image_size
    # From a GPU together: each would be waited for alone.
    found = moved({"xy": features.keypoints, "scores": features.scores}, "cpu")
    return {"width": width, "height": height, **{name: _flat(tensor) for name, tensor in found.items()}}


def keypoints_message(features: Features, header: Any, image_name: str = "") -> Any:
    """Return a Keypoints message of :func:`keypoints_fields`; ``image_name`` is a stored image's."""
    return typestore().types[KEYPOINTS](header=header, image_name=image_name, **keypoints_fields(features))


def descriptors_fields(features: Features, dtype: str = "float32") -> dict[str, Any]:
    """Return the fields of a Descriptors message but ``header``, ``variant`` and ``image_name``.

    They are what matching compares: the reasoned descriptors where there are any, else the local ones, and the semantic
    ones where matching uses them.

    Args:
        features: of one image.
        dtype: ``float32``, or ``float16`` for half as many bytes.

    Raises:
        ShapeError: ``features`` is a batch of several images or has padding; take ``features[i]``.
    """
    _check_single(features)
    data = features.descriptors if features.reasoned is None else features.reasoned
    semantic = data[..., :0] if features.semantic is None else features.semantic
    fields: dict[str, Any] = {"dtype": dtype, "dim": data.shape[-1], "semantic_dim": semantic.shape[-1]}
    for name, values in (("data", data), ("semantic_data", semantic)):
        if dtype == "float16":
            # On the device: half as many bytes to fetch from it.
            fields |= {name: np.zeros(0, np.float32), f"{name}16": half_bits(values.detach().half().cpu().numpy())}
        else:
            fields |= {name: _flat(values), f"{name}16": np.zeros(0, np.uint16)}
    return fields


def descriptors_message(
    features: Features, variant: str, header: Any, image_name: str = "", dtype: str = "float32"
) -> Any:
    """Return a Descriptors message of :func:`descriptors_fields`; ``variant`` made them."""
    fields = descriptors_fields(features, dtype)
    return typestore().types[DESCRIPTORS](header=header, variant=variant, image_name=image_name, **fields)


def half_bits(values: np.ndarray) -> np.ndarray:
    """Convert numbers to the bits of half-precision ones: flat uint16."""
    return np.ascontiguousarray(values, dtype=np.float16).reshape(-1).view(np.uint16)


def descriptors_of(message: Any) -> tuple[np.ndarray, np.ndarray]:
    """Read a Descriptors message in either number format: its flat float32 ``data`` and ``semantic_data``."""
    # Recordings from before there was a choice have no dtype.
    if getattr(message, "dtype", "") != "float16":
        return np.asarray(message.data, np.float32), np.asarray(message.semantic_data, np.float32)
    data, semantic = (
        np.asarray(bits, np.uint16).view(np.float16).astype(np.float32)
        for bits in (message.data16, message.semantic_data16)
    )
    return data, semantic


def matches_of(message: Any) -> Matches:
    """Read a Matches message.

    Where a check ran there are as many inliers as matches; without matches, the type of its model alone tells of it.
    """
    import torch

    from semantic_matcher_core.types import Matches

    count = len(message.confidence)
    checked = len(message.inlier) == count and bool(count or message.model_type)
    return Matches(
        torch.from_numpy(np.stack([message.index0, message.index1], axis=1).astype(np.int64)),
        torch.from_numpy(np.array(message.xy0, np.float32).reshape(-1, 2)),
        torch.from_numpy(np.array(message.xy1, np.float32).reshape(-1, 2)),
        torch.from_numpy(np.array(message.confidence, np.float32)),
        inlier=torch.from_numpy(message.inlier.astype(bool)) if checked else None,
        model=torch.from_numpy(message.model.reshape(3, 3).copy()) if checked and message.model_type else None,
        model_type=message.model_type,
    )


def matches_fields(matches: Matches) -> dict[str, Any]:
    """Return the fields of a Matches message that are the matches' own.

    Raises:
        ShapeError: ``matches`` are of several pairs; take ``matches.of_pair(i)``.
    """
    if matches.batch_size != 1:
        raise ShapeError(f"a Matches message holds one pair, got {matches.batch_size}; take matches.of_pair(i)")
    indices = matches.indices.detach().cpu().numpy().astype(np.uint32)
    model = np.zeros(9) if matches.model is None else matches.model.detach().cpu().double().numpy().reshape(9)
    inlier = np.zeros(0, np.uint8) if matches.inlier is None else matches.inlier.detach().cpu().numpy().astype(np.uint8)
    return {
        "index0": np.ascontiguousarray(indices[:, 0]),
        "index1": np.ascontiguousarray(indices[:, 1]),
        "xy0": _flat(matches.keypoints0),
        "xy1": _flat(matches.keypoints1),
        "confidence": _flat(matches.confidence),
        "inlier": inlier,
        "model": np.ascontiguousarray(model),
        "model_type": matches.model_type,
    }


def matches_message(matches: Matches, mode: str, header: Any, reference_header: Any, reference_name: str = "") -> Any:
    """Return a Matches message of :func:`matches_fields`.

    Args:
        matches: of one pair; the reference image's keypoints come first.
        mode: ``"temporal"``, ``"stereo"`` or ``"reference"``.
        header: of the current or right image.
        reference_header: of the previous, left or stored image.
        reference_name: what a stored image is called.
    """
    return typestore().types[MATCHES](
        header=header,
        reference_header=reference_header,
        mode=mode,
        reference_name=reference_name,
        **matches_fields(matches),
    )


def similarities_message(texture: Tensor, semantic: Tensor) -> Any:
    """Make a Float32MultiArray of the two similarities whose product is the confidence of the same pair's matches.

    Args:
        texture, semantic: ``M`` each, in the order of the matches; they become a row each.
    """
    types = typestore().types
    dimension = types["std_msgs/msg/MultiArrayDimension"]
    rows = [dimension("texture, semantic", 2, 2 * len(texture)), dimension("match", len(texture), len(texture))]
    data = np.concatenate([_flat(texture), _flat(semantic)])
    return types[NUMBERS](types["std_msgs/msg/MultiArrayLayout"](rows, 0), data)


def similarities_topic(matches_topic: str) -> str:
    """Return where the similarities of a topic's matches are recorded, a message for each of its own."""
    return f"{matches_topic.rpartition('/')[0]}/similarities"


def compressed_image_message(image: np.ndarray, header: Any, *, quality: int = 90) -> Any:
    """Return a CompressedImage (JPEG) of an ``H x W x 3`` RGB or ``H x W`` grey uint8 image.

    Raises:
        ImageError: it is no such image, or too large for a JPEG.
    """
    return typestore().types[COMPRESSED_IMAGE](
        header=header, format="jpeg", data=encode_image(image, jpeg_quality=quality)
    )


def points_message(points: np.ndarray, confidence: np.ndarray, header: Any, colours: np.ndarray | None = None) -> Any:
    """Return a PointCloud2 of :func:`points_fields`."""
    types = typestore().types
    names, fields = points_fields(points, confidence, colours)
    parts = [types[_POINT_FIELD](name=name, offset=4 * i, datatype=_FLOAT32, count=1) for i, name in enumerate(names)]
    return types[POINT_CLOUD](header=header, fields=parts, **fields)


def points_fields(
    points: np.ndarray, confidence: np.ndarray, colours: np.ndarray | None = None
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the names of a cloud's float32 fields, see :func:`point_rows`, and the rest of a PointCloud2 of it."""
    names, rows = point_rows(points, confidence, colours)
    step = 4 * len(names)
    data = rows.reshape(-1).view(np.uint8)
    sizes = {"height": 1, "width": len(rows), "point_step": step, "row_step": step * len(rows)}
    return names, {**sizes, "is_bigendian": False, "is_dense": True, "data": data}


def point_rows(
    points: np.ndarray, confidence: np.ndarray, colours: np.ndarray | None = None
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return what a cloud holds of each point: the names of its float32 fields, and ``K`` rows of them.

    Args:
        points: ``K x 3`` metres.
        confidence: ``K``.
        colours: ``K x 3`` uint8 RGB; they become the field ``rgb``, whose bits are 0x00RRGGBB as PCL and RViz have it.
    """
    names: tuple[str, ...] = ("x", "y", "z", "confidence")
    rows = np.column_stack([points, confidence]).astype(np.float32)
    if colours is None:
        return names, rows
    red, green, blue = np.asarray(colours, np.uint32).reshape(-1, 3).T
    packed = (red << 16 | green << 8 | blue).astype(np.uint32)
    # Joined as bits: as numbers, some of these are NaN or denormal.
    return (*names, "rgb"), np.column_stack([rows.view(np.uint32), packed]).view(np.float32)


def image_message(image: np.ndarray, header: Any) -> Any:
    """Return an Image (``rgb8`` or ``mono8``) of an ``H x W x 3`` RGB or ``H x W`` grey uint8 image."""
    check_pixels(image)
    return typestore().types[IMAGE](
        header=header,
        height=image.shape[0],
        width=image.shape[1],
        encoding="rgb8" if image.ndim == 3 else "mono8",
        is_bigendian=0,
        step=image.shape[1] * (3 if image.ndim == 3 else 1),
        data=np.ascontiguousarray(image).reshape(-1),
    )


def _check_single(features: Features) -> None:
    if features.batch_size != 1 or features.valid is not None:
        raise ShapeError(
            f"a message holds one image without padding, got a batch of {features.batch_size}; take features[i]"
        )


def _flat(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32).reshape(-1)
