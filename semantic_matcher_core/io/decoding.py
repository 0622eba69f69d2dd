"""Encoded pictures to pixels, with every failure one exception: what OpenCV raises, logs, or passes over in silence."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io import jpeg

# Beyond it nothing here could work with the image.
MAX_PIXELS = 2**28
# What a byte can hold at the most: deflate makes 1032 of one, each 8 pixels of 1 bit; JPEG needs 2 bits for 64 pixels.
_MOST_PIXELS_PER_BYTE = 8256
_SPARE_PIXELS = 2**20
_PNG = b"\x89PNG\r\n\x1a\n"
# Of one picture in a TIFF: each is half as large as the one before.
_MOST_COPIES = 64
# What OpenCV's log level was, and the threads that want it silent now.
_quieting, _levels, _quieted = threading.Lock(), [0], list[int]()


def decode(data: bytes | memoryview | np.ndarray, flags: int, name: str) -> np.ndarray:
    """Return the pixels of an encoded picture, as ``cv2.imdecode`` gives them for ``flags``.

    Args:
        data: the file's bytes.
        flags: of ``cv2.imdecode``: ``IMREAD_UNCHANGED``, or ``IMREAD_COLOR`` with what keeps 16 bits and leaves pixels
            as they are stored.
        name: how errors call it.

    Raises:
        ImageError: it is empty, cut short, damaged, of a kind that is not decoded, or larger than it can be.
    """
    array = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
    if array.size == 0:
        raise ImageError(f"{name} is empty (0 bytes)")
    view = np.ascontiguousarray(array).data.cast("B")
    is_jpeg = bytes(view[:2]) == jpeg.MAGIC
    if is_jpeg and jpeg.end_of_picture(view) < 0:
        raise ImageError(f"{name} is a JPEG cut short ({len(view)} bytes, no end marker)")
    size = _stated_size(view)
    if size is not None:
        says = f"{name} says that it has {size[0]} x {size[1]} pixels, "
        if size[0] * size[1] > _MOST_PIXELS_PER_BYTE * len(view) + _SPARE_PIXELS:
            raise ImageError(f"{says}too many for its {len(view)} bytes; its header is damaged")
        if size[0] * size[1] > MAX_PIXELS:
            raise ImageError(f"{says}and at most {MAX_PIXELS} are taken; make it smaller first")
    if is_jpeg and (picture := jpeg.decode_jpeg(view, name, grey=flags == cv2.IMREAD_UNCHANGED)) is not None:
        return picture
    if bytes(view[:8]) == _PNG and (trouble := _png_trouble(view)):
        raise ImageError(f"{name} is a PNG, but {trouble}")
    with _quiet():
        try:
            image = cv2.imdecode(array, flags)
        except (cv2.error, MemoryError) as error:
            raise ImageError(f"{name} cannot be decoded: {_reason(error)}") from error
        if image is None:
            image = _of_floats(array, name)
    return image


def _of_floats(array: np.ndarray, name: str) -> np.ndarray:
    # OpenCV makes no colours of grey floats, nor of any of 64 bits.
    try:
        image = cv2.imdecode(array, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(f"{name} {_what_it_is(array)}")
    channels = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype not in (np.float32, np.float64) or channels not in (1, 3, 4):
        raise ImageError(
            f"{name} is an image of {channels} x {image.dtype} a pixel; taken are 1, 3 or 4 channels of 8 or 16 bits "
            "or of floats: convert it first"
        )
    return image


@contextmanager
def _quiet() -> Iterator[None]:
    # OpenCV prints what it dislikes of a file beside the exception that says so. Old releases have no such switch.
    logging: Any = getattr(getattr(cv2, "utils", None), "logging", None)
    if not hasattr(logging, "setLogLevel"):
        yield
        return
    # The level is the process's: of several threads the first keeps what it was, and the last brings it back.
    with _quieting:
        if not _quieted:
            _levels[:] = [logging.getLogLevel()]
            logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        _quieted.append(threading.get_ident())
    try:
        yield
    finally:
        with _quieting:
            _quieted.pop()
            if not _quieted:
                logging.setLogLevel(_levels[0])


def _what_it_is(array: np.ndarray) -> str:
    start = array[:512].tobytes()
    for kind, is_it in _KINDS.items():
        if is_it(start):
            return f"is {kind}"
    return f"is no image that can be decoded (or is damaged); {array.size} bytes that begin with {start[:8].hex(' ')}"


def _begins(*starts: bytes) -> Callable[[bytes], bool]:
    return lambda data: data.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(tuple(start.lower() for start in starts))


def _is_text(data: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in data) and data.isascii()


# What lies under the names of pictures, and is none that is read. The first that fits is told.
_KINDS: dict[str, Callable[[bytes], bool]] = {
    "a HEIC picture, which is not decoded here: convert it to JPEG or PNG first": lambda data: (
        data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"heim", b"hevc", b"hevx", b"mif1", b"msf1")
    ),
    "an AVIF picture that is not decoded here, or damaged: convert it to JPEG or PNG first": lambda data: (
        data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis")
    ),
    "a video or a piece of one, no picture: `semantic-matcher video` takes video files, and image_transport's "
    "`republish` makes pictures of a topic": lambda data: (
        # Any part of H.264 and H.265, which begin with a start code (an icon, with 0, 0, 1, 0), and of AV1.
        data[4:8] == b"ftyp"
        or data.startswith((b"\x1aE\xdf\xa3", b"\0\0\0\1", b"\x12\0"))
        or (data[:3] == b"\0\0\1" and data[3:4] != b"\0")
    ),
    "a JPEG XL picture, which is not decoded here: convert it to JPEG or PNG first": lambda data: data.startswith(
        (b"\xff\x0a", b"\0\0\0\x0cJXL ")
    ),
    "a JPEG, but damaged, or of a kind that is not decoded here (lossless, 12 bits)": lambda data: data.startswith(
        b"\xff\xd8\xff"
    ),
    "an OpenEXR picture, which is not decoded here: convert it to a float TIFF, or to PNG": lambda data: (
        data.startswith(b"v/1\x01")
    ),
    "a PNG, but damaged or cut short": lambda data: data.startswith(_PNG),
    "a WebP, but damaged or cut short": lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
    "a BMP, but damaged or cut short": lambda data: data.startswith(b"BM"),
    "a GIF, but damaged or cut short": lambda data: data.startswith((b"GIF87a", b"GIF89a")),
    "a TIFF of a kind that is not decoded here (a camera's raw file?), or damaged: convert it to PNG first": (
        lambda data: data.startswith((b"II*\0", b"MM\0*"))
    ),
    "a document, not a picture (PDF)": _begins(b"%PDF"),
    "a drawing, not a picture (SVG): render it to PNG first": _begins(b"<svg", b"<?xml"),
    "a web page, not a picture: the download failed?": _begins(b"<!doctype html", b"<html"),
    "a pointer of Git LFS, not the picture itself: fetch it with `git lfs pull`": _begins(b"version https://git-lfs"),
    "an archive, not a picture": lambda data: data.startswith((b"PK\3\4", b"\x1f\x8b", b"7z\xbc\xaf", b"(\xb5/\xfd")),
    "an HDF5 file, not a picture": lambda data: data.startswith(b"\x89HDF\r\n"),
    "text, not a picture": _is_text,
}


def _reason(error: Exception) -> str:
    # Of OpenCV's assertions the condition alone, without its source file.
    lines = str(getattr(error, "err", error)).strip().splitlines()
    if lines and "CV_IO_MAX_IMAGE" in lines[-1]:
        return "its header says that it is larger than any picture that is read"
    return lines[-1] if lines else type(error).__name__


def _stated_size(data: memoryview) -> tuple[int, int] | None:
    """Return (width, height) in the header of a PNG or JPEG."""
    if bytes(data[:8]) == _PNG and bytes(data[12:16]) == b"IHDR" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if bytes(data[:2]) != jpeg.MAGIC:
        return None
    for marker, content in jpeg.jpeg_segments(data):
        # Start of frame of any kind; C4, C8 and CC are others.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) >= 5:
            height, width = struct.unpack(">HH", content[1:5])
            return width, height
    return None


def _png_trouble(data: memoryview) -> str:
    """Return what is wrong with the chunks that make the picture, by their checksums; empty where nothing is.

    libpng would find the same, and print it beside the exception. Other chunks (PNG 3, 5.4) may be as they like.
    """
    place = len(_PNG)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        kind = bytes(data[place + 4 : place + 8])
        if end + 4 > len(data):
            break
        if kind == b"IEND":  # empty: whatever its checksum is
            return ""
        if kind[:1].isupper() and zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return f"damaged within: the checksum of its part {kind!r} at byte {place} does not fit"
        place = end + 4
    return f"cut short ({len(data)} bytes, no end)"


def holds_several(data: bytes) -> bool:
    """Return whether a file says that it holds more pictures than the one that is decoded: animations, pages.

    Of TIFF the pages count that are no smaller copy of the first (TIFF 6.0, tag 254), of GIF the images; of WebP the
    flag of its VP8X chunk tells, of PNG the chunk ``acTL`` before the picture.
    """
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _gif_images(data) > 1
    if data[:4] == b"RIFF" and data[8:16] == b"WEBPVP8X":
        return len(data) > 20 and bool(data[20] & 2)
    if data[:8] == _PNG:
        return b"acTL" in data[: max(0, data.find(b"IDAT"))]
    return data[:4] in (b"II*\0", b"MM\0*") and _has_pages(data)


def _gif_images(data: bytes) -> int:
    """Count the images of a GIF, two at the most (GIF89a: a table of colours, then blocks)."""

    def table(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    images, place = 0, 13 + (table(data[10]) if len(data) > 10 else 0)
    while images < 2 and place + 10 < len(data) and data[place] in (0x21, 0x2C):
        if data[place] == 0x2C:
            images += 1
            place += 11 + table(data[place + 9])
        else:
            place += 2
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
    return images


def _has_pages(data: bytes) -> bool:
    order = "<" if data[:1] == b"I" else ">"
    pages, place, known = 0, struct.unpack_from(order + "I", data, 4)[0] if len(data) >= 8 else 0, set[int]()
    # No further than is needed: thousands that share their bytes would be told from each other for hours.
    while place and place not in known and place + 2 <= len(data) and pages < 2 and len(known) < _MOST_COPIES:
        known.add(place)
        (count,) = struct.unpack_from(order + "H", data, place)
        end = place + 2 + 12 * count
        if end + 4 > len(data):
            break
        entries = [struct.unpack_from(order + "HHI4s", data, at) for at in range(place + 2, end, 12)]
        smaller = any(tag == 254 and struct.unpack(order + "I", value)[0] & 1 for tag, _, _, value in entries)
        pages += not smaller
        (place,) = struct.unpack_from(order + "I", data, end)
    return pages > 1
