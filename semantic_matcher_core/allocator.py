"""Memory that is used again from image to image."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_REUSED = 32 << 20
_KEPT_FREE = 64 << 20


def reuse_large_blocks() -> bool:
    """Have blocks of up to 32 MB, and 64 MB of free memory at the end of the heap, stay with the process.

    By default glibc returns what an image or a message of descriptors took to the system, which has to clear the same
    pages again for the next one: 3 ms an image at 2048 x 256 descriptors, more than all else a node does beside the
    networks, and a tenth of what these take. For whoever owns the process: a node, a command.

    Returns:
        Whether it took effect; it does not where the C library is another than glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_REUSED) and mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE))
