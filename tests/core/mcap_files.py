"""MCAP files as other tools write them: any profile, with or without indices, foreign channels, disordered times."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType, IndexType, Writer
from rosbags.typesys import Stores, get_typestore

from semantic_matcher_core.io.messages import IMAGE, header_message, image_message, typestore
from tests.core.recordings import PERIOD_NS, RECORDED_NS, START_NS, view

TOPIC = "/camera/image"


def image_bytes(picture: np.ndarray, index: int, *, ros1: bool = False) -> bytes:
    """A serialised sensor_msgs/Image, the frame ``index`` of :func:`~tests.core.recordings.view`."""
    message = image_message(view(picture, index), header_message(START_NS + index * PERIOD_NS, "camera_optical"))
    if not ros1:
        return bytes(typestore().serialize_cdr(message, IMAGE))
    store = get_typestore(Stores.ROS1_NOETIC)
    seconds, nanoseconds = divmod(START_NS + index * PERIOD_NS, 1_000_000_000)
    stamp = store.types["builtin_interfaces/msg/Time"](seconds, nanoseconds)
    header = store.types["std_msgs/msg/Header"](index, stamp, "camera_optical")
    return bytes(store.serialize_ros1(store.types[IMAGE](**{**vars(message), "header": header}), IMAGE))


def write_mcap(
    path: Path,
    picture: np.ndarray,
    count: int = 8,
    *,
    profile: str = "ros2",
    order: Sequence[int] | None = None,
    ros1: bool = False,
    schema: tuple[str, str, bytes] | None = None,
    foreign: bool = False,
    messages: dict[int, bytes] | None = None,
    **options: Any,
) -> Path:
    """An MCAP file with ``count`` images on :data:`TOPIC`, and with ``foreign`` a JSON channel and one without schema.

    Args:
        path: the file.
        picture: what the camera sees.
        count: number of images.
        profile: what the header says.
        order: the images' order in the file; their log times stay those of their number.
        ros1: ROS 1 messages, as its tools write them.
        schema: (name, encoding, data) of the image channel; default as the recorder has it.
        foreign: add channels of other encodings between the images.
        messages: data of single images instead of their own.
        options: of the ``mcap`` library's writer.
    """
    options.setdefault("chunk_size", 100_000)
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start(profile=profile, library="a data platform")
        if schema is None:
            schema = ("sensor_msgs/Image", "ros1msg", b"uint8 x") if ros1 else (IMAGE, "ros2msg", b"uint8 x")
        name, encoding, data = schema
        number = writer.register_schema(name=name, encoding=encoding, data=data)
        camera = writer.register_channel(TOPIC, "ros1" if ros1 else "cdr", number)
        others = []
        if foreign:
            number = writer.register_schema(name="status", encoding="jsonschema", data=b'{"type": "object"}')
            others = [writer.register_channel("/status", "json", number), writer.register_channel("/raw", "", 0)]
        for i in order if order is not None else range(count):
            stamp = START_NS + i * PERIOD_NS + RECORDED_NS
            content = (messages or {}).get(i) or image_bytes(picture, i, ros1=ros1)
            writer.add_message(camera, stamp, content, stamp)
            for other in others:
                writer.add_message(other, stamp, b'{"ok": true}', stamp)
        writer.finish()
    return path


def without_footer(data: bytes) -> bytes:
    """The file as a recorder leaves it that was killed after its last chunk."""
    return data[: data.index(b"\x0f\x04\0\0\0\0\0\0\0")]


VARIANTS: dict[str, dict[str, Any]] = {
    "no-profile": {"profile": ""},
    "another-profile": {"profile": "x-platform"},
    "foreign-channels": {"foreign": True},
    "no-message-index": {"index_types": IndexType.CHUNK},
    "no-chunk-index": {"index_types": IndexType.MESSAGE},
    "no-index": {"index_types": IndexType.NONE},
    "no-statistics": {"use_statistics": False},
    "no-repeated-channels": {"repeat_channels": False, "repeat_schemas": False},
    "no-summary": {
        "index_types": IndexType.NONE,
        "use_statistics": False,
        "use_summary_offsets": False,
        "repeat_channels": False,
        "repeat_schemas": False,
    },
    "no-chunks": {"use_chunking": False},
    "no-checksums": {"enable_crcs": False},
    "uncompressed": {"compression": CompressionType.NONE},
    "lz4": {"compression": CompressionType.LZ4},
    "one-chunk": {"chunk_size": 1 << 30},
    "disordered": {"order": [3, 0, 7, 1, 6, 2, 5, 4]},
    "disordered-no-chunks": {"order": [3, 0, 7, 1, 6, 2, 5, 4], "use_chunking": False},
    "ros1": {"ros1": True, "profile": "ros1"},
    "no-definition": {"schema": (IMAGE, "", b"")},
    "idl": {"schema": (IMAGE, "ros2idl", b"module nonsense")},
}


def content_of(writer_options: dict[str, Any], picture: np.ndarray, folder: Path) -> bytes:
    """The bytes of one such file."""
    return write_mcap(folder / "variant.mcap", picture, **writer_options).read_bytes()


def as_stream(data: bytes) -> io.BytesIO:
    """For readers of the library itself."""
    return io.BytesIO(data)
