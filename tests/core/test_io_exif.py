"""EXIF: orientation as OpenCV applies it, focal length, and where upright pixels lie in the file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_matcher_core.io.exif import Exif, read_exif, to_stored, turns, upright
from semantic_matcher_core.io.images import decode_image


def exif_block(orientation: int, focal: int = 0, order: str = "<") -> bytes:
    """A TIFF structure with an orientation, and a folder with a focal length."""
    mark = b"II" if order == "<" else b"MM"
    first = struct.pack(f"{order}HHHIHHHHII", 2, 0x0112, 3, 1, orientation, 0, 0x8769, 4, 1, 38) + bytes(4)
    second = struct.pack(f"{order}HHHIHH", 1, 0xA405, 3, 1, focal, 0) + bytes(4)
    return mark + struct.pack(f"{order}HI", 42, 8) + first + second


def jpeg_with_exif(image: np.ndarray, orientation: int, focal: int = 0, order: str = "<", quality: int = 95) -> bytes:
    """An RGB image as JPEG with EXIF, its pixels as given."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    block = b"Exif\0\0" + exif_block(orientation, focal, order)
    jpeg = data.tobytes()
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


@pytest.fixture(scope="module")
def stored() -> np.ndarray:
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8), (0, 0), 3)
    image[:10, :20] = (255, 0, 0)
    return image


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_as_opencv_does(stored: np.ndarray, orientation: int, order: str) -> None:
    data = jpeg_with_exif(stored, orientation, 28, order)
    assert read_exif(data) == Exif(orientation, 28.0)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    found = decode_image(data)
    assert np.array_equal(found, expected)
    as_stored = decode_image(data, orientation="stored")
    assert as_stored.shape == stored.shape
    matrix = to_stored(orientation, found.shape[:2])
    for x, y in ((0, 0), (5, 11), (found.shape[1] - 1, found.shape[0] - 1)):
        column, row, _ = matrix @ (x, y, 1)
        assert np.array_equal(found[y, x], as_stored[int(row), int(column)])
    assert turns(orientation) == (found.shape[:2] != stored.shape[:2])


def test_png_and_webp(stored: np.ndarray) -> None:
    block = exif_block(6)
    _, png = cv2.imencode(".png", stored)
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block
    crc = struct.pack(">I", zlib.crc32(b"eXIf" + block))
    data = png.tobytes()
    assert read_exif(data[:33] + chunk + crc + data[33:]).orientation == 6
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(10) + b"EXIF" + struct.pack("<I", len(block)) + block
    assert read_exif(b"RIFF" + struct.pack("<I", len(body)) + body).orientation == 6


@given(st.binary(max_size=200), st.integers(0, 60), st.integers(0, 255))
def test_damaged_exif_says_nothing_and_raises_nothing(noise: bytes, place: int, value: int) -> None:
    block = bytearray(exif_block(6, 28))
    block[min(place, len(block) - 1)] = value
    for content in (bytes(block), noise, b"II*\0" + noise):
        jpeg = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(content) + 8) + b"Exif\0\0" + content + b"\xff\xd9"
        assert 1 <= read_exif(jpeg).orientation <= 8
    read_exif(noise)
    read_exif(b"\x89PNG\r\n\x1a\n" + noise)
    read_exif(b"RIFF\0\0\0\0WEBP" + noise)


def test_turning_back(stored: np.ndarray) -> None:
    for orientation in range(1, 9):
        turned = upright(stored, orientation)
        inverse = {6: 8, 8: 6}.get(orientation, orientation)
        assert np.array_equal(upright(turned, inverse), stored)


def test_pictures_of_a_telephone(shared: Path) -> None:
    paths = sorted((shared / "inputs" / "phone").iterdir())
    assert any(turns(read_exif(path.read_bytes()).orientation) for path in paths)
    for path in paths:
        data = path.read_bytes()
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.array_equal(decode_image(data), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_lies_as_its_boxes_say(orientation: int, tmp_path: Path) -> None:
    features = pytest.importorskip("PIL.features")
    if not features.check("avif"):
        pytest.skip("PIL here has no AVIF")
    pil, image_ops = pytest.importorskip("PIL.Image"), pytest.importorskip("PIL.ImageOps")
    exif = pil.Exif()
    exif[0x0112] = orientation
    picture = np.random.default_rng(0).integers(0, 255, (3, 4, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    pil.fromarray(picture).save(tmp_path / "a.avif", exif=exif, quality=95)
    data = (tmp_path / "a.avif").read_bytes()
    assert read_exif(data).orientation == orientation
    with pil.open(tmp_path / "a.avif") as opened:
        expected = np.asarray(image_ops.exif_transpose(opened))
    if cv2.haveImageReader(str(tmp_path / "a.avif")):
        assert np.abs(decode_image(data).astype(int) - expected).mean() < 2
    assert read_exif(data[:40]) == Exif()
    # The pictures may come before the boxes that describe them.
    head = int.from_bytes(data[:4], "big")
    assert read_exif(data[:head] + b"\0\0\0\x08mdat" + data[head:]).orientation == orientation
