"""Reading what is left of a ROS 1 bag that was not finished, is cut short, or damaged in places.

The recorder writes the index, and the length of the last chunk, when it is done. Here the records are walked one by
one instead, as ``rosbag reindex`` does. Layout: https://wiki.ros.org/Bags/Format/2.0.
"""

from __future__ import annotations

import bz2
from collections.abc import Collection, Iterator
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from semantic_matcher_core.errors import BagError
from semantic_matcher_core.io.bag_part import Channel, Part, Report, plural, ros_type
from semantic_matcher_core.io.messages import import_for_bags, import_rosbags

_MESSAGE, _BAG, _INDEX, _CHUNK, _CONNECTION = 2, 3, 4, 5, 7
# Of a record's header; what may be long, definitions and messages, is its data.
_MAX_HEADER_BYTES = 2**20


class _Record(NamedTuple):
    """A record: its kind and header, and where its data lie, of which the last may be missing."""

    kind: int
    header: Any
    start: int
    length: int


class _Place(NamedTuple):
    """Where a message lies: the offset of its chunk in the file, and its own in the chunk."""

    time: int
    chunk: int
    start: int
    length: int


class Ros1RestPart(Part):
    """What is left of one ROS 1 bag.

    Args:
        path: the file.
        report: is told what is lost.

    Raises:
        BagError: its messages are encrypted.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self._report = report
        self._lib = import_rosbags("rosbag1.reader")
        self._channels: dict[int, Channel] = {}
        self._places: dict[int, list[_Place]] = {}
        self._chunks: dict[int, tuple[int, str]] = {}
        self._open_chunk: tuple[int, bytes] = (-1, b"")
        self._file: BinaryIO = path.open("rb")
        try:
            self._walk()
        except BaseException:
            self._file.close()
            raise
        self.counts = {}
        for number, channel in self._channels.items():
            self.counts[channel] = self.counts.get(channel, 0) + len(self._places.get(number, ()))
        lost = sum(len(places) for number, places in self._places.items() if number not in self._channels)
        if lost:
            report(f"{plural(lost, 'message')} of topics that it does not describe")
        times = [place.time for places in self._places.values() for place in places]
        self.start_ns, self.end_ns = min(times, default=0), max(times, default=0)

    def close(self) -> None:
        self._file.close()

    def messages(self, topics: Collection[str]) -> Iterator[tuple[Channel, int, Any]]:
        wanted = [
            (place, channel)
            for number, channel in self._channels.items()
            if channel.topic in topics
            for place in self._places.get(number, ())
        ]
        for place, channel in sorted(wanted, key=itemgetter(0)):
            yield channel, place.time, self._content(place.chunk)[place.start : place.start + place.length]

    def _walk(self) -> None:
        size = self._file.seek(0, 2)
        self._file.seek(0)
        self._file.readline()
        end = self._file.tell()
        for record in self._records(self._file, size):
            end = record.start + record.length
            if record.kind == _CHUNK:
                # The length of the last one is 0 where the recorder did not finish it.
                is_whole = 0 < record.length <= size - record.start
                end = end if is_whole else size
                self._chunks[record.start] = (
                    end - record.start,
                    record.header.get("compression", b"").decode("latin-1"),
                )
                self._note_chunk(record.start, is_whole)
                end = record.start + self._chunks[record.start][0]
            elif end > size:
                end = record.start
                break
            elif record.kind == _BAG and record.header.get("encryptor"):
                raise BagError(f"its messages are encrypted ({record.header.get_string('encryptor')}): not read here")
            elif record.kind == _CONNECTION:
                self._note_connection(self._file, record)
            self._file.seek(end)
        if end < size:
            self._report(f"nothing of it can be read from byte {end} of {size} on")

    def _records(self, stream: BinaryIO, size: int) -> Iterator[_Record]:
        """Yield records from where the stream stands, which is to be put behind each."""
        while (place := stream.tell()) + 4 <= size:
            length = int.from_bytes(stream.read(4), "little")
            if length > min(_MAX_HEADER_BYTES, size - place):
                return
            stream.seek(place)
            try:
                header = self._lib.Header.read(stream)
                kind = header.get_uint8("op")
            except (self._lib.ReaderError, ValueError):
                return
            data_length = int.from_bytes(stream.read(4), "little")
            yield _Record(kind, header, stream.tell(), data_length)

    def _note_connection(self, stream: BinaryIO, record: _Record) -> None:
        try:
            data = self._lib.Header.read(BytesIO(record.length.to_bytes(4, "little") + stream.read(record.length)))
            channel = Channel(
                record.header.get_string("topic"),
                ros_type(data.get_string("type")),
                "ros1",
                "ros1msg",
                data.get("message_definition", b"").decode("utf-8", errors="replace"),
            )
            self._channels.setdefault(record.header.get_uint32("conn"), channel)
        except (self._lib.ReaderError, ValueError):
            return  # its messages are told as those of no topic

    def _note_chunk(self, offset: int, is_whole: bool) -> None:
        try:
            content = self._content(offset)
        except BagError as error:
            self._report(f"the chunk at byte {offset} {error}; its messages are left out")
            return
        stream, end = BytesIO(content), 0
        for record in self._records(stream, len(content)):
            if record.kind in (_INDEX, _CHUNK):  # what follows a chunk, whose length is wrong
                self._chunks[offset] = (end, self._chunks[offset][1])
                return
            if record.start + record.length > len(content):
                break
            end = record.start + record.length
            if record.kind == _CONNECTION:
                self._note_connection(stream, record)
            elif record.kind == _MESSAGE:
                try:
                    number, time = record.header.get_uint32("conn"), record.header.get_time("time")
                except self._lib.ReaderError:
                    break
                self._places.setdefault(number, []).append(_Place(time, offset, record.start, record.length))
            stream.seek(end)
        if end < len(content) and is_whole:
            self._report(f"the chunk at byte {offset} is damaged; its messages from byte {end} of it on are left out")

    def _content(self, offset: int) -> bytes:
        """Return the records of a chunk, as far as they are there.

        Raises:
            BagError: it cannot be decompressed.
        """
        if self._open_chunk[0] != offset:
            length, compression = self._chunks[offset]
            self._file.seek(offset)
            data = self._file.read(length)
            if compression not in ("none", "bz2", "lz4"):
                raise BagError(f"is compressed as {compression[:20]!r}, which is not known here")
            if compression != "none":
                lz4 = import_for_bags("lz4.frame")
                stream = bz2.BZ2Decompressor() if compression == "bz2" else lz4.LZ4FrameDecompressor()
                try:
                    data = stream.decompress(data)
                except (OSError, RuntimeError, ValueError, EOFError) as error:
                    raise BagError("cannot be decompressed") from error
                self._chunks[offset] = (length - len(stream.unused_data or b""), compression)
            self._open_chunk = (offset, data)
        return self._open_chunk[1]
