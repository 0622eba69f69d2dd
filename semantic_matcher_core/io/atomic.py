"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from semantic_matcher_core.errors import OutputError


@contextlib.contextmanager
def atomic_output(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; what the block leaves there gets the final name when the block ends well.

    The temporary name keeps the suffix, because many writers choose their format by it. The block may write a file
    or make a folder; an existing *file* at ``path`` is replaced. After an error nothing is left of either.

    Raises:
        OutputError: the folder is missing, is not writable, or the disk is full; other errors of the block pass.
    """
    path = Path(path)
    check_output(path)
    temporary = temporary_name(path)
    remove(temporary)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # What the block reads may fail as well; the error names it then.
        elsewhere = error.filename is not None and not Path(str(error.filename)).is_relative_to(temporary)
        if isinstance(error, OutputError) or elsewhere or not is_write_failure(error):
            raise
        raise output_error(path, error) from error
    except Exception as error:
        # What torch and safetensors make of a full disk; neither says which error of the system it was.
        if not any(words in str(error) for words in _FAILED_WRITERS):
            raise
        raise OutputError(f"cannot write {path}: the disk is full, or it cannot be written to ({error})") from error
    finally:
        remove(temporary)


_FAILED_WRITERS = ("inline_container.cc", "PytorchStreamWriter", "Error while serializing: I/O error")


def temporary_name(path: Path) -> Path:
    """Return what the file beside ``path`` is called that becomes it; no longer than names may be, if ``path`` is."""
    return path.with_name(f".{path.stem[:40]}.{os.getpid()}.part{path.suffix}")


def check_output(path: Path, inputs: Iterable[Path | None] = ()) -> None:
    """Fail early, before the work, where ``path`` can never be written, or would replace what the work reads.

    Args:
        path: the file to be written.
        inputs: files that are read, and other outputs; ``None`` for one that was not given.

    Raises:
        OutputError: the folder of ``path`` does not exist or is not writable, or ``path`` is a folder, or one of
            ``inputs``, by whatever name.
    """
    folder = path.parent
    for other in inputs:
        if other is not None and is_same_file(path, other):
            raise OutputError(
                f"cannot write {path}: it would replace {other}, which is read or written too; give another name"
            )
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: folder {folder} does not exist; create it first")
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; give a file name")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: no permission to write in {folder}")


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it; one that is there is taken as it is.

    Raises:
        OutputError: it cannot be made: a file is in the way, or there is no permission or room.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise OutputError(f"cannot make the folder {path}: a file is there; give another name") from None
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror or error}") from error
    return path


def is_same_file(path: Path, other: Path) -> bool:
    """Return whether two paths name one file, also by links, or would, where it is not there yet."""
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):
        return os.path.realpath(path) == os.path.realpath(other)


_WRITE_FAILURES = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.EPERM,
    errno.EROFS,
}


def is_write_failure(error: OSError) -> bool:
    """Return whether ``error`` tells of the place written to (and not, say, of a broken pipe or a network)."""
    return error.errno in _WRITE_FAILURES


def output_error(path: Path, error: OSError) -> OutputError:
    """Return one sentence for a failed write, with what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"cannot write {path}: the disk is full; free some space or write elsewhere")
    return OutputError(f"cannot write {path}: {error.strerror or error}")


def remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
