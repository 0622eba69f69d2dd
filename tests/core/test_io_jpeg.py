"""JPEG pictures: the pixels are OpenCV's, damage within is told, and what encoders do is not called damage."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io.decoding import decode
from semantic_matcher_core.io.image_messages import compressed_to_rgb
from semantic_matcher_core.io.images import read_image
from tests.core.test_image_messages import CompressedImage

COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
END = b"\xff\xd9"
# cv2.IMWRITE_JPEG_SAMPLING_FACTOR, which releases before 4.7 have no name for, and pass over.
SAMPLING = 7
KINDS = {
    "plain": [],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "restarts": [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
    "4:4:4": [SAMPLING, 0x111111],
    "4:1:1": [SAMPLING, 0x411111],
    "poor": [cv2.IMWRITE_JPEG_QUALITY, 3],
}


def picture(height: int = 121, width: int = 163) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def encode(image: np.ndarray, kind: str = "plain") -> bytes:
    return cv2.imencode(".jpg", image, KINDS[kind])[1].tobytes()


def without_tables(data: bytes) -> bytes:
    """A frame of motion JPEG, as USB cameras send it: the usual Huffman tables are left out."""
    position, kept = 2, data[:2]
    while True:
        length = 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] == 0xDA:
            return kept + data[position:]
        kept += b"" if data[position + 1] == 0xC4 else data[position : position + length]
        position += length


def with_surplus_rows(data: bytes, height: int) -> bytes:
    """A picture whose scan has more rows than its header says, as encoders in hardware write sixteens of them."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + height.to_bytes(2, "big") + data[place + 2 :]


def with_empty_scan_parameters(data: bytes) -> bytes:
    place = data.index(b"\xff\xda")
    place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return data[: place - 3] + bytes(3) + data[place:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("flags", [COLOUR, cv2.IMREAD_UNCHANGED])
def test_pixels_are_those_of_opencv(kind: str, grey: bool, flags: int) -> None:
    data = encode(picture()[..., 0] if grey else picture(), kind)
    np.testing.assert_array_equal(decode(data, flags, "x"), cv2.imdecode(np.frombuffer(data, np.uint8), flags))


@pytest.mark.parametrize(
    "change",
    [
        without_tables,
        lambda data: data + b"\0" * 300,
        lambda data: data + b"trailer" + encode(picture(8, 8)),
        lambda data: data[:-2] + b"\0" * 4 + END,
        lambda data: data[:-2] + b"\0" * 300 + END + b"\0" * 7,
        lambda data: data[:-2] + b"\x12\x34\x56\x78" + END,
        lambda data: data.replace(b"\xff\xdb", b"\0" * 20 + b"\xff\xdb", 1),
        with_empty_scan_parameters,
    ],
    ids=[
        *("no tables", "zeros behind", "pictures behind", "padded", "padded much", "padded with something"),
        *("padded header", "empty scan parameters"),
    ],
)
def test_what_encoders_and_cameras_do_is_not_damage(change: object) -> None:
    data = encode(picture())
    np.testing.assert_array_equal(decode(change(data), COLOUR, "x"), decode(data, COLOUR, "x"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["zeros", "gap", "noise"])
def test_damage_within_is_told(kind: str, damage: str) -> None:
    data = encode(picture(241, 323), kind)
    at, size = len(data) // 2, len(data) // 5
    noise = np.random.default_rng(1).integers(0, 256, size).astype(np.uint8).tobytes()
    inserted = {"zeros": b"\0" * size, "gap": b"", "noise": noise}[damage]
    with pytest.raises(ImageError, match=r"^frame\.jpg is a JPEG, but damaged within"):
        decode(data[:at] + inserted + data[at + size :], COLOUR, "frame.jpg")


@pytest.mark.parametrize("place", [4, 1])
def test_a_kind_that_is_not_decoded_is_not_called_damaged_within(place: int) -> None:
    data = bytearray(encode(picture()))
    data[data.index(b"\xff\xc0") + place] = {4: 12, 1: 0xC3}[place]  # 12 bits; lossless
    with pytest.raises(ImageError, match="of a kind that is not decoded here"):
        decode(bytes(data), COLOUR, "x")


def test_whatever_the_header_says_is_an_image_or_an_image_error() -> None:
    data = encode(picture(24, 40))
    random = np.random.default_rng(0)
    for _ in range(200):
        changed = np.frombuffer(data, np.uint8).copy()
        changed[random.integers(2, data.index(b"\xff\xda"), 3)] = random.integers(0, 256, 3)
        with contextlib.suppress(ImageError):
            decode(changed, COLOUR, "x")
    with pytest.raises(ImageError, match="no image that can be decoded"):
        decode(b"\xff\xd8hello world", COLOUR, "x")


def test_files_and_messages_have_the_same_rule(tmp_path: Path) -> None:
    data = encode(picture())
    damaged = data[: len(data) // 2] + data[len(data) // 2 + 200 :]
    (tmp_path / "gap.jpg").write_bytes(damaged)
    with pytest.raises(ImageError, match=r"gap\.jpg is a JPEG, but damaged within"):
        read_image(tmp_path / "gap.jpg")
    with pytest.raises(ImageError, match="damaged within"):
        compressed_to_rgb(CompressedImage("bgr8; jpeg compressed bgr8", damaged))


def test_rows_below_the_picture_are_no_damage() -> None:
    image = picture(96, 128)
    for sampling in (0x211111, 0x111111):
        data = cv2.imencode(".jpg", image, [SAMPLING, sampling])[1].tobytes()
        whole = cv2.imdecode(np.frombuffer(data, np.uint8), COLOUR)
        given = with_surplus_rows(data, 88)
        np.testing.assert_array_equal(decode(given, COLOUR, "a.jpg"), whole[:88])
