"""Small JSON files in the cache that remember decisions: hashes seen, licences accepted."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from semantic_matcher_core.errors import ConfigError


def read_record(path: Path) -> dict[str, Any]:
    """The record's content; an empty one where the file does not exist.

    Raises:
        ConfigError: the file is no JSON object.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}); delete it to start over") from error
    if not isinstance(record, dict):
        raise ConfigError(f"{path} is damaged (not a JSON object); delete it to start over")
    return record


def update_record(path: Path, lines: dict[str, Any]) -> None:
    """Add or replace lines; a value of ``None`` removes one. Safe against other processes and against being cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        record = {**read_record(path), **lines}
        write_text_atomically(
            path, json.dumps({k: v for k, v in record.items() if v is not None}, indent=2, sort_keys=True) + "\n"
        )


def write_text_atomically(path: Path, text: str) -> None:
    """Write to a temporary name in the same folder, flush to disk, and rename."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
