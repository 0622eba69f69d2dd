"""Reading bags: ROS 1 bags, rosbag2 folders, and single ``.mcap`` or ``.db3`` files, without ROS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from semantic_matcher_core.errors import BagError, ImageError
from semantic_matcher_core.io.messages import COMPRESSED_IMAGE, IMAGE, import_rosbags, stamp_of, typestore

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
BAG_SUFFIXES = (".bag", ".db3", ".mcap")


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag: its name, message type (in the ROS 2 form ``pkg/msg/Name``) and number of messages."""

    name: str
    msgtype: str
    count: int

    @property
    def is_image(self) -> bool:
        """Whether the topic carries images, raw or compressed."""
        return self.msgtype in IMAGE_TYPES


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
        message: the sensor_msgs/Image or CompressedImage.
    """

    topic: str
    index: int
    stamp_ns: int
    received_ns: int
    frame_id: str
    message: Any

    @property
    def encoded(self) -> tuple[str, Any] | None:
        """(format, data) of a CompressedImage as it was recorded; ``None`` for a raw image."""
        if self.message.__msgtype__ != COMPRESSED_IMAGE:
            return None
        return self.message.format, self.message.data

    def decode(self) -> np.ndarray:
        """``H x W x 3`` uint8 RGB, or ``H x W`` uint8 for one-channel encodings.

        Raises:
            ImageError: unknown encoding, wrong size or damaged data; the message names topic and number.
        """
        from semantic_matcher_core.io.image_messages import compressed_to_rgb, image_to_rgb

        convert = compressed_to_rgb if self.message.__msgtype__ == COMPRESSED_IMAGE else image_to_rgb
        try:
            return convert(self.message)
        except ImageError as error:
            raise ImageError(f"image {self.index} of {self.topic}: {error}") from error


class BagReader:
    """A bag, open for reading; to be used in a ``with`` block.

    Args:
        path: a ROS 1 ``.bag``, a rosbag2 folder (sqlite3 or MCAP, split or not, compressed or not), or one ``.mcap`` or
            ``.db3`` file.

    Raises:
        BagError: no such bag, not a bag, damaged or cut short. Reading may raise it as well.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise BagError(f"no such bag: {self.path}")
        if self.path.is_file() and self.path.suffix not in BAG_SUFFIXES:
            raise BagError(f"{self.path} is no bag: expected a rosbag2 folder or a file of {', '.join(BAG_SUFFIXES)}")
        if self.path.is_dir() and not (self.path / "metadata.yaml").is_file():
            raise BagError(
                f"{self.path} is no rosbag2 folder: it has no metadata.yaml "
                "(the recorder did not finish, or this is another folder); name the .mcap or .db3 file in it"
            )
        self.is_ros1 = self.path.suffix == ".bag" and self.path.is_file()
        self._reader: Any = None
        self._store: Typestore | None = None
        self._bag_store: Typestore | None = None

    def __enter__(self) -> BagReader:
        self._check_sqlite_size()
        try:
            if self.is_ros1:
                typesys = import_rosbags("typesys")
                self._store = typesys.get_typestore(typesys.Stores.ROS1_NOETIC)
                self._reader = import_rosbags("rosbag1").Reader(self.path)
            else:
                self._store = typestore()
                self._reader = import_rosbags("rosbag2").Reader(self.path)
            self._reader.open()
        except ImportError:
            raise
        except Exception as error:
            # Whatever rosbags, sqlite, zstd or a parser raise for bytes that are not as they should be.
            self._reader = None
            raise self._error(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    @property
    def topics(self) -> list[BagTopic]:
        """Topics of the bag, by name."""
        counts: dict[tuple[str, str], int] = {}
        for connection in self._connections():
            key = (connection.topic, connection.msgtype)
            counts[key] = counts.get(key, 0) + connection.msgcount
        return [BagTopic(name, msgtype, count) for (name, msgtype), count in sorted(counts.items())]

    @property
    def image_topics(self) -> list[BagTopic]:
        """Topics that carry images, raw or compressed."""
        return [topic for topic in self.topics if topic.is_image]

    @property
    def start_ns(self) -> int:
        """When the first message was recorded, nanoseconds since the epoch; 0 for an empty bag."""
        return int(self._open_reader().start_time) if self._open_reader().message_count else 0

    @property
    def end_ns(self) -> int:
        """When the last message was recorded, nanoseconds since the epoch; 0 for an empty bag."""
        return int(self._open_reader().end_time) - 1 if self._open_reader().message_count else 0

    def require_images(self, names: Sequence[str]) -> list[BagTopic]:
        """The image topics of these names, in their order.

        Raises:
            BagError: one is not there, carries something else, or is empty; the message lists the bag's topics.
        """
        by_name = {topic.name: topic for topic in self.topics}
        found = []
        for name in names:
            topic = by_name.get(name) or by_name.get(f"/{name}")
            if topic is None:
                raise BagError(f"{self.path} has no topic {name!r}; {self.describe_topics()}")
            if not topic.is_image:
                raise BagError(f"topic {topic.name} of {self.path} carries {topic.msgtype}; {self.describe_topics()}")
            if topic.count == 0:
                raise BagError(f"topic {topic.name} of {self.path} holds no message; {self.describe_topics()}")
            found.append(topic)
        return found

    def only_image_topic(self) -> BagTopic:
        """The bag's one image topic.

        Raises:
            BagError: there is none, or a choice is needed; the message lists the bag's topics.
        """
        found = [topic for topic in self.image_topics if topic.count]
        if not found:
            raise BagError(f"{self.path} holds no images; {self.describe_topics()}")
        if len(found) > 1:
            raise BagError(f"{self.path} has several image topics, name one; {self.describe_topics()}")
        return found[0]

    def describe_topics(self) -> str:
        """One line that says what the bag holds, image topics first."""
        topics = self.topics
        images = ", ".join(f"{t.name} ({t.count} of {t.msgtype.rpartition('/')[2]})" for t in topics if t.is_image)
        others = ", ".join(f"{t.name} ({t.msgtype})" for t in topics if not t.is_image)
        if not topics:
            return "the bag is empty"
        return f"image topics: {images or 'none'}" + (f"; other topics: {others}" if others else "")

    def images(self, topics: Sequence[str]) -> Iterator[BagImage]:
        """Images of these topics in the order of their recording, not decoded yet.

        Raises:
            BagError: a topic is missing or carries no images, or the bag is damaged.
        """
        names = [topic.name for topic in self.require_images(topics)]
        counts = dict.fromkeys(names, 0)
        for item in self.messages(names):
            header = item.message.header
            yield BagImage(
                item.topic, counts[item.topic], stamp_of(header), item.received_ns, header.frame_id, item.message
            )
            counts[item.topic] += 1

    def messages(self, topics: Sequence[str]) -> Iterator[BagMessage]:
        """Messages of these topics in the order of their recording.

        Raises:
            BagError: the bag is damaged, or holds a message whose definition is neither known nor embedded.
        """
        for connection, received_ns, data in self._raw(topics):
            try:
                message = self._deserialize(connection, data)
            except BagError:
                raise
            except Exception as error:
                raise self._error(error) from error
            yield BagMessage(connection.topic, connection.msgtype, received_ns, message)

    def serialized(self, topics: Sequence[str]) -> Iterator[tuple[str, str, int, bytes]]:
        """(topic, msgtype, received_ns, data) in the order of their recording, as they lie in the bag.

        Raises:
            BagError: the bag is damaged.
        """
        for connection, received_ns, data in self._raw(topics):
            yield connection.topic, connection.msgtype, received_ns, data

    def _raw(self, topics: Sequence[str]) -> Iterator[tuple[Connection, int, bytes]]:
        wanted = set(topics)
        connections = [c for c in self._connections() if c.topic in wanted]
        if not connections:
            return
        source = self._open_reader().messages(connections=connections)
        while True:
            try:
                item = next(source)
            except StopIteration:
                return
            except Exception as error:
                raise self._error(error) from error
            yield item

    def _deserialize(self, connection: Connection, data: bytes) -> Any:
        store = self._store_for(connection)
        if self.is_ros1:
            return store.deserialize_ros1(data, connection.msgtype)
        return store.deserialize_cdr(data, connection.msgtype)

    def _store_for(self, connection: Connection) -> Typestore:
        # Known types first: their layout is settled, and a definition of some other topic that cannot be parsed does
        # not make the bag's images unreadable.
        assert self._store is not None
        if connection.msgtype in self._store.fielddefs:
            return self._store
        if self._bag_store is None:
            typesys = import_rosbags("typesys")
            self._bag_store = typesys.get_typestore(typesys.Stores.EMPTY)
        if connection.msgtype not in self._bag_store.fielddefs:
            typesys = import_rosbags("typesys")
            if connection.msgdef.format.name != "MSG":
                raise BagError(f"{self.path} has no definition of {connection.msgtype} (topic {connection.topic})")
            self._bag_store.register(typesys.get_types_from_msg(connection.msgdef.data, connection.msgtype))
        return self._bag_store

    def _connections(self) -> list[Connection]:
        return list(self._open_reader().connections)

    def _open_reader(self) -> Any:
        if self._reader is None:
            raise BagError(f"{self.path} is not open; use `with BagReader(…) as bag`")
        return self._reader

    def _check_sqlite_size(self) -> None:
        # sqlite reads a file that lacks its last pages without complaint, as far as the pages go.
        for path in [self.path] if self.path.is_file() else sorted(self.path.glob("*.db3")):
            if path.suffix != ".db3" or path.with_name(f"{path.name}-wal").exists():
                continue
            with path.open("rb") as file:
                header = file.read(100)
            if len(header) < 100 or header[:16] != b"SQLite format 3\0":
                raise self._error(ValueError(f"{path.name} is no sqlite3 file"))
            # https://www.sqlite.org/fileformat2.html#the_database_header: page size, size in pages, change counters.
            page_size = int.from_bytes(header[16:18], "big")
            pages = int.from_bytes(header[28:32], "big") if header[24:28] == header[92:96] else 0
            expected = pages * (65536 if page_size == 1 else page_size)
            if path.stat().st_size < expected:
                raise self._error(ValueError(f"{path.name} has {path.stat().st_size} of {expected} bytes"))

    def _error(self, error: BaseException) -> BagError:
        reason = str(error).strip().splitlines()
        hint = {
            ".mcap": "`mcap recover` may save what is left",
            ".bag": "`rosbag reindex` may save what is left",
        }.get(self.path.suffix, "`ros2 bag reindex` may save what is left")
        return BagError(
            f"cannot read bag {self.path}: {reason[0].rstrip('.') if reason else type(error).__name__}; "
            f"it is damaged, cut short or of an unknown kind ({hint})"
        )
