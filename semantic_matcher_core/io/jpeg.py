"""JPEG pictures: their segments, and their pixels where all of the picture is there.

libjpeg makes something of every picture, grey or wrong from a damaged place on, and tells it as a warning that OpenCV
keeps for itself. ``simplejpeg``, the same libjpeg-turbo with the same pixels, passes the first warning on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

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
# Errors about pictures that are whole, of a kind that it does not decode, or of its interface ("tj").
_NOT_FOR_IT = re.compile("^tj|data precision|color conversion|not supported|not implemented|Unsupported JPEG process")
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
        # It does not go beyond a warning about the header; after a later one the pixels are there.
        header = _undamaged(lambda: simplejpeg.decode_jpeg_header(data), data, name)
        if header is None:
            return None
        height, width, colours, _ = header
        is_grey = colours == "Gray" and grey
        image = np.empty((height, width, 1 if is_grey else 3), np.uint8)
        order = "GRAY" if is_grey else "BGR"
        _undamaged(lambda: simplejpeg.decode_jpeg(data, order, buffer=image), data, name)
    except ImageError:
        raise
    except (ValueError, KeyError):
        return None
    return image[..., 0] if is_grey else image


def _undamaged(work: Callable[[], Any], data: memoryview, name: str) -> Any:
    """Return what work does, ``None`` where it ends in a warning; one that costs pixels is an ImageError."""
    try:
        return work()
    except ValueError as error:
        warning = str(error)
        if _NOT_FOR_IT.search(warning):
            raise
        if not (_HARMLESS.search(warning) or _is_padding(warning, data) or _has_more_rows(warning, data)):
            raise ImageError(f"{name} is a JPEG, but damaged within ({warning})") from error
        return None


def _is_padding(warning: str, data: memoryview) -> bool:
    extraneous = _EXTRANEOUS.search(warning)
    if extraneous is None:
        return False
    count, end = int(extraneous[1]), end_of_picture(data)
    # Between the header's segments bytes cost no pixel either.
    return count <= _PADDING or end == len(data) or not bytes(data[max(0, end - count) : end]).strip(b"\0\xff")


def _has_more_rows(warning: str, data: memoryview) -> bool:
    """Return whether what is left over is whole rows below the picture: encoders in hardware write sixteens of them."""
    if not warning.endswith("before marker 0xd9"):
        return False
    for marker, place in _segments(data):
        height = int.from_bytes(data[place + 5 : place + 7], "big")
        if marker not in (0xC0, 0xC1, 0xC2) or not height % 16:
            continue
        taller = bytearray(data)
        taller[place + 5 : place + 7] = (height + -height % 16).to_bytes(2, "big")
        try:
            simplejpeg.decode_jpeg(taller)
        except ValueError:
            return False
        return True
    return False


def jpeg_segments(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (marker, content) of each segment up to the first scan (ITU T.81, annex B)."""
    for marker, place in _segments(data):
        if marker >= 0:
            yield marker, data[place + 4 : place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")]


def end_of_picture(data: memoryview) -> int:
    """Return where the end marker lies; -1 where there is none, the size of the data where its layout is another."""
    for marker, place in _segments(data):
        if marker < 0:
            return len(data)
        # One counts only after the first scan: thumbnails in the header have their own. Inside a scan 0xFF is always
        # followed by 0x00 or a restart marker, so the two bytes cannot occur by chance (ITU T.81, annex B).
        if marker == 0xDA:
            return bytes(data).find(b"\xff\xd9", place)
    return -1


def _segments(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield (marker, place) of each segment up to the first scan; marker -1 where none begins, which is the last."""
    place = 2
    while place + 4 <= len(data):
        marker = data[place + 1] if data[place] == 0xFF else -1
        if marker == 0xFF:
            place += 1
            continue
        yield marker, place
        if marker in (-1, 0xDA):
            return
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
