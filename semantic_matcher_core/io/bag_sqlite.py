"""Reading rosbag2's sqlite3 files.

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


class SqlitePart(Part):
    """One sqlite3 file.

    Args:
        path: the file; one with a write-ahead log beside it (the recorder did not finish) is read with it.
        scratch: a folder for a copy of such a one, because reading it would change it.
        report: is told what is missing.

    Raises:
        BagError: the file is cut short, damaged, or no recording.
    """

    def __init__(self, path: Path, scratch: Path, report: Report) -> None:
        self._path = path
        self._report = report
        _check_size(path)
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
        try:
            self._open()
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._database.close()
            raise self._damaged(error) from error
        except BaseException:
            self._database.close()
            raise

    def close(self) -> None:
        self._database.close()

    def messages(self, topics: Collection[str]) -> Iterator[tuple[Channel, int, Any]]:
        wanted = {number: channel for number, channel in self._channels.items() if channel.topic in topics}
        read: Counter[Channel] = Counter()
        marks = ",".join("?" * len(wanted))
        try:
            rows = self._database.execute(
                f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks}) ORDER BY timestamp, id",
                tuple(wanted),
            )
            for number, stamp, data in rows:
                read[wanted[number]] += 1
                yield wanted[number], int(stamp), data if isinstance(data, bytes) else b""
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise self._damaged(error) from error
        for channel in set(wanted.values()):
            if read[channel] < self.counts[channel]:
                self._report(
                    f"{self._path.name} counts {plural(self.counts[channel], 'message')} on {channel.topic}, "
                    f"of which {read[channel]} can be read"
                )

    def _open(self) -> None:
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
        counts = dict(self._database.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id"))
        self.counts = {}
        for number, channel in self._channels.items():
            self.counts[channel] = self.counts.get(channel, 0) + counts.get(number, 0)
        lost = sum(count for number, count in counts.items() if number not in self._channels)
        if lost:
            self._report(f"{self._path.name} has {plural(lost, 'message')} of topics that it does not describe")
        first, last = next(self._database.execute("SELECT MIN(timestamp), MAX(timestamp) FROM messages"))
        self.start_ns, self.end_ns = int(first or 0), int(last or 0)

    def _damaged(self, error: Exception) -> BagError:
        return BagError(
            f"{self._path.name} is damaged ({error}); `sqlite3 {self._path.name} .recover` may save what is left"
        )


def _check_size(path: Path) -> None:
    # sqlite reads a file that lacks its last pages without complaint, as far as the pages go.
    if path.with_name(f"{path.name}-wal").exists():
        return
    with path.open("rb") as file:
        header = file.read(100)
    size = path.stat().st_size
    if len(header) < 100:
        raise BagError(f"{path.name} is cut short: it has {size} bytes")
    # https://www.sqlite.org/fileformat2.html#the_database_header: page size, size in pages, change counters.
    page_size = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big") if header[24:28] == header[92:96] else 0
    expected = pages * (65536 if page_size == 1 else page_size)
    if size < expected:
        raise BagError(
            f"{path.name} is cut short: it has {size} of {expected} bytes; "
            f"`sqlite3 {path.name} .recover` may save what is left"
        )
