"""Reading MCAP files of any profile, with or without indices, and what is left of damaged ones.

The records are walked one by one and parsed by the ``mcap`` library; neither its index of chunks nor that of messages
decides what is found, because both are optional and may be wrong. What the file counts is compared with what was read.
Layout: https://mcap.dev/spec (records of one byte for the kind and eight for the length).
"""

from __future__ import annotations

import heapq
import struct
import zlib
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from semantic_matcher_core.errors import BagError
from semantic_matcher_core.io.bag_part import Channel, Part, Report, plural, ros_type
from semantic_matcher_core.io.messages import import_for_bags

MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
_DATA_END = 0x0F
_PREFIX = struct.Struct("<BQ")
_MESSAGE_FIELDS = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_FOOTER_BYTES = _PREFIX.size + 20
_COMPRESSIONS = ("", "zstd", "lz4")
# A chunk is held in memory whole; recorders make them of one to some ten megabytes.
_MAX_CHUNK_BYTES = 4 * 2**30
_CACHE_BYTES = 128 * 2**20


class _ChunkError(Exception):
    """A chunk that cannot be read; the message says what it is or has."""


@dataclass(order=True)
class _Piece:
    """A chunk, or one message outside of all chunks.

    Attributes:
        start: log time of its earliest message.
        offset, length: where its content lies.
        is_chunk: a chunk, else a message.
        is_cut: the file ends within it.
    """

    start: int
    offset: int
    length: int = field(compare=False)
    is_chunk: bool = field(compare=False)
    is_cut: bool = field(compare=False, default=False)


