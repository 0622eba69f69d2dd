"""What was done, and from what: a step is skipped while the digest of all it depends on stays the same."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tools.messages import say


def digest(*parts: object, files: Iterable[Path] = ()) -> str:
    """Return SHA-256 over ``parts`` (anything JSON can write) and over the names and contents of ``files``."""
    total = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for file in sorted(files):
        total.update(f"\0{file.name}\0{file.parent}\0".encode())
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def read_stamp(path: Path) -> dict[str, Any]:
    """Return what :func:`write_stamp` left; empty when there is none or it is damaged, so that the step runs again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_stamp(path: Path, content: dict[str, Any]) -> None:
    """Write under a temporary name and rename: a stamp is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    temporary.replace(path)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; two `make` runs in one checkout take turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another set-up in this checkout to finish ({path})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
