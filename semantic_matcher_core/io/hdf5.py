"""HDF5 files that appear whole or not at all, also when the disk fills up."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from semantic_matcher_core.io.atomic import check_output, output_error, remove


class Hdf5Output:
    """An HDF5 file being written beside its final name.

    Attributes:
        file: the open file; write to it inside :meth:`writing`.

    Raises:
        OutputError: the folder is missing or not writable.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_output(self.path)
        self._temporary = self.path.with_name(f".{self.path.stem}.{os.getpid()}.part{self.path.suffix}")
        try:
            self._disk = _ErrorKeepingFile(self._temporary)
        except OSError as error:
            raise output_error(self.path, error) from error
        self.file = h5py.File(self._disk, "w")

    @contextlib.contextmanager
    def writing(self) -> Iterator[h5py.File]:
        """Give the file; a failed write in the block becomes an error at its end.

        Raises:
            OutputError: the disk is full.
        """
        yield self.file
        self._check()

    def end(self, error: BaseException | None) -> None:
        """End a ``with`` block: commit, or discard what an error left."""
        if error is None:
            self.commit()
        else:
            self.discard()

    def commit(self) -> None:
        """Finish the file and give it its name.

        Raises:
            OutputError: the disk is full; nothing is left.
        """
        try:
            self.file.close()
            self._disk.close()
            self._check()
            self._temporary.replace(self.path)
        except OSError as error:
            raise output_error(self.path, error) from error
        finally:
            remove(self._temporary)

    def discard(self) -> None:
        """Leave nothing."""
        self.file.close()
        self._disk.close()
        remove(self._temporary)

    def _check(self) -> None:
        if self._disk.error is not None:
            raise output_error(self.path, self._disk.error) from self._disk.error


class _ErrorKeepingFile(io.RawIOBase):
    """A file that keeps its first write error instead of raising it.

    HDF5 does not survive a write that fails: it reports the failure again for every object it closes, and crashes
    when the interpreter ends. So it is told that all went well, and whoever writes asks for the error afterwards.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._file = path.open("w+b", buffering=0)

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
