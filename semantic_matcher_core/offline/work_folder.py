"""What a run has done so far, kept beside its output, so that a run that was cut off goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from semantic_matcher_core.errors import OutputError
from semantic_matcher_core.io.atomic import atomic_output, check_output, output_error, remove
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.locks import locked
from semantic_matcher_core.io.mcap import McapWriter

_STATE = "state.json"
_LOCK = ".lock"


class WorkFolder:
    """The finished parts of a run and where it stands, in a folder ``<output>.partial``; for a ``with`` block.

    Messages are collected in a part, an MCAP file that is either complete or absent. When a part is complete, the state
    that belongs to it is written. A run that is killed loses at most the part in work; at the end the parts become the
    output, whose bytes do not depend on where one part ended and the next began.

    Args:
        output: the final ``.mcap``.
        key: what identifies the run; parts of a run with another key are thrown away.

    Attributes:
        state: what the last complete part left, or ``None`` at the start of a run.
        restarted: parts of another run were thrown away.

    Raises:
        OutputError: the folder of ``output`` is missing or not writable, or another process writes the same output.
    """

    def __init__(self, output: Path, key: dict[str, Any]) -> None:
        check_output(output)
        self.output = output
        self.folder = output.with_name(f"{output.name}.partial")
        self.state: Any = None
        self.restarted = False
        self._key = json.loads(json.dumps(key))
        self._parts: list[str] = []
        self._writer: McapWriter | None = None
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> WorkFolder:
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock.enter_context(locked(self.folder / _LOCK))
        except BlockingIOError as error:
            raise OutputError(f"another run is writing {self.output} (lock {self.folder / _LOCK})") from error
        except OSError as error:
            raise output_error(self.output, error) from error
        self._load()
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
        self._lock.close()

    def write(self, topic: str, message: Any, stamp_ns: int) -> None:
        """Add a message to the part in work.

        Raises:
            OutputError: the disk is full.
        """
        if self._writer is None:
            self._writer = McapWriter(self.folder / f"part-{len(self._parts):06d}.mcap").open()
        self._writer.write(topic, message, stamp_ns)

    def commit(self, state: Any) -> None:
        """Complete the part in work; ``state`` (JSON) is what a resumed run will find.

        Raises:
            OutputError: the disk is full.
        """
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()
            self._parts.append(writer.path.name)
        self.state = json.loads(json.dumps(state))
        self._save()

    def messages(self) -> Iterator[tuple[str, str, int, bytes]]:
        """Yield (topic, msgtype, time, CDR data) of all complete parts, in the order they were written."""
        for part in self._parts:
            with BagReader(self.folder / part) as reader:
                yield from reader.serialized([topic.name for topic in reader.topics])

    def assemble(self, wanted: Callable[[str], bool]) -> None:
        """Put the parts together, still within the folder.

        Args:
            wanted: whether messages of a topic belong to the output.

        Raises:
            OutputError: the disk is full; the parts stay, so that the same command goes on from them.
        """
        with McapWriter(self.folder / self.output.name) as writer:
            for topic, msgtype, stamp_ns, data in self.messages():
                if wanted(topic):
                    writer.write_serialized(topic, msgtype, data, stamp_ns)

    def publish(self) -> None:
        """Give the assembled file its final name, and remove the folder.

        Raises:
            OutputError: the place became unwritable; the parts stay.
        """
        try:
            os.replace(self.folder / self.output.name, self.output)
        except OSError as error:
            raise output_error(self.output, error) from error
        remove(self.folder)

    def _load(self) -> None:
        path = self.folder / _STATE
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            saved = {"key": self._key, "parts": [], "state": None}
        except ValueError:
            saved = {}
        # Written whole or not at all, so anything else is of another version or another run.
        if saved.get("key") == self._key and all((self.folder / part).is_file() for part in saved["parts"]):
            self._parts, self.state = saved["parts"], saved["state"]
        else:
            self.restarted = True
        keep = {_LOCK, _STATE, *self._parts} if self._parts or self.state is not None else {_LOCK}
        for entry in self.folder.iterdir():
            if entry.name not in keep:
                remove(entry)

    def _save(self) -> None:
        content = {"key": self._key, "parts": self._parts, "state": self.state}
        with atomic_output(self.folder / _STATE) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
