"""Reading rosbag2's sqlite3 files, and what is left of those that are cut short or damaged in places.

Tables: rosbag2_storage_sqlite3, schema versions 1 to 4; definitions of messages are there from version 4 on.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from semantic_matcher_core.errors import BagError
from semantic_matcher_core.io.bag_part import Channel, Part, Report, plural

MAGIC = b"SQLite format 3\0"
# Rows that cannot be read one after the other, from which on nothing more is expected: a page holds some hundred.
_MOST_MISSES = 2000


class SqlitePart(Part):
    """One sqlite3 file.

    Args:
        path: the file; one with a write-ahead log beside it (the recorder did not finish) is read with it.
        scratch: a folder for a copy of such a one, because reading it would change it.
        report: is told what is missing.

    Raises:
        BagError: the file is no recording, or nothing of it can be read.
    """

    def __init__(self, path: Path, scratch: Path, report: Report) -> None:
        self._path = path
        self._report = report
        # (time, id, topic) of each message, where the file's own order is not to be had.
        self._rest: list[tuple[int, int, int]] | None = None
        missing = _missing_bytes(path)
        log = path.with_name(f"{path.name}-wal")
        if log.is_file() and log.stat().st_size:
            copied = scratch / path.name
            shutil.copyfile(path, copied)
            shutil.copyfile(log, scratch / log.name)
            self._database = sqlite3.connect(copied)
        else:
            # Immutable: nothing is written beside a file that may lie in a read-only place.
            self._database = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)
        self._database.text_factory = lambda text: text.decode("utf-8", errors="replace")
        if missing:
            # Otherwise sqlite refuses a file that is shorter than its header says.
            self._database.execute("PRAGMA writable_schema = ON")
        try:
            self._open(missing)
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._database.close()
            if missing:
                raise self._unreadable(f"cut short: {plural(missing, 'byte')} of it are missing") from error
            if isinstance(error, BagError):
                raise
            raise self._unreadable(f"damaged ({error})") from error
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        self._database.close()

    def messages(self, topics: Collection[str]) -> Iterator[tuple[Channel, int, Any]]:
        wanted = {number: channel for number, channel in self._channels.items() if channel.topic in topics}
        for number, stamp, data in self._rows(wanted):
            yield wanted[number], stamp, data

    def _rows(self, wanted: Collection[int]) -> Iterator[tuple[int, int, bytes]]:
        """Yield (topic, time, data) of some topics in order of time."""
        last = (-1, -1)
        if self._rest is None:
            marks = ",".join("?" * len(wanted))
            query = f"SELECT timestamp, id, topic_id, data FROM messages WHERE topic_id IN ({marks})"
            try:
                for stamp, row, number, data in self._database.execute(f"{query} ORDER BY 1, 2", tuple(wanted)):
                    last = int(stamp), row
                    yield number, int(stamp), data if isinstance(data, bytes) else b""
                return
            except (sqlite3.Error, ValueError, TypeError):
                self._rest = self._walk()
        for stamp, row, number in self._rest:
            if number not in wanted or (stamp, row) <= last:
                continue
            try:
                ((data,),) = self._database.execute("SELECT data FROM messages WHERE id = ?", (row,))
            except (sqlite3.Error, ValueError):
                continue  # counted as one that cannot be read
            yield number, stamp, data if isinstance(data, bytes) else b""

    def _walk(self) -> list[tuple[int, int, int]]:
        """Return (time, id, topic) of the messages that can be reached, in order of time."""
        found, following, misses = [], 1, 0
        while misses < _MOST_MISSES:
            try:
                rows = self._database.execute(
                    "SELECT id, timestamp, topic_id FROM messages WHERE id >= ? ORDER BY id", (following,)
                )
                for row, stamp, number in rows:
                    found.append((int(stamp), row, number))
                    following, misses = row + 1, 0
                break
            except (sqlite3.Error, ValueError, TypeError):
                following, misses = following + 1, misses + 1
        return sorted(found)

    def _open(self, missing: int) -> None:
        tables = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"topics", "messages"} <= tables:
            raise BagError(
                f"{self._path.name} is a sqlite3 file, but no recording: it has no table of topics and messages"
            )
        definitions: dict[str, tuple[str, str]] = {}
        if "message_definitions" in tables:
            definitions = {
                str(name): (str(encoding), str(text))
                for name, encoding, text in self._database.execute(
                    "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
                )
            }
        self._channels = {
            number: Channel(str(name), str(kind), str(encoding), *definitions.get(str(kind), ("", "")))
            for number, name, kind, encoding in self._database.execute(
                "SELECT id, name, type, serialization_format FROM topics ORDER BY id"
            )
        }
        counts, (first, last) = self._counts(missing)
        self.counts = {}
        for number, channel in self._channels.items():
            self.counts[channel] = self.counts.get(channel, 0) + counts.get(number, 0)
        lost = sum(count for number, count in counts.items() if number not in self._channels)
        if lost:
            self._report(f"{self._path.name} has {plural(lost, 'message')} of topics that it does not describe")
        self.start_ns, self.end_ns = int(first or 0), int(last or 0)

    def _counts(self, missing: int) -> tuple[dict[int, int], tuple[Any, Any]]:
        """Return the number of messages by topic, and the first and last time."""
        try:
            if not missing:
                counts = dict(self._database.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
                return counts, next(self._database.execute("SELECT MIN(timestamp), MAX(timestamp) FROM messages"))
            why = f"is cut short: {plural(missing, 'byte')} of it are missing"
        except sqlite3.Error as error:
            why = f"is damaged ({error})"
        self._report(f"{self._path.name} {why}; what is whole in it is read")
        self._rest = self._walk()
        times = [stamp for stamp, _, _ in self._rest] or [0]
        return Counter(number for _, _, number in self._rest), (times[0], times[-1])

    def _unreadable(self, what: str) -> BagError:
        name = self._path.name
        return BagError(f"{name} is {what}; `sqlite3 {name} .recover` may save what is left")


def _missing_bytes(path: Path) -> int:
    """Return how many bytes a file lacks of what its header says."""
    # sqlite reads a file that lacks its last pages without complaint, as far as the pages go.
    if path.with_name(f"{path.name}-wal").exists():
        return 0
    with path.open("rb") as file:
        header = file.read(100)
    size = path.stat().st_size
    if len(header) < 100:
        raise BagError(f"{path.name} is cut short: it has {size} bytes")
    # https://www.sqlite.org/fileformat2.html#the_database_header: page size, size in pages, change counters.
    page_size = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big") if header[24:28] == header[92:96] else 0
    return max(0, pages * (65536 if page_size == 1 else page_size) - size)
