"""Reading bags: MCAP and sqlite3 files of rosbag2, alone or in a folder, and ROS 1 bags, without ROS."""

from __future__ import annotations

import contextlib
import heapq
import importlib.metadata
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semantic_matcher_core.errors import BagError, ImageError, did_you_mean
from semantic_matcher_core.io.bag_files import bag_files, is_missing, open_part, unpack_message
from semantic_matcher_core.io.bag_part import Channel, Part, plural
from semantic_matcher_core.io.depth_messages import depth_of
from semantic_matcher_core.io.image_messages import compressed_to_rgb, image_to_rgb
from semantic_matcher_core.io.messages import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    PACKAGE,
    import_for_bags,
    import_rosbags,
    stamp_of,
    typestore,
)

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
BAG_SUFFIXES = (".bag", ".db3", ".mcap")
# How messages are decoded here; those of other encodings (JSON, protobuf …) are passed over.
_ENCODINGS = ("cdr", "ros1")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag: name, message type (in the ROS 2 form ``pkg/msg/Name``), number of messages, encoding."""

    name: str
    msgtype: str
    count: int
    encoding: str = "cdr"

    @property
    def is_image(self) -> bool:
        """Whether the topic carries images, raw or compressed, that are decoded here."""
        return self.msgtype in IMAGE_TYPES and self.encoding in _ENCODINGS

    @property
    def kind(self) -> str:
        """The message type, with the encoding where that is not one of ROS."""
        name = self.msgtype or "no type"
        return name if self.encoding in _ENCODINGS else f"{name} in {self.encoding or 'no encoding'}"


@dataclass(frozen=True, eq=False)
class BagMessage:
    """A message as it lies in the bag.

    Attributes:
        topic, msgtype: where it was recorded, and as what.
        received_ns: when it was recorded, nanoseconds since the epoch.
        message: its fields, decoded by rosbags.
    """

    topic: str
    msgtype: str
    received_ns: int
    message: Any


@dataclass(frozen=True, eq=False)
class BagImage:
    """An image message, its pixels not decoded yet.

    Attributes:
        topic: where it was recorded.
        index: number of the image on its topic, from 0.
        stamp_ns: time of exposure (the header's stamp), nanoseconds since the epoch.
        received_ns: when it was recorded.
        frame_id: the header's coordinate frame.
        message: the sensor_msgs/Image or CompressedImage; ``None`` where its bytes are none.
        error: why there is no message; stamp and frame are not known then.
    """

    topic: str
    index: int
    stamp_ns: int
    received_ns: int
    frame_id: str
    message: Any
    error: str = ""

    @property
    def encoded(self) -> tuple[str, Any] | None:
        """(format, data) of a CompressedImage as it was recorded; ``None`` for a raw image."""
        if self.message is None or self.message.__msgtype__ != COMPRESSED_IMAGE:
            return None
        return self.message.format, self.message.data

    def depth(self) -> np.ndarray:
        """Return ``H x W`` depth: uint16 millimetres, or float32 metres.

        Raises:
            ImageError: it is no depth, or damaged; the message names topic and number.
        """
        return self._converted(depth_of)

    def decode(self, full_scale: float | None = None) -> np.ndarray:
        """Return ``H x W x 3`` uint8 RGB, or ``H x W`` uint8 for one-channel encodings.

        Args:
            full_scale: see :func:`~semantic_matcher_core.io.image_messages.image_to_rgb`.

        Raises:
            ImageError: unknown encoding, wrong size or damaged data; the message names topic and number.
        """
        compressed = self.message is not None and self.message.__msgtype__ == COMPRESSED_IMAGE
        return self._converted(partial(compressed_to_rgb if compressed else image_to_rgb, full_scale=full_scale))

    def _converted(self, convert: Callable[[Any], np.ndarray]) -> np.ndarray:
        if self.message is None:
            raise ImageError(f"image {self.index} of {self.topic}: {self.error}")
        try:
            return convert(self.message)
        except ImageError as error:
            raise ImageError(f"image {self.index} of {self.topic}: {error}") from error


def load_libraries() -> None:
    """Import all that reading and writing recordings needs; for who will do so in a thread.

    Raises:
        MissingPackageError: it is not installed.
    """
    typestore()
    for module in ("rosbag1", "rosbag2", "serde.primitives", "typesys"):
        import_rosbags(module)
    for module in ("mcap.data_stream", "mcap.records", "mcap.stream_reader", "zstandard", "lz4.frame"):
        import_for_bags(module)
    # rosbags' writer asks for this, and it is imported in parts.
    importlib.metadata.version("rosbags")


class BagReader:
    """A bag, open for reading; to be used in a ``with`` block.

    What can be read is read: of a file that is cut short or damaged in places, the rest. What is missing, as far as the
    bag itself says what it holds, is told to ``report`` and kept in ``problems``; none of it passes in silence.

    Args:
        path: an MCAP file of any profile, a rosbag2 sqlite3 file, a ROS 1 ``.bag``, one of these compressed with zstd,
            or a rosbag2 folder (split or not, compressed or not, with its ``metadata.yaml`` or without).
        report: takes a sentence about something that is missing; by default it becomes a warning in the log.

    Attributes:
        problems: what was reported so far.

    Raises:
        BagError: no such bag, not a bag, or nothing of it can be read. Reading may raise it as well.
    """

    def __init__(self, path: str | Path, *, report: Callable[[str], None] | None = None) -> None:
        self.path = Path(path)
        if is_missing(self.path):
            raise BagError(f"no such bag: {self.path}")
        self.problems: list[str] = []
        self._tell = report or _log.warning
        self._parts: list[Part] | None = None
        self._names: dict[Part, str] = {}
        self._counted: dict[str, int] = {}
        self._stack = contextlib.ExitStack()
        self._stores: dict[str, Typestore] = {}
        self._own_stores: dict[Channel, Typestore] = {}

    def __enter__(self) -> BagReader:
        # rosbags is needed for decoding: told now, not in the middle.
        self._stores = {"cdr": typestore(), "ros1": _ros1_store()}
        with contextlib.ExitStack() as stack:
            try:
                files, self._counted = bag_files(self.path, self._report)
                scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="semantic_matcher_bag_"))
                parts = []
                for number, file in enumerate(files):
                    folder = Path(scratch) / str(number)
                    folder.mkdir()
                    try:
                        parts.append(open_part(file, folder, self._report))
                    except BagError as error:
                        if len(files) == 1:
                            raise
                        self._report(f"{error}; this file of it is left out")
                    else:
                        stack.callback(parts[-1].close)
                        self._names[parts[-1]] = file.name if len(files) > 1 else "it"
            except BagError as error:
                raise self._failed(error) from error
            if self.problems and not any(part.counts for part in parts):
                reasons = "; ".join(text.removeprefix(f"bag {self.path}: ") for text in self.problems)
                raise self._failed(BagError(f"no message of it can be read: {reasons}"))
            self._stack = stack.pop_all()
        self._parts = sorted(parts, key=lambda part: part.start_ns)
        for name, expected in self._counted.items():
            found = sum(part.count(name) for part in parts)
            if found < expected:
                self._report(f"its metadata.yaml counts {plural(expected, 'message')} on {name}, its files {found}")
        return self

    def __exit__(self, *_: object) -> None:
        self._parts = None
        self._stack.close()

    @property
    def topics(self) -> list[BagTopic]:
        """Topics of the bag, by name."""
        counts: Counter[tuple[str, str, str]] = Counter()
        for part in self._open_parts():
            for channel, count in part.counts.items():
                counts[(channel.topic, channel.msgtype, channel.encoding)] += count
        return [BagTopic(name, msgtype, count, encoding) for (name, msgtype, encoding), count in sorted(counts.items())]

    @property
    def image_topics(self) -> list[BagTopic]:
        """Topics that carry images, raw or compressed."""
        return [topic for topic in self.topics if topic.is_image]

    @property
    def start_ns(self) -> int:
        """When the first message was recorded, nanoseconds since the epoch; 0 for an empty bag."""
        return min((part.start_ns for part in self._open_parts() if any(part.counts.values())), default=0)

    @property
    def end_ns(self) -> int:
        """When the last message was recorded, nanoseconds since the epoch; 0 for an empty bag."""
        return max((part.end_ns for part in self._open_parts() if any(part.counts.values())), default=0)

    def require_images(self, names: Sequence[str]) -> list[BagTopic]:
        """Return the image topics of these names, in their order.

        Raises:
            BagError: one is not there, carries something else, or is empty; the message lists the bag's topics.
        """
        # A topic whose type changed counts by its images.
        by_name = {topic.name: topic for topic in sorted(self.topics, key=lambda topic: topic.is_image)}
        found = []
        for name in names:
            topic = by_name.get(name) or by_name.get(f"/{name}")
            if topic is None:
                hint = did_you_mean(f"/{name.lstrip('/')}", by_name.keys())
                raise BagError(f"{self.path} has no topic {name!r}; {hint}{' ' * bool(hint)}{self.describe_topics()}")
            if not topic.is_image:
                raise BagError(f"topic {topic.name} of {self.path} carries {topic.kind}; {self.describe_topics()}")
            if topic.count == 0:
                raise BagError(f"topic {topic.name} of {self.path} holds no message; {self.describe_topics()}")
            found.append(topic)
        return found

    def only_image_topic(self, besides: Sequence[str] = ()) -> BagTopic:
        """Return the bag's one image topic, apart from those named.

        Raises:
            BagError: there is none, or a choice is needed; the message lists the bag's topics.
        """
        found = [topic for topic in self.image_topics if topic.count and topic.name not in besides]
        if not found:
            which = f"apart from {' and '.join(besides)}" if besides else ""
            which = which or "that are read here (sensor_msgs Image and CompressedImage)"
            raise BagError(f"{self.path} holds no images {which}; {self.describe_topics()}")
        if len(found) > 1:
            raise BagError(f"{self.path} has several image topics, name one; {self.describe_topics()}")
        return found[0]

    def describe_topics(self) -> str:
        """Return one line that says what the bag holds, image topics first, and what is missing of it."""
        topics = self.topics
        images = ", ".join(f"{t.name} ({t.count} of {t.msgtype.rpartition('/')[2]})" for t in topics if t.is_image)
        others = ", ".join(f"{t.name} ({t.kind})" for t in topics if not t.is_image)
        if not topics:
            text = "the bag is empty"
        else:
            text = f"image topics: {images or 'none'}" + (f"; other topics: {others}" if others else "")
        # What is not there may be among what is lost.
        return "; ".join([text, *(problem.removeprefix(f"bag {self.path}: ") for problem in self.problems)])

    def images(self, topics: Sequence[str]) -> Iterator[BagImage]:
        """Yield images of these topics in the order of their recording, not decoded yet.

        A message that cannot be taken apart comes as an image with an ``error``.

        Raises:
            BagError: a topic is missing or carries no images, or the bag cannot be read further.
        """
        names = [topic.name for topic in self.require_images(topics)]
        counts = dict.fromkeys(names, 0)
        for channel, received_ns, data in self._raw(names):
            if channel.msgtype not in IMAGE_TYPES or channel.encoding not in _ENCODINGS:
                continue
            index = counts[channel.topic]
            counts[channel.topic] += 1
            try:
                message = self._deserialize(channel, data)
                stamp, frame_id = stamp_of(message.header), message.header.frame_id
            except BagError as error:
                yield BagImage(channel.topic, index, received_ns, received_ns, "", None, str(error))
            else:
                yield BagImage(channel.topic, index, stamp, received_ns, frame_id, message)

    def camera_info(self, image_topic: str) -> Any:
        """Return the first sensor_msgs/CameraInfo of an image topic's sibling ``camera_info``; ``None`` without one."""
        base = image_topic.removesuffix("/compressed").rpartition("/")[0]
        name = f"{base}/camera_info"
        if any(topic.name == name and topic.msgtype == CAMERA_INFO and topic.count for topic in self.topics):
            return next(self.messages([name])).message
        return None

    def messages(self, topics: Sequence[str]) -> Iterator[BagMessage]:
        """Yield messages of these topics in the order of their recording.

        Raises:
            BagError: the bag cannot be read further, or holds a message that cannot be taken apart, or whose definition
                is neither known nor embedded.
        """
        for channel, received_ns, data in self._raw(topics):
            try:
                message = self._deserialize(channel, data)
            except BagError as error:
                raise self._failed(error) from error
            yield BagMessage(channel.topic, channel.msgtype, received_ns, message)

    def serialized(self, topics: Sequence[str]) -> Iterator[tuple[str, str, int, bytes]]:
        """Yield (topic, msgtype, received_ns, data) in the order of their recording, as they lie in the bag.

        Raises:
            BagError: the bag cannot be read further.
        """
        for channel, received_ns, data in self._raw(topics):
            yield channel.topic, channel.msgtype, received_ns, bytes(data)

    def _raw(self, topics: Sequence[str]) -> Iterator[tuple[Channel, int, Any]]:
        wanted = frozenset(topics)
        parts = self._open_parts()
        in_sequence = all(first.end_ns <= second.start_ns for first, second in pairwise(parts))
        sources = (self._counted_messages(part, wanted) for part in parts)
        # Files of a split bag follow each other; those that overlap in time are read side by side.
        merged = (
            (item for source in sources for item in source)
            if in_sequence
            else heapq.merge(*sources, key=lambda item: item[1])
        )
        try:
            yield from merged
        except BagError as error:
            raise self._failed(error) from error

    def _counted_messages(self, part: Part, topics: Collection[str]) -> Iterator[tuple[Channel, int, Any]]:
        read: Counter[str] = Counter()
        for item in part.messages(topics):
            read[item[0].topic] += 1
            yield item
        for topic in sorted(topics):
            if read[topic] < (count := part.count(topic)):
                name = self._names[part]
                self._report(f"{name} counts {plural(count, 'message')} on {topic}, of which {read[topic]} can be read")

    def _deserialize(self, channel: Channel, data: Any) -> Any:
        if channel.encoding not in _ENCODINGS:
            raise BagError(f"{channel.topic} is encoded as {channel.encoding!r}, which is not decoded here")
        store = self._store_for(channel)
        try:
            unpacked = unpack_message(data)
            if channel.encoding == "ros1":
                return store.deserialize_ros1(unpacked, channel.msgtype)
            return store.deserialize_cdr(unpacked, channel.msgtype)
        except BagError:
            raise
        except Exception as error:
            # Whatever rosbags, numpy or struct raise for bytes that are no such message.
            reason = str(error).strip().splitlines()
            text = f" ({reason[0].rstrip('.')})" if reason else ""
            raise BagError(f"a message on {channel.topic} is damaged: it is no {channel.msgtype}{text}") from error

    def _store_for(self, channel: Channel) -> Typestore:
        # Known types first: their layout is settled, and a definition of some other topic that cannot be parsed does
        # not make the bag's images unreadable. Ours may have had fewer fields when the bag was written.
        store = self._stores[channel.encoding]
        known = channel.msgtype in store.fielddefs
        if known and not (channel.definition and channel.msgtype.startswith(f"{PACKAGE}/")):
            return store
        if channel not in self._own_stores:
            typesys = import_rosbags("typesys")
            own = typesys.get_typestore(typesys.Stores.EMPTY)
            parse = {
                "ros2msg": typesys.get_types_from_msg,
                "ros1msg": typesys.get_types_from_msg,
                "ros2idl": lambda text, name: typesys.get_types_from_idl(text),
            }.get(channel.definition_format)
            if parse is None or not channel.definition:
                raise BagError(f"there is no definition of {channel.msgtype} (topic {channel.topic})")
            try:
                own.register(parse(channel.definition, channel.msgtype))
            except Exception as error:
                raise BagError(f"the definition of {channel.msgtype} (topic {channel.topic}) cannot be used") from error
            self._own_stores[channel] = own
        return self._own_stores[channel]

    def _open_parts(self) -> list[Part]:
        if self._parts is None:
            raise BagError(f"{self.path} is not open; use `with BagReader(…) as bag`")
        return self._parts

    def _report(self, text: str) -> None:
        whole = f"bag {self.path}: {text}"
        if whole not in self.problems:
            self.problems.append(whole)
            self._tell(whole)

    def _failed(self, error: BagError) -> BagError:
        text = str(error)
        return (
            error
            if text.startswith(("cannot read bag", "no such bag"))
            else BagError(f"cannot read bag {self.path}: {text}")
        )


def _ros1_store() -> Typestore:
    typesys = import_rosbags("typesys")
    return typesys.get_typestore(typesys.Stores.ROS1_NOETIC)
