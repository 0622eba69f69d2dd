"""Reading ROS 1 bags, through rosbags; without their index where that is missing or damaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from semantic_matcher_core.errors import BagError
from semantic_matcher_core.io.bag_part import Channel, Part, Report
from semantic_matcher_core.io.bag_ros1_rest import Ros1RestPart
from semantic_matcher_core.io.messages import import_rosbags

MAGIC = b"#ROSBAG V"


def open_ros1(path: Path, report: Report) -> Part:
    """Return a ROS 1 bag, open for reading: by its index, or what is left of it.

    Args:
        path: the file.
        report: is told what is missing.

    Raises:
        BagError: the bag is of an old version, encrypted, or nothing of it can be read.
    """
    with path.open("rb") as file:
        version = file.readline(32).strip()
    if version != b"#ROSBAG V2.0":
        found = version.decode("ascii", errors="replace").removeprefix("#ROSBAG ")
        raise BagError(f"it is a ROS 1 bag of version {found}, and 2.0 is read; `rosbag migrate` makes it one")
    reader = import_rosbags("rosbag1").Reader(path)
    try:
        reader.open()
    except Exception:  # noqa: BLE001 - whatever rosbags raises for bytes that are not as they should be
        report("it has no index that can be used (its recorder did not finish, or it is cut short); its rest is read")
        return Ros1RestPart(path, report)
    return Ros1Part(reader, path, report)


class Ros1Part(Part):
    """One ROS 1 bag with its index.

    Args:
        reader: the open ``rosbags.rosbag1.Reader``.
        path: the file.
        report: is told what is missing.
    """

    def __init__(self, reader: Any, path: Path, report: Report) -> None:
        self._path = path
        self._report = report
        self._reader = reader
        self._rest: Part | None = None
        self._channels = {
            connection.id: Channel(
                connection.topic, connection.msgtype, "ros1", "ros1msg", str(connection.msgdef.data or "")
            )
            for connection in self._reader.connections
        }
        self.counts = {}
        for connection in self._reader.connections:
            channel = self._channels[connection.id]
            self.counts[channel] = self.counts.get(channel, 0) + connection.msgcount
        if self._reader.message_count:
            self.start_ns, self.end_ns = int(self._reader.start_time), int(self._reader.end_time) - 1

    def close(self) -> None:
        self._reader.close()
        if self._rest is not None:
            self._rest.close()

    def messages(self, topics: Collection[str]) -> Iterator[tuple[Channel, int, Any]]:
        wanted = [c for c in self._reader.connections if c.topic in topics]
        if not wanted:
            return
        last, given = -1, Counter[str]()
        try:
            for connection, stamp, data in self._reader.messages(connections=wanted):
                given = given if stamp == last else Counter()
                last = stamp
                given[connection.topic] += 1
                yield self._channels[connection.id], stamp, data
            return
        except Exception:  # noqa: BLE001 - whatever rosbags, bz2 or lz4 raise for damaged bytes
            self._rest = self._rest or Ros1RestPart(self._path, self._report)
        # From where it stopped.
        for channel, stamp, data in self._rest.messages(topics):
            if stamp > last or (stamp == last and given[channel.topic] <= 0):
                yield channel, stamp, data
            elif stamp == last:
                given[channel.topic] -= 1
