"""Reading ``.npz`` files with object arrays without running what a pickle may hold."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from training.errors import DataError

# What object arrays of numbers, tuples and strings are made of; anything else is refused.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy._core", "numpy.core") if not _NUMPY_2 else module, name)


_NUMPY_2 = int(np.__version__.split(".")[0]) >= 2


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of an ``.npz`` file; object arrays may hold numbers, strings, tuples, lists and arrays of them.

    Raises:
        DataError: missing, damaged, or an object array asks for anything else.
    """
    content: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    content[name.removesuffix(".npy")] = _read_array(file)
    except pickle.UnpicklingError as error:
        raise DataError(f"{path} holds more than numbers and text, and is not read: {error}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is missing, damaged or no .npz file: {error}") from error
    return content


def _read_array(file: Any) -> np.ndarray:
    version = npy_format.read_magic(file)
    header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran_order, dtype = header(file)
    if dtype.hasobject:
        array: np.ndarray = _PlainUnpickler(file).load()
        return array.reshape(shape, order="F" if fortran_order else "C")
    data = np.frombuffer(file.read(), dtype=dtype)
    return data.reshape(shape, order="F" if fortran_order else "C")
