"""What a camera wrote beside the pixels of a file: orientation and focal length (EXIF 2.32, CIPA DC-008)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from semantic_matcher_core.io.jpeg import jpeg_segments

_ORIENTATION, _EXIF_FOLDER, _FOCAL_35MM = 0x0112, 0x8769, 0xA405
_SHORT, _LONG = 3, 4
# Entries of a folder, of which real files have some dozens.
_MAX_ENTRIES = 1000


@dataclass(frozen=True)
class Exif:
    """What is taken from EXIF.

    Attributes:
        orientation: 1 to 8, how the pixels in the file lie against the upright image; 1 where the file does not say.
        focal_35mm: focal length in millimetres of the lens that sees as much on 36 mm of film, 0 where it is not known.
    """

    orientation: int = 1
    focal_35mm: float = 0.0


def read_exif(data: bytes | memoryview) -> Exif:
    """Read EXIF of an encoded JPEG, PNG or WebP, and how an AVIF lies; empty where it is damaged or missing."""
    if bytes(data[4:12]) in (b"ftypavif", b"ftypavis"):
        return Exif(_orientation_of_avif(bytes(data)))
    block = _block(memoryview(data))
    if block is None:
        return Exif()
    try:
        entries = _entries(block)
    except (struct.error, KeyError, IndexError):
        return Exif()
    orientation, focal = entries.get(_ORIENTATION, 1), entries.get(_FOCAL_35MM, 0)
    return Exif(orientation if 1 <= orientation <= 8 else 1, float(focal))


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image as it is to be looked at, of the one that lies in the file.

    Args:
        image: ``H x W …``.
        orientation: of EXIF, 1 to 8.
    """
    if orientation in (2, 3, 7, 8):
        image = image[:, ::-1]
    if orientation in (3, 4, 6, 7):
        image = image[::-1]
    if turns(orientation):
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image)


def to_stored(orientation: int, upright_size: tuple[int, int]) -> np.ndarray:
    """Return where a pixel of the upright image lies in the file.

    Args:
        orientation: of EXIF, 1 to 8.
        upright_size: (height, width) of the upright image.

    Returns:
        ``3 x 3`` float64, of homogeneous (x, y, 1).
    """
    right, bottom = upright_size[1] - 1.0, upright_size[0] - 1.0
    rows = {
        1: ((1, 0, 0), (0, 1, 0)),
        2: ((-1, 0, right), (0, 1, 0)),
        3: ((-1, 0, right), (0, -1, bottom)),
        4: ((1, 0, 0), (0, -1, bottom)),
        5: ((0, 1, 0), (1, 0, 0)),
        6: ((0, 1, 0), (-1, 0, right)),
        7: ((0, -1, bottom), (-1, 0, right)),
        8: ((0, -1, bottom), (1, 0, 0)),
    }[orientation]
    return np.array([*rows, (0, 0, 1)], np.float64)


def turns(orientation: int) -> bool:
    """Return whether width and height are exchanged between the file and the upright image."""
    return orientation >= 5


def _block(data: memoryview) -> memoryview | None:
    if bytes(data[:2]) == b"\xff\xd8":
        segments = jpeg_segments(data)
        return next((its[6:] for marker, its in segments if marker == 0xE1 and bytes(its[:6]) == b"Exif\0\0"), None)
    if bytes(data[:8]) == b"\x89PNG\r\n\x1a\n":
        return _in_chunks(data, 8, ">", b"eXIf", length_first=True)
    if bytes(data[:4]) == b"RIFF" and bytes(data[8:12]) == b"WEBP":
        return _in_chunks(data, 12, "<", b"EXIF", length_first=False)
    return None


def _orientation_of_avif(data: bytes) -> int:
    """Return the orientation that the boxes irot and imir say (ISO 23008-12, 6.5.10 and 6.5.12), which stand in for
    EXIF's there: turn first, then mirror.
    """
    start = data.find(b"ipco")
    # The size before a box's name is that of both and of what is in it.
    boxes = data[start : start - 4 + int.from_bytes(data[start - 4 : start], "big")]
    turn, mirror = boxes.find(b"irot"), boxes.find(b"imir")
    quarters = boxes[turn + 4] & 3 if 0 <= turn < len(boxes) - 4 else 0
    if not 0 <= mirror < len(boxes) - 4:
        return (1, 8, 3, 6)[quarters]
    # Axis 0 exchanges top and bottom, 1 left and right.
    return ((4, 5, 2, 7), (2, 7, 4, 5))[boxes[mirror + 4] & 1][quarters]


def _in_chunks(data: memoryview, start: int, order: str, name: bytes, *, length_first: bool) -> memoryview | None:
    """Return a chunk of a PNG (length, name, data, checksum) or of a WebP (name, length, data, to an even length)."""
    position = start
    while position + 8 <= len(data):
        first, second = bytes(data[position : position + 4]), bytes(data[position + 4 : position + 8])
        raw, found = (first, second) if length_first else (second, first)
        (length,) = struct.unpack(f"{order}I", raw)
        if found == name:
            block = data[position + 8 : position + 8 + length]
            return block[6:] if bytes(block[:6]) == b"Exif\0\0" else block
        position += 8 + length + (4 if length_first else length % 2)
    return None


def _entries(block: memoryview) -> dict[int, int]:
    order = {b"II": "<", b"MM": ">"}[bytes(block[:2])]
    found: dict[int, int] = {}
    (first,) = struct.unpack_from(f"{order}I", block, 4)
    folders = [first]
    for folder in folders:
        (count,) = struct.unpack_from(f"{order}H", block, folder)
        for i in range(min(count, _MAX_ENTRIES)):
            tag, kind, _ = struct.unpack_from(f"{order}HHI", block, folder + 2 + 12 * i)
            if tag in (_ORIENTATION, _EXIF_FOLDER, _FOCAL_35MM) and kind in (_SHORT, _LONG):
                value = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", block, folder + 10 + 12 * i)[0]
                found.setdefault(tag, value)
                if tag == _EXIF_FOLDER and len(folders) == 1:
                    folders.append(value)
    return found
