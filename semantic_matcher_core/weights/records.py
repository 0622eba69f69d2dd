"""Small JSON files in the cache that remember decisions: hashes seen, licences accepted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.io.atomic import atomic_output
from semantic_matcher_core.io.locks import locked


def read_record(path: Path) -> dict[str, Any]:
    """Return the record's content; an empty one where the file does not exist.

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
    with locked(path.with_suffix(".lock"), f"{path} is being written by another process"):
        record = {k: v for k, v in {**read_record(path), **lines}.items() if v is not None}
        with atomic_output(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(record, indent=2, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
