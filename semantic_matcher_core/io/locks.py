"""Locks between processes, which end with the process that holds them, however that ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semantic_matcher_core.io.notices import say_once

_log = logging.getLogger(__name__)
# What file systems without locks say: Lustre's and NFS's, as they are often mounted.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold a lock for the time of a block.

    Where the file system has none, the block runs all the same, and the log says so: waiting for it would have no end.

    Args:
        path: a file that stands for it, made where it is not there; it stays.
        waiting: what the log says where another process holds it, which is then waited for; without, that is an error.

    Raises:
        BlockingIOError: another process holds it, and ``waiting`` is empty.
        OSError: the file cannot be made.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(file, path, waiting)
            # Whoever held it may have removed the file; the lock of one without a name keeps nobody out.
            if os.fstat(file).st_nlink:
                yield
                return
        finally:
            os.close(file)


def _take(file: int, path: Path, waiting: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not waiting:
            raise
        _log.warning("%s; waiting for it (lock %s)", waiting, path)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        say_once(f"the file system of {path.parent} has no locks: do not write there with two processes at once")
