"""Image files to and from RGB arrays.

Convention:
    - Arrays are ``H x W x 3`` uint8 RGB, whatever the file holds. 16-bit values and floats (1 is white) become 8-bit
      ones as those of messages do (:mod:`semantic_matcher_core.io.intensity`); grey is repeated over the channels;
      alpha is left out, colours below it are kept as stored.
    - EXIF orientation is applied by default, so that the array is upright, as viewers show it and networks see it best.
      Numbers that go into files for other tools (HDF5, COLMAP, JSON, NumPy) are pixels of the file as it is stored,
      which is what those tools read: :func:`semantic_matcher_core.io.exif.to_stored` leads from one to the other. Of a
      TIFF the upright pixels count as the stored ones: OpenCV turns it by its own tag, and so do hloc and PIL.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from semantic_matcher_core.errors import ImageError, check_choice
from semantic_matcher_core.io.atomic import atomic_output
from semantic_matcher_core.io.decoding import decode, holds_several
from semantic_matcher_core.io.encoding import encode_image
from semantic_matcher_core.io.exif import read_exif, upright
from semantic_matcher_core.io.intensity import FULL_SCALE_16, to_8_bit
from semantic_matcher_core.io.names import readable
from semantic_matcher_core.io.notices import say_once

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"})
# Of pictures too, but not taken from folders: not decoded everywhere, or not at all.
_OTHER_PICTURES = frozenset(
    {
        ".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif",
        ".jp2", ".jxl", ".nef", ".orf", ".pfm", ".psd", ".raf", ".rw2", ".tga",
    }
)  # fmt: skip
_TO_RGB = {2: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB}
ORIENTATIONS = ("exif", "stored")


def read_image(path: str | Path, *, orientation: str = "exif", full_scale: float | None = None) -> np.ndarray:
    """Return ``H x W x 3`` uint8 RGB of an image file.

    Args:
        path: any name the file system allows.
        orientation: ``"exif"`` turns the image as its EXIF tag says, ``"stored"`` leaves the pixels as they lie.
        full_scale: value of 16-bit files and of floats that becomes white; ``None`` for 65536, of floats 1, or for the
            range that the image fills where that differs.

    Raises:
        ImageError: there is no such file, it is no image that OpenCV reads, it is cut short, or its values are
            neither of 8 or 16 bits nor floats.
        ConfigError: ``orientation`` is neither of the two, or ``full_scale`` is not positive.
    """
    return decode_image(read_bytes(path), name=str(path), orientation=orientation, full_scale=full_scale)


def read_bytes(path: str | Path, what: str = "image") -> bytes:
    """Return a file as it lies; also what another command pipes (``/dev/stdin``, ``<(…)`` of a shell).

    Args:
        path: the file.
        what: how errors call it.

    Raises:
        ImageError: there is no such file, it cannot be read, or it is a device or a named pipe, which may never end.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode) and not _is_piped(path, mode):
            raise ImageError(f"cannot read {what} {path}: it is {_kind_of(mode)}, not a file")
        return path.read_bytes()
    except FileNotFoundError:
        hint = "; it is an address: download it first" if re.match("[a-z]+:/", str(path)) else ""
        hint = "; what is piped is /dev/stdin" if str(path) == "-" else hint
        raise ImageError(f"no such {what} file: {path}{hint}") from None
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {what} {path}: {getattr(error, 'strerror', None) or error}") from error


def _is_piped(path: Path, mode: int) -> bool:
    """Return whether it is a pipe that a shell has open already, so that it is written into."""
    return stat.S_ISFIFO(mode) and path.parts[:2] in (("/", "dev"), ("/", "proc"))


