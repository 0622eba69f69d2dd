"""Reading ROS 1 bags, through rosbags."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from semantic_matcher_core.errors import BagError
from semantic_matcher_core.io.bag_part import Channel, Part, Report
from semantic_matcher_core.io.messages import import_rosbags

MAGIC = b"#ROSBAG V"


class Ros1Part(Part):
    """One ROS 1 bag.

    Args:
        path: the file.
        report: is told what is missing.

    Raises:
        BagError: the bag is of an old version, was not closed, or is damaged.
    """

    def __init__(self, path: Path, report: Report) -> None:
        with path.open("rb") as file:
            version = file.readline(32).strip()
        if version != b"#ROSBAG V2.0":
            found = version.decode("ascii", errors="replace").removeprefix("#ROSBAG ")
            raise BagError(f"it is a ROS 1 bag of version {found}, and 2.0 is read; `rosbag migrate` makes it one")
        self._report = report
        self._reader = import_rosbags("rosbag1").Reader(path)
        try:
            self._reader.open()
        except Exception as error:
            raise _failed(error) from error
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

    def messages(self, topics: Collection[str]) -> Iterator[tuple[Channel, int, Any]]:
        wanted = [c for c in self._reader.connections if c.topic in topics]
        if not wanted:
            return
        try:
            for connection, stamp, data in self._reader.messages(connections=wanted):
                yield self._channels[connection.id], stamp, data
        except Exception as error:
            raise _failed(error) from error


def _failed(error: Exception) -> BagError:
    # Whatever rosbags, bz2 or lz4 raise for bytes that are not as they should be.
    lines = str(error).strip().splitlines()
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    return BagError(
        f"it is cut short or damaged, or its recorder did not finish ({reason}); `rosbag reindex` may save what is left"
    )
