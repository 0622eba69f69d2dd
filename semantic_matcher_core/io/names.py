"""File names as text: what a file system allows is more than what messages, HDF5 and terminals take."""

from __future__ import annotations

import os

HDF5_SUFFIXES = (".h5", ".hdf5")


def readable(name: str) -> str:
    """Return a file's name as text that can be written anywhere.

    A name whose bytes are no UTF-8 (from an old disk, say) is read as Latin-1. Python gives it with lone surrogates,
    which neither messages nor HDF5 take.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(name).decode("latin-1")
    return name
