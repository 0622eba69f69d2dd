"""JPEG pictures: their segments, and their pixels where all of the picture is there.

libjpeg makes something of every picture, grey or wrong from a damaged place on, and tells it as a warning that OpenCV
keeps for itself. ``simplejpeg``, the same libjpeg-turbo with the same pixels, passes the first warning on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from semantic_matcher_core.errors import ImageError, MissingPackageError

try:
    import simplejpeg
except ModuleNotFoundError as error:
    # Whoever updates a checkout, and not its environment, is told in a sentence.
    raise MissingPackageError(
        "reading pictures needs simplejpeg, not installed here: pip install simplejpeg"
    ) from error

MAGIC = b"\xff\xd8"
# Warnings of libjpeg about headers, which cost no pixel; some encoders leave the parameters of a scan 0.
_HARMLESS = re.compile("JFIF revision|Adobe color transform|progression sequence|ICC marker|SOS parameters")
_EXTRANEOUS = re.compile("([0-9]+) extraneous bytes before marker 0x")
# Cameras pad the picture, or a part of it, to whole words before the next marker; libjpeg has read some of it by then.
_PADDING = 6


def decode_jpeg(data: memoryview, name: str, *, grey: bool) -> np.ndarray | None:
    """Return ``H x W x 3`` uint8 BGR of a JPEG, as OpenCV does, or ``None`` where OpenCV is to be asked.

    Args:
        data: the file's bytes; what follows the picture counts for nothing.
        name: how errors call it.
        grey: return a grey one as ``H x W``.

    Raises:
        ImageError: it is damaged, so that some of its pixels are not those that were stored.
    """
    try:
        is_grey = simplejpeg.decode_jpeg_header(data, strict=False)[2] == "Gray" and grey
        order = "GRAY" if is_grey else "BGR"
        try:
            image = simplejpeg.decode_jpeg(data, order)
        except ValueError as error:
            _require_harmless(str(error), data, name)
            image = simplejpeg.decode_jpeg(data, order, strict=False)
    except ImageError:
        raise
    except ValueError:
        return None
    return image[..., 0] if is_grey else image


def _require_harmless(warning: str, data: memoryview, name: str) -> None:
    extraneous = _EXTRANEOUS.search(warning)
    if extraneous is not None:
        count, end = int(extraneous[1]), end_of_picture(data)
        # Between the header's segments they cost no pixel either.
        if count <= _PADDING or end == len(data) or not bytes(data[max(0, end - count) : end]).strip(b"\0\xff"):
            return
    # What begins with "tj" is of the library's interface, not of libjpeg.
    if not warning.startswith("tj") and not _HARMLESS.search(warning):
        raise ImageError(f"{name} is a JPEG, but damaged within ({warning})")


def jpeg_segments(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (marker, content) of each segment up to the first scan (ITU T.81, annex B)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, data[position + 4 : position + 2 + length]
        if marker == 0xDA:
            return
        position += 2 + length


def end_of_picture(data: memoryview) -> int:
    """Return where the end marker lies; -1 where there is none, the size of the data where its layout is another."""
    # One counts only after the first scan: thumbnails in the header have their own. Inside a scan 0xFF is always
    # followed by 0x00 or a restart marker, so the two bytes cannot occur by chance (ITU T.81, annex B).
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return len(data)
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xDA:
            return bytes(data).find(b"\xff\xd9", position)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return -1
