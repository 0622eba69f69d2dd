"""Zip archives from elsewhere: looked through before anything is written."""

from __future__ import annotations

import os
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from semantic_matcher_core.errors import CheckpointError, UnsafeArchiveError

MAX_BYTES = 8 * 2**30
MAX_MEMBERS = 10_000
# Float weights shrink by a tenth, text by ten; a member that grows more than this when unpacked is a bomb.
MAX_RATIO = 200
_RATIO_FROM_BYTES = 2**20


@contextmanager
def open_checked(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip whose members are all safe to unpack.

    Raises:
        CheckpointError: not a zip, truncated, encrypted, or its content does not match its checksums.
        UnsafeArchiveError: a member is absolute, leaves its folder, is a link or a device, appears twice, or the
            archive is out of all proportion.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(path, archive.infolist())
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is no zip archive, or is damaged or truncated: {error}") from error


def extract_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Write one file of a checked archive to ``target``, with its modification time; its checksum is verified."""
    try:
        source = archive.open(member)
    except OSError as error:  # of a place that no file has
        raise zipfile.BadZipFile(str(error)) from error
    with source, target.open("xb") as file:
        shutil.copyfileobj(source, file, 2**20)
    modified = time.mktime((*member.date_time, 0, 0, -1))
    os.utime(target, (modified, modified))


def _check(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise UnsafeArchiveError(f"{path} has {len(members)} members, more than {MAX_MEMBERS}")
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES:
        raise UnsafeArchiveError(f"{path} would unpack to {total / 1e9:.1f} GB, more than {MAX_BYTES / 1e9:.1f} GB")
    seen = set()
    for member in members:
        problem = _problem(member)
        if member.filename in seen:
            problem = "appears twice"
        if problem:
            raise UnsafeArchiveError(f"{path} is not unpacked: its member {member.orig_filename!r} {problem}")
        if member.flag_bits & 0x1:
            raise CheckpointError(f"{path} is encrypted ({member.filename!r}); unpack it yourself")
        seen.add(member.filename)


def _problem(member: zipfile.ZipInfo) -> str:
    # The name as stored: zipfile itself cuts it at a zero byte and, on Windows, changes separators.
    name = member.orig_filename
    if "\\" in name or "\0" in name or name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        return "has an absolute or malformed path"
    if ".." in PurePosixPath(name).parts:
        return "leaves its folder ('..')"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link, a device or another special file"
    if member.file_size > _RATIO_FROM_BYTES and member.file_size > MAX_RATIO * max(member.compress_size, 1):
        return f"grows more than {MAX_RATIO} times when unpacked"
    return ""
