"""Shared memory of Fast DDS whose process was killed: 64 MB of RAM for each node, until the machine restarts."""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path

# A segment and the lock that its process holds as long as it lives: `fastdds shm clean` goes by the same.
_LOCK = re.compile(r"fastrtps_[0-9a-f]{16}_el")
_FOLDER = Path("/dev/shm")  # noqa: S108 - where the system keeps shared memory
# A process makes the lock's file before it holds it.
_NEW_S = 10.0


def remove_orphaned_segments(folder: Path = _FOLDER) -> int:
    """Remove the segments of this user that no process holds any more.

    Args:
        folder: of shared memory.

    Returns:
        How many bytes that frees.
    """
    freed = 0
    try:
        locks = [path for path in folder.iterdir() if _LOCK.fullmatch(path.name)]
    except OSError:
        return 0  # a system without
    for lock in locks:
        try:
            freed += _remove_orphaned(lock)
        except OSError:
            continue  # another user's, held, or gone meanwhile
    return freed


def _remove_orphaned(lock: Path) -> int:
    """Remove a segment and its lock.

    Raises:
        OSError: its process lives, or it is not ours.
    """
    found = lock.stat()
    if found.st_uid != os.getuid() or time.time() - found.st_mtime < _NEW_S:
        return 0
    file = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        segment = lock.with_name(lock.name.removesuffix("_el"))
        size = segment.stat().st_size if segment.exists() else 0
        segment.unlink(missing_ok=True)
        lock.unlink()
    finally:
        os.close(file)
    return size
