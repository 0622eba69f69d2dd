"""What every kind of bag file gives: its channels, and their messages in the order of recording."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

Report = Callable[[str], None]
"""Takes one sentence about something that is missing or out of order, without the name of the bag."""


@dataclass(frozen=True)
class Channel:
    """Messages of one type on one topic.

    Attributes:
        topic: its name.
        msgtype: the type in the ROS 2 form ``pkg/msg/Name``; as it is named in the file where it is no ROS type.
        encoding: ``"cdr"`` (ROS 2), ``"ros1"``, or another, which is not decoded here.
        definition_format: ``"ros2msg"``, ``"ros1msg"``, ``"ros2idl"``, another one, or "" where there is no definition.
        definition: the type's definition with those of the types in it.
    """

    topic: str
    msgtype: str
    encoding: str = "cdr"
    definition_format: str = ""
    definition: str = ""


class Part(ABC):
    """One file of a bag, open for reading.

    Attributes:
        counts: number of messages by channel, as the file counts them.
        start_ns, end_ns: time of recording of the first and of the last message, nanoseconds; 0 where there is none.
    """

    counts: dict[Channel, int]
    start_ns: int = 0
    end_ns: int = 0

    def count(self, topic: str) -> int:
        """Return the number of messages on a topic, as the file counts them."""
        return sum(count for channel, count in self.counts.items() if channel.topic == topic)

    @abstractmethod
    def messages(self, topics: Collection[str]) -> Iterator[tuple[Channel, int, Any]]:
        """Return (channel, time of recording, data) of these topics in the order of their recording."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


def ros_type(name: str) -> str:
    """Return ``pkg/Name`` of ROS 1 as ``pkg/msg/Name``; other names as they are."""
    package, slash, rest = name.partition("/")
    return f"{package}/msg/{rest}" if slash and "/" not in rest else name


def plural(count: int, noun: str) -> str:
    """Return ``1 message``, ``2 messages``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
