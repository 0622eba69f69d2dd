"""Writing MCAP files: definitions embedded, so that they open in Foxglove and play with ``ros2 bag play``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semantic_matcher_core.errors import BagError, OutputError
from semantic_matcher_core.io.atomic import check_output, output_error, remove, temporary_name
from semantic_matcher_core.io.messages import import_rosbags, typestore


class McapWriter:
    """One ``.mcap`` file, compressed with zstd; it appears under its name when closed, not at all after an error.

    Its bytes depend on its name, the messages and their order alone. To be used in a ``with`` block, or with
    :meth:`open` and :meth:`close` (:meth:`abort` gives up).

    Args:
        path: file name, ending in ``.mcap``; a file of that name is replaced when the new one is complete.
        definitions: definition text of further message types by full name, e.g. of packages that only this bag has.

    Raises:
        OutputError: the name does not end in ``.mcap``, or the folder is missing or not writable.
    """

    def __init__(self, path: str | Path, *, definitions: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        if self.path.suffix != ".mcap":
            raise OutputError(f"cannot write {path}: the name of an MCAP file must end in .mcap")
        check_output(self.path)
        self._store = _typestore_with(definitions) if definitions else typestore()
        self._connections: dict[tuple[str, str], Any] = {}
        self._writer: Any = None
        # rosbags makes a bag folder; the one file in it is a whole bag, and carries the metadata as a record.
        self._work = temporary_name(self.path)
        self._bag = self._work / self.path.stem

    def open(self) -> McapWriter:
        """Begin the file; the ``with`` statement does it."""
        if self._writer is not None:
            raise OutputError(f"{self.path} is being written already")
        rosbag2 = import_rosbags("rosbag2")
        self._connections = {}
        try:
            remove(self._work)
            self._work.mkdir()
            writer = rosbag2.Writer(self._bag, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP)
            writer.set_compression(rosbag2.CompressionMode.STORAGE, rosbag2.CompressionFormat.ZSTD)
            writer.open()
        except OSError as error:
            self.abort()
            raise output_error(self.path, error) from error
        self._writer = writer
        return self

    def write(self, topic: str, message: Any, stamp_ns: int) -> None:
        """Append a message.

        Args:
            topic: full topic name.
            message: of the type store in :mod:`semantic_matcher_core.io.messages`, or one that rosbags read.
            stamp_ns: time of recording in nanoseconds since the epoch, by which players order messages.

        Raises:
            BagError: the message's type is not known.
            OutputError: the disk is full, or the file is not open.
        """
        msgtype = getattr(message, "__msgtype__", None)
        if msgtype is None:
            raise BagError(
                f"cannot write a {type(message).__name__} to {topic}: it is not a message of rosbags; "
                "serialize it and use write_serialized"
            )
        connection = self._connection(topic, msgtype)
        self._append(connection, stamp_ns, self._store.serialize_cdr(message, msgtype))

    def write_serialized(self, topic: str, msgtype: str, data: bytes | memoryview, stamp_ns: int) -> None:
        """Append a message in CDR, as a raw subscription receives it; ``msgtype`` in the form ``pkg/msg/Name``."""
        self._append(self._connection(topic, msgtype), stamp_ns, data)

    def close(self) -> None:
        """Finish the file and give it its name; without effect when it is closed already.

        Raises:
            OutputError: the disk is full or the place became unwritable; nothing is left.
        """
        if self._writer is None:
            return
        try:
            self._writer.close()
            os.replace(self._bag / f"{self._bag.name}.mcap", self.path)
        except OSError as error:
            raise output_error(self.path, error) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Give up: nothing is left of the file. Without effect when it is closed already."""
        if self._writer is not None:
            # On a full disk closing tries to write what is buffered, and fails again.
            with contextlib.suppress(OSError):
                self._writer.abort()
            self._writer = None
        remove(self._work)

    def __enter__(self) -> McapWriter:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _connection(self, topic: str, msgtype: str) -> Any:
        if self._writer is None:
            raise OutputError(f"{self.path} is not open for writing")
        connection = self._connections.get((topic, msgtype))
        if connection is None:
            if msgtype not in self._store.fielddefs:
                raise BagError(
                    f"cannot write {topic}: message type {msgtype} is not known; pass its definition to McapWriter"
                )
            connection = self._writer.add_connection(topic, msgtype, typestore=self._store)
            self._connections[(topic, msgtype)] = connection
        return connection

    def _append(self, connection: Any, stamp_ns: int, data: bytes | memoryview) -> None:
        try:
            self._writer.write(connection, stamp_ns, data)
        except OSError as error:
            raise output_error(self.path, error) from error


def _typestore_with(definitions: Mapping[str, str]) -> Any:
    typesys = import_rosbags("typesys")
    store = typesys.get_typestore(typesys.Stores.EMPTY)
    store.register(typestore().fielddefs)
    for name, text in definitions.items():
        store.register(typesys.get_types_from_msg(text, name))
    return store
