"""HDF5 files that appear whole or not at all, also when the disk fills up."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
from typing_extensions import Self

from semantic_matcher_core.errors import OutputError
from semantic_matcher_core.io.atomic import atomic_output, check_output, output_error


class Hdf5Writer:
    """An HDF5 file being written; it appears under its name when closed, not at all after an error.

    To be used in a ``with`` block.

    Args:
        path: file name, usually ending in ``.h5``; a file of that name is replaced when the new one is complete.
        attributes: of the file.

    Raises:
        OutputError: the folder is missing or not writable.
    """

    def __init__(self, path: str | Path, **attributes: Any) -> None:
        self.path = Path(path)
        check_output(self.path)
        self._attributes = attributes
        self._file: h5py.File | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic_output(self.path))
            stack.push(self._check_at_end)
            self._disk = stack.enter_context(_ErrorKeepingFile(temporary.open("w+b", buffering=0)))
            self._file = stack.enter_context(h5py.File(self._disk, "w"))
            self._file.attrs.update(self._attributes)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file = None
        self._stack.__exit__(*error)

    @contextlib.contextmanager
    def writing(self) -> Iterator[h5py.File]:
        """Give the file; a failed write in the block becomes an error at its end.

        Raises:
            OutputError: the disk is full, or the file is not open.
        """
        if self._file is None:
            raise OutputError(f"{self.path} is not open for writing")
        yield self._file
        self._check()

    def _check(self) -> None:
        if self._disk.error is not None:
            raise output_error(self.path, self._disk.error) from self._disk.error

    def _check_at_end(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._check()


class _ErrorKeepingFile(io.RawIOBase):
    """A file that keeps its first write error instead of raising it.

    HDF5 does not survive a write that fails: it reports the failure again for every object it closes, and crashes
    when the interpreter ends. So it is told that all went well, and the writer asks for the error afterwards.
    """

    def __init__(self, file: io.FileIO) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._file = file

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view) or 0
        # Past the end, after a failed write: zeros, so that HDF5 gets the amount it asked for.
        view[count:] = bytes(len(view) - count)
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while self.error is None and written < len(view):
                written += self._file.write(view[written:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return self._file.tell() if size is None else size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.error = self.error or error
        super().close()