def _kind_of(mode: int) -> str:
    return "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def decode_image(
    data: bytes, *, name: str = "image", orientation: str = "exif", full_scale: float | None = None
) -> np.ndarray:
    """Return ``H x W x 3`` uint8 RGB of an encoded image; see :func:`read_image`. ``name`` is what errors call it."""
    check_choice("orientation", orientation, ORIENTATIONS)
    image = decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION, name)
    if holds_several(data):
        say_once(f"{name} holds more than one picture, an animation or pages; the first is taken")
    if image.dtype == np.uint16:
        image = to_8_bit(image, FULL_SCALE_16, full_scale, "16-bit image files")
    elif image.dtype in (np.float32, np.float64):
        with np.errstate(over="ignore"):
            image = to_8_bit(image.astype(np.float32), 1.0, full_scale, "image files of floats")
    elif image.dtype != np.uint8:
        raise ImageError(f"{name} holds {image.dtype} values; convert it to 8 or 16 bit first")
    image = cv2.cvtColor(image if image.ndim == 2 else image[..., :3], _TO_RGB[image.ndim])
    return upright(image, read_exif(data).orientation) if orientation == "exif" else image


def write_image(path: str | Path, image: np.ndarray, *, jpeg_quality: int = 95) -> None:
    """Write an RGB or grey uint8 image; the format follows the suffix, and the file appears whole or not at all.

    Raises:
        ImageError: the array is no ``H x W x 3`` or ``H x W`` uint8 image, or no format has this
            suffix or holds an image of this size.
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ImageError(f"cannot write {path}: unknown image suffix {path.suffix!r}; use {_suffix_list()}")
    data = encode_image(image, path.suffix, jpeg_quality=jpeg_quality, name=str(path))
    with atomic_output(path) as temporary:
        temporary.write_bytes(data.tobytes())


def shrunk(image: np.ndarray, max_side: int) -> tuple[np.ndarray, float]:
    """Return an image with its long side at most ``max_side``, and the factor it was made smaller by."""
    scale = min(1.0, max_side / max(image.shape[:2]))
    if scale == 1.0:
        return image, 1.0
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def list_images(folder: str | Path) -> list[Path]:
    """Return image files (by suffix, not hidden) directly in ``folder``, in natural order: ``2.png`` before ``10.png``.

    Raises:
        ImageError: ``folder`` is no folder, or holds no image; the message names the suffixes that count.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"no such image folder: {folder}")
    inside = [p for p in folder.iterdir() if not p.name.startswith(".")]
    found = [p for p in inside if is_image_file(p)]
    say_what_is_passed_over(folder, inside)
    if not found:
        folders = sorted(p.name for p in inside if p.is_dir())
        hint = f"; folders in it are not searched: {', '.join(folders[:5])}" if folders else ""
        raise ImageError(f"no image in folder {folder}; files with these suffixes count: {_suffix_list()}{hint}")
    return sorted(found, key=lambda p: natural_key(p.name))


def with_folders(paths: Iterable[str | Path]) -> list[Path]:
    """Return paths, each folder among them replaced by the image files in it, and ``~`` by the user's home.

    Raises:
        ImageError: a folder holds no image.
    """
    given = [Path(path).expanduser() for path in paths]
    return [file for path in given for file in (list_images(path) if path.is_dir() else [path])]


def say_what_is_passed_over(folder: Path, inside: Iterable[Path]) -> None:
    """Warn of pictures in a folder (or of a pattern) whose suffixes do not count, and of links that lead nowhere, so
    that their absence from the result is explained.
    """
    inside = list(inside)
    others = [p.suffix.lower() for p in inside if p.suffix.lower() in _OTHER_PICTURES]
    broken = [p.name for p in inside if p.suffix.lower() in IMAGE_SUFFIXES and not p.exists()]
    if broken:
        links = "1 link whose file is" if len(broken) == 1 else f"{len(broken)} links whose files are"
        say_once(f"passed over in {folder}: {links} not there, such as {readable(broken[0])}")
    if others:
        kinds = " ".join(sorted(set(others)))
        files = "1 file" if len(others) == 1 else f"{len(others)} files"
        say_once(f"passed over in {folder}: {files} of {kinds}; convert them to JPEG or PNG")


def is_image_file(path: Path) -> bool:
    """Return whether ``path`` is a file with the suffix of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def natural_key(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sort key that compares runs of digits as numbers; the name itself breaks ties (``01`` and ``1``)."""
    parts: list[tuple[int, int | str]] = [
        (0, int(part)) if part.isascii() and part.isdigit() else (1, part.casefold())
        for part in re.split(r"([0-9]+)", name)
        if part
    ]
    return parts, name


def _suffix_list() -> str:
    return " ".join(sorted(IMAGE_SUFFIXES))
