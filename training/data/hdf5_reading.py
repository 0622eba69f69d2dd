"""Whole data sets out of open HDF5 groups."""

from __future__ import annotations

import h5py
import numpy as np


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
