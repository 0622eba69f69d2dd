"""How large a piece of an ``N x M`` table to work on at a time."""

from __future__ import annotations

import torch

# On a CPU a block and the few temporaries of its size stay in the cache; a GPU wants as much at once as it can hold.
_CPU_ELEMENTS = 2**18
_GPU_ELEMENTS = 2**26


def block_shape(device: torch.device, tables: int, rows: int, columns: int) -> tuple[int, int]:
    """Return how many of ``tables`` tables of ``rows x columns`` to take at a time, and how many rows of each."""
    elements = _CPU_ELEMENTS if device.type == "cpu" else _GPU_ELEMENTS
    most_rows = max(1, elements // max(columns, 1))
    if most_rows < rows:
        return 1, most_rows
    return max(1, min(tables, elements // max(rows * columns, 1))), max(rows, 1)