class McapPart(Part):
    """One MCAP file.

    Args:
        path: the file.
        report: is told what is missing or out of order.

    Raises:
        BagError: the file does not begin like MCAP, or not one record of it can be read.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self._path = path
        self._report = report
        self._records = import_for_bags("mcap.records")
        self._streams = import_for_bags("mcap.stream_reader")
        self._data_stream = import_for_bags("mcap.data_stream").ReadDataStream
        self._schemas: dict[int, Any] = {}
        self._channels: dict[int, Any] = {}
        self._names: dict[int, Channel] | None = None
        self._pieces: list[_Piece] = []
        self._statistics: Any = None
        self._cache: OrderedDict[int, memoryview] = OrderedDict()
        self._data_end = 0
        self._file: BinaryIO = path.open("rb")
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._cache.clear()
        self._file.close()

    def messages(self, topics: Collection[str]) -> Iterator[tuple[Channel, int, Any]]:
        # Pieces are opened in the order of their first message, and a message is given away when no piece that is still
        # closed can hold an earlier one. Of the open ones only places are kept, and the newest chunks' bytes.
        waiting: list[tuple[int, int, int, int, _Piece]] = []
        closed = iter(self._pieces)
        following = next(closed, None)
        while following is not None or waiting:
            if following is not None and (not waiting or following.start <= waiting[0][0]):
                for log_time, position, length, channel_id in self._places(following):
                    channel = self._named.get(channel_id)
                    if channel is not None and channel.topic in topics:
                        heapq.heappush(waiting, (log_time, following.offset, position, length, following))
                following = next(closed, None)
                continue
            log_time, _, position, length, piece = heapq.heappop(waiting)
            content = self._content(piece)[position : position + length]
            yield self._named[_MESSAGE_FIELDS.unpack_from(content)[0]], log_time, content[_MESSAGE_FIELDS.size :]

    # Opening.

    def _open(self) -> None:
        size = self._file.seek(0, 2)
        self._file.seek(0)
        if self._file.read(len(MAGIC)) != MAGIC:
            raise BagError(f"{self._path.name} is no MCAP file: it does not begin like one")
        sound_to = self._walk(size)
        if sound_to is None:
            size = self._end(size)
        summary = self._read_summary(size)
        if not self._has_footer(size):
            self._report(f"it is cut short after {size} bytes: its end is missing")
        elif sound_to is not None:
            self._report(f"it is damaged at byte {sound_to}")
        self._add_indexed_chunks(summary, size)
        self._pieces.sort()
        if summary is not None:
            for record in summary:
                self._note(record)
        complete = summary is not None and self._statistics is not None and self._channels_are_complete()
        counted: Counter[int] = Counter()
        if complete:
            counted.update(self._statistics.channel_message_counts)
            self.start_ns, self.end_ns = self._statistics.message_start_time, self._statistics.message_end_time
        else:
            first, last = None, 0
            for piece in self._pieces:
                for log_time, _, _, channel_id in self._places(piece):
                    counted[channel_id] += 1
                    first, last = min(log_time, log_time if first is None else first), max(log_time, last)
            self.start_ns, self.end_ns = first or 0, last
            if self._statistics is not None:
                counted |= Counter(self._statistics.channel_message_counts)
        self.counts = {}
        for channel_id in self._channels:
            channel = self._named[channel_id]
            self.counts[channel] = self.counts.get(channel, 0) + counted.get(channel_id, 0)
        lost = sum(count for channel_id, count in counted.items() if channel_id not in self._channels)
        if lost:
            self._report(f"{plural(lost, 'message')} of channels that it does not describe")

    def _walk(self, size: int) -> int | None:
        """Find chunks and messages; where the sound part ends, or ``None`` where all of it is sound."""
        offset = len(MAGIC)
        while True:
            self._file.seek(offset)
            prefix = self._file.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size:
                return offset
            kind, length = _PREFIX.unpack(prefix)
            start = offset + _PREFIX.size
            if start + length > size:
                if kind == _CHUNK and start + 8 <= size:
                    (first,) = struct.unpack("<Q", self._file.read(8))
                    self._pieces.append(_Piece(first, start, size - start, True, True))
                return offset
            if kind in (_DATA_END, _FOOTER):
                self._data_end = offset
                return None
            if kind == 0:
                return offset
            if kind == _CHUNK and length >= 8:
                (first,) = struct.unpack("<Q", self._file.read(8))
                self._pieces.append(_Piece(first, start, length, True))
            elif kind == _MESSAGE and length >= _MESSAGE_FIELDS.size:
                log_time = _MESSAGE_FIELDS.unpack(self._file.read(_MESSAGE_FIELDS.size))[2]
                self._pieces.append(_Piece(log_time, start, length, False))
            elif kind in (_SCHEMA, _CHANNEL):
                record = self._parsed(kind, self._file.read(length))
                if record is None:
                    return offset
                self._note(record)
            offset = start + length

    def _end(self, size: int) -> int:
        """Return where the file ends by its own account, behind its footer, and tell of what follows there."""
        offset = self._data_end
        while offset + _FOOTER_BYTES + len(MAGIC) <= size:
            self._file.seek(offset)
            kind, length = _PREFIX.unpack(self._file.read(_PREFIX.size))
            offset += _PREFIX.size + length
            if kind == _FOOTER and length == _FOOTER_BYTES - _PREFIX.size:
                self._file.seek(offset + len(MAGIC))
                # Zeros are room that was set aside; anything else may be another recording.
                if self._file.read(_CACHE_BYTES).strip(b"\0"):
                    rest = size - offset - len(MAGIC)
                    self._report(f"{plural(rest, 'byte')} follow its end and are not read (two files put together?)")
                return offset + len(MAGIC)
        return size

    def _has_footer(self, size: int) -> bool:
        if size < len(MAGIC) * 2 + _FOOTER_BYTES:
            return False
        self._file.seek(size - len(MAGIC) - _FOOTER_BYTES)
        data = self._file.read(_FOOTER_BYTES + len(MAGIC))
        return data[0] == _FOOTER and data.endswith(MAGIC)

    def _read_summary(self, size: int) -> list[Any] | None:
        """Read the records of the summary section, or ``None`` where there is none or it cannot be trusted."""
        if not self._has_footer(size):
            return None
        self._file.seek(size - len(MAGIC) - 20)
        footer = self._records.Footer.read(self._data_stream(BytesIO(self._file.read(20))))
        if footer.summary_start == 0:
            return None
        try:
            if not len(MAGIC) <= footer.summary_start <= size - len(MAGIC) - _FOOTER_BYTES:
                raise ValueError("it is outside of the file")
            self._file.seek(footer.summary_start)
            data = self._file.read(size - footer.summary_start)
            if footer.summary_crc and zlib.crc32(data[: -len(MAGIC) - 4]) != footer.summary_crc:
                raise ValueError("its checksum does not fit")
            return list(self._streams.StreamReader(BytesIO(data), skip_magic=True, emit_chunks=True).records)
        except Exception:  # noqa: BLE001 - whatever the library raises for bytes that are not as they should be
            self._report("its summary is damaged and not used")
            return None

    def _add_indexed_chunks(self, summary: list[Any] | None, size: int) -> None:
        """Add chunks behind a damaged place, which only the summary finds."""
        found = {piece.offset for piece in self._pieces if piece.is_chunk and not piece.is_cut}
        added: dict[int, _Piece] = {}
        for record in summary or []:
            if not isinstance(record, self._records.ChunkIndex):
                continue
            if record.chunk_start_offset + _PREFIX.size in found:
                continue
            self._file.seek(min(record.chunk_start_offset, size))
            prefix = self._file.read(_PREFIX.size)
            start = record.chunk_start_offset + _PREFIX.size
            length = record.chunk_length - _PREFIX.size
            if prefix == _PREFIX.pack(_CHUNK, max(length, 0)) and start + length <= size:
                added[start] = _Piece(record.message_start_time, start, length, True)
        if added:
            self._pieces = [*(p for p in self._pieces if p.offset not in added), *added.values()]

    def _channels_are_complete(self) -> bool:
        counts = self._statistics.channel_message_counts
        return (
            all(channel_id in self._channels for channel_id in counts)
            and sum(counts.values()) == self._statistics.message_count
            and (self._statistics.message_count > 0 or not self._pieces)
        )

    def _parsed(self, kind: int, content: bytes) -> Any:
        """Return a schema or channel, or ``None`` where it is damaged."""
        record = self._records.Schema if kind == _SCHEMA else self._records.Channel
        try:
            return record.read(self._data_stream(BytesIO(content)))
        except Exception:  # noqa: BLE001 - whatever the library raises for bytes that are not as they should be
            return None

    def _note(self, record: Any) -> None:
        if isinstance(record, self._records.Schema):
            self._schemas.setdefault(record.id, record)
        elif isinstance(record, self._records.Statistics):
            self._statistics = record
        elif isinstance(record, self._records.Channel):
            self._channels.setdefault(record.id, record)
        else:
            return
        self._names = None

    @property
    def _named(self) -> dict[int, Channel]:
        # Made when it is asked for, not with each record: a schema may come after its channel where only the summary
        # has it, and files may have thousands of both.
        if self._names is None:
            self._names = {number: self._channel_of(channel) for number, channel in self._channels.items()}
        return self._names

    def _channel_of(self, channel: Any) -> Channel:
        schema = self._schemas.get(channel.schema_id) if channel.schema_id else None
        if schema is None:
            return Channel(channel.topic, "", channel.message_encoding)
        is_ros = channel.message_encoding in ("cdr", "ros1")
        text = schema.data.decode("utf-8", errors="replace") if is_ros else ""
        name = ros_type(schema.name) if is_ros else schema.name
        return Channel(channel.topic, name, channel.message_encoding, schema.encoding, text)

    # Reading.

    def _places(self, piece: _Piece) -> Iterator[tuple[int, int, int, int]]:
        """Yield (log time, position, length, channel) of each message of a piece; position and length within its
        content.
        """
        if not piece.is_chunk:
            channel_id, _, log_time, _ = _MESSAGE_FIELDS.unpack_from(self._content(piece))
            self._require_channel(channel_id)
            yield log_time, 0, piece.length, channel_id
            return
        try:
            content = self._content(piece)
        except _ChunkError as error:
            self._spoil(piece, str(error))
            return
        offset = 0
        while offset + _PREFIX.size <= len(content):
            kind, length = _PREFIX.unpack_from(content, offset)
            start = offset + _PREFIX.size
            if start + length > len(content):
                if not piece.is_cut:
                    self._spoil(piece, "is damaged: a record goes beyond its end")
                return
            if kind == _MESSAGE and length >= _MESSAGE_FIELDS.size:
                channel_id, _, log_time, _ = _MESSAGE_FIELDS.unpack_from(content, start)
                self._require_channel(channel_id)
                yield log_time, start, length, channel_id
            elif kind in (_SCHEMA, _CHANNEL):
                record = self._parsed(kind, bytes(content[start : start + length]))
                if record is not None and record.id not in (self._schemas if kind == _SCHEMA else self._channels):
                    self._note(record)
            offset = start + length

    def _require_channel(self, channel_id: int) -> None:
        if channel_id not in self._channels:
            self._report(f"it has messages of channel {channel_id}, which it does not describe; they are left out")

    def _spoil(self, piece: _Piece, reason: str) -> None:
        self._report(f"the chunk at byte {piece.offset} {reason}; its messages are left out")

    def _content(self, piece: _Piece) -> memoryview:
        """Return the message, or the chunk's records, decompressed.

        Raises:
            _ChunkError: the chunk cannot be decompressed, or does not fit its checksum.
            BagError: it is compressed in a way that is not known.
        """
        if piece.offset in self._cache:
            self._cache.move_to_end(piece.offset)
            return self._cache[piece.offset]
        self._file.seek(piece.offset)
        data = self._file.read(piece.length)
        content = memoryview(self._unpacked(data, piece) if piece.is_chunk else data)
        if piece.is_chunk:
            self._cache[piece.offset] = content
            while len(self._cache) > 1 and sum(map(len, self._cache.values())) > _CACHE_BYTES:
                self._cache.popitem(last=False)
        return content

    def _unpacked(self, data: bytes, piece: _Piece) -> bytes:
        try:
            chunk = self._records.Chunk.read(self._data_stream(BytesIO(data)))
        except Exception as error:
            raise _ChunkError("is damaged: its header cannot be read") from error
        if chunk.compression not in _COMPRESSIONS:
            raise _ChunkError(f"is compressed as {chunk.compression[:20]!r}, which is not known here")
        if piece.is_cut:
            return _beginning(chunk)
        if chunk.uncompressed_size > _MAX_CHUNK_BYTES:
            raise _ChunkError(f"is damaged: it would unpack to {chunk.uncompressed_size} bytes")
        try:
            if chunk.compression == "zstd":
                # -1 where the frame does not state its size.
                stated = import_for_bags("zstandard").frame_content_size(chunk.data)
                if stated not in (-1, chunk.uncompressed_size):
                    raise _ChunkError("is damaged: its size is not the one it states")
            stream, length = self._streams.get_chunk_data_stream(chunk, validate_crc=True)
        except _ChunkError:
            raise
        except self._streams.CRCValidationError as error:
            raise _ChunkError("is damaged: its checksum does not fit") from error
        except Exception as error:
            raise _ChunkError("is damaged: it cannot be decompressed") from error
        if length != chunk.uncompressed_size:
            raise _ChunkError("is damaged: its size is not the one it states")
        return stream.read(length)


def _beginning(chunk: Any) -> bytes:
    """Return what can be unpacked of a chunk that is cut short."""
    try:
        if chunk.compression == "zstd":
            return import_for_bags("zstandard").ZstdDecompressor().decompressobj().decompress(chunk.data)
        if chunk.compression == "lz4":
            return import_for_bags("lz4.frame").LZ4FrameDecompressor().decompress(chunk.data)
    except Exception as error:
        raise _ChunkError("is damaged: it cannot be decompressed") from error
    return chunk.data
