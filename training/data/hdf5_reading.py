"""Whole data sets out of HDF5 files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from training.errors import DataError


class GroupReader:
    """Reads data sets of an HDF5 file. Opened on first use, so that it may be handed to worker processes.

    Args:
        path: the file.
        remedy: what an error adds where the file cannot be opened.
    """

    def __init__(self, path: str | Path, remedy: str = "") -> None:
        self.path = Path(path)
        self._remedy = remedy
        self._file: h5py.File | None = None
        # Looking a group up takes as long as reading a small value.
        self._groups: dict[str, h5py.Group] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_groups": {}}

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        if self._file is not None:
            self._file.close()
            self._file, self._groups = None, {}

    def opened(self) -> h5py.File:
        """Open the file once more.

        Raises:
            DataError: it is missing, damaged or no HDF5 file.
        """
        try:
            return h5py.File(self.path, "r")
        except FileNotFoundError as error:
            raise DataError(f"{self.path} is missing{self._remedy}") from error
        except OSError as error:
            raise DataError(f"{self.path} is damaged or no HDF5 file: {error}{self._remedy}") from error

    @contextmanager
    def looked_into(self) -> Iterator[h5py.File]:
        """Open the file for a block, in which what is damaged becomes one error.

        Raises:
            DataError: it is missing or damaged.
        """
        with self.opened() as file:
            try:
                yield file
            except (RuntimeError, KeyError, OSError, TypeError) as error:  # what h5py raises, as the damage has it
                raise DataError(f"{self.path} is damaged: {error}{self._remedy}") from error

    def read(self, group: str, name: str) -> np.ndarray:
        """Return all values of a data set.

        Raises:
            DataError: there is no such data set, or it cannot be read.
        """
        if self._file is None:
            self._file = self.opened()
        try:
            if group not in self._groups:
                self._groups[group] = self._file[group]
            return read_array(self._groups[group], name)
        except (KeyError, OSError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{self.path}: cannot read {group}/{name}: {error}") from error


def read_array(group: h5py.Group, name: str) -> np.ndarray:
    """Return all values of a data set.

    By h5py's lower level: what ``group[name][...]`` builds around a read takes longer than the read of a small one.

    Raises:
        KeyError: there is no such data set.
        OSError: it cannot be read.
    """
    dataset = h5py.h5d.open(group.id, name.encode())
    values = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values
