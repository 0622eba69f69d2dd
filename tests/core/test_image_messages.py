"""Images of every encoding against planes that the tests mosaic, pack and pad by definition."""

from __future__ import annotations

import array
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.io.image_messages import ENCODINGS, compressed_to_rgb, image_to_rgb


@dataclass
class Image:
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


@dataclass
class CompressedImage:
    format: str
    data: Any


def message(samples: np.ndarray, encoding: str, *, padding: int = 0, big: bool = False, height: int = 0) -> Image:
    """An Image from ``rows x columns x channels`` samples; padding bytes hold 0xA5."""
    packed = samples.astype(samples.dtype.newbyteorder(">" if big else "<"))
    rows = np.frombuffer(packed.tobytes(), np.uint8).reshape(samples.shape[0], -1)
    padded = np.full((rows.shape[0], rows.shape[1] + padding), 0xA5, np.uint8)
    padded[:, : rows.shape[1]] = rows
    width = samples.shape[1]
    return Image(height or samples.shape[0], width, encoding, int(big), padded.shape[1], padded.tobytes())


def colours(height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    """An RGB image of which every sample differs from its neighbours in place and in colour."""
    y, x, c = np.mgrid[:height, :width, :3]
    value = (y * 37 + x * 11 + c * 83) % 251
    return (value * 257 if dtype is np.uint16 else value).astype(dtype)


def bgr(rgb: np.ndarray) -> np.ndarray:
    return rgb[..., ::-1]


def with_alpha(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image, np.full_like(image[..., :1], 7)], axis=2)


RGB = colours(7, 9)
RGB16 = colours(7, 9, np.uint16)
EIGHT = RGB[..., 0]
SIXTEEN = RGB16[..., 1] + np.arange(9, dtype=np.uint16)
METRES = np.array([[0.0, 2.5, 5.0], [9.999, 10.0, 65.0], [np.nan, np.inf, -np.inf]], np.float32)
DEPTH_8 = np.array([[0, 64, 128], [255, 255, 255], [0, 255, 0]], np.uint8)
MILLIMETRES = np.array([[0, 2500, 5000], [9999, 10000, 65000]], np.uint16)

# encoding, samples as they are sent, pixels that must come out
TABLE: list[tuple[str, np.ndarray, np.ndarray]] = [
    ("rgb8", RGB, RGB),
    ("bgr8", bgr(RGB), RGB),
    ("rgba8", with_alpha(RGB), RGB),
    ("bgra8", with_alpha(bgr(RGB)), RGB),
    ("8UC3", bgr(RGB), RGB),
    ("8UC4", with_alpha(bgr(RGB)), RGB),
    ("mono8", EIGHT, EIGHT),
    ("8UC1", EIGHT, EIGHT),
    ("rgb16", RGB16, RGB),
    ("bgr16", bgr(RGB16), RGB),
    ("rgba16", with_alpha(RGB16), RGB),
    ("bgra16", with_alpha(bgr(RGB16)), RGB),
    ("16UC3", bgr(RGB16), RGB),
    ("mono16", SIXTEEN, SIXTEEN >> 8),
    ("16UC1", MILLIMETRES, DEPTH_8[:2]),
    ("32FC1", METRES, DEPTH_8),
]


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """Of each pixel the one channel that ``pattern`` names for its place in every 2 x 2 block, in reading order."""
    plane = np.empty(rgb.shape[:2], rgb.dtype)
    for place, name in enumerate(pattern):
        y, x = divmod(place, 2)
        plane[y::2, x::2] = rgb[y::2, x::2, "rgb".index(name)]
    return plane


def ramps(height: int, width: int, dtype: type) -> np.ndarray:
    """Colours that are linear in x and y with even steps: interpolating between samples gives them back exactly."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([200 - 4 * x - 2 * y, 20 + 2 * x + 4 * y, 90 + 4 * x - 4 * y], axis=2)
    return (rgb * 257 if dtype is np.uint16 else rgb).astype(dtype)


def bt601(y: float, u: float, v: float) -> np.ndarray:
    """RGB of one limited-range YUV sample (ITU-R BT.601)."""
    y, u, v = 1.164 * (y - 16), u - 128, v - 128
    return np.clip([y + 1.596 * v, y - 0.392 * u - 0.813 * v, y + 2.017 * u], 0, 255)


def yuv_planes(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, x = np.mgrid[:height, :width]
    return (60 + 5 * x + 7 * y, 100 + 6 * (x // 2), 150 - 5 * (x // 2))


def uyvy(height: int, width: int) -> np.ndarray:
    luma, u, v = yuv_planes(height, width)
    chroma = np.where(np.arange(width) % 2 == 0, u, v)
    return np.stack([chroma, luma], axis=2).astype(np.uint8)


@pytest.mark.parametrize(("padding", "big"), [(0, False), (0, True), (5, False), (3, True), (64, False)])
@pytest.mark.parametrize(("encoding", "samples", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_encodings(encoding: str, samples: np.ndarray, expected: np.ndarray, padding: int, big: bool) -> None:
    result = image_to_rgb(message(samples, encoding, padding=padding, big=big))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("bits", "big", "padding"), [(8, False, 0), (8, True, 3), (16, False, 1), (16, True, 0)])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("size", [(12, 14), (11, 13)], ids=["even", "odd"])
def test_bayer_patterns(pattern: str, size: tuple[int, int], bits: int, big: bool, padding: int) -> None:
    dtype = np.uint8 if bits == 8 else np.uint16
    encoding = f"bayer_{pattern}{bits}"
    result = image_to_rgb(message(mosaic(ramps(*size, dtype), pattern), encoding, padding=padding, big=big))
    assert result.shape == (*size, 3)
    np.testing.assert_array_equal(result[1:-1, 1:-1], ramps(*size, np.uint8)[1:-1, 1:-1])

    flat = np.full((*size, 3), (200, 90, 20)).astype(dtype) * (257 if bits == 16 else 1)
    result = image_to_rgb(message(mosaic(flat.astype(dtype), pattern), encoding, padding=padding, big=big))
    np.testing.assert_array_equal(result, np.full((*size, 3), (200, 90, 20)), err_msg="borders")


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv_with_chroma_in_the_row(encoding: str, padding: int) -> None:
    height, width = 5, 8
    packed = uyvy(height, width)
    if encoding in ("yuv422_yuy2", "yuyv"):
        packed = packed[..., ::-1]
    result = image_to_rgb(message(packed, encoding, padding=padding))
    planes = np.stack(yuv_planes(height, width), axis=2)
    expected = np.apply_along_axis(lambda s: bt601(*s), 2, planes)
    assert np.abs(result - expected).max() <= 1.5


@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
def test_yuv_with_a_chroma_plane(encoding: str, padding: int) -> None:
    height, width = 6, 8
    luma, u, v = yuv_planes(height, width)
    pair = np.stack([u[::2, ::2], v[::2, ::2]] if encoding == "nv12" else [v[::2, ::2], u[::2, ::2]], axis=2)
    stacked = np.concatenate([luma, pair.reshape(height // 2, width)]).astype(np.uint8)
    result = image_to_rgb(message(stacked, encoding, padding=padding, height=height))
    expected = np.apply_along_axis(lambda s: bt601(*s), 2, np.stack([luma, u, v], axis=2))
    assert result.shape == (height, width, 3)
    assert np.abs(result - expected).max() <= 1.5


@pytest.mark.parametrize("padding", [0, 3])
def test_yuv_with_chroma_of_every_pixel(padding: int) -> None:
    """As V4L2 lays NV24 out: rows of chroma are twice as long as those of luma, their padding too."""
    height, width = 5, 7
    luma, u, v = np.random.default_rng(3).integers(16, 236, (3, height, width))
    rows = [np.pad(luma, ((0, 0), (0, padding)))]
    rows.append(np.pad(np.stack([u, v], axis=2).reshape(height, 2 * width), ((0, 0), (0, 2 * padding))))
    data = b"".join(part.astype(np.uint8).tobytes() for part in rows)
    sent = message(luma.astype(np.uint8), "nv24", padding=padding)
    sent.data = data
    expected = np.apply_along_axis(lambda s: bt601(*s), 2, np.stack([luma, u, v], axis=2))
    assert np.abs(image_to_rgb(sent) - expected).max() <= 1.5
    sent.data = data[: -padding - 1]
    with pytest.raises(ImageError, match="7 x 5 image of encoding 'nv24'"):
        image_to_rgb(sent)


def test_every_encoding_is_in_a_test() -> None:
    bayer = {f"bayer_{p}{b}" for p in ("rggb", "bggr", "gbrg", "grbg") for b in (8, 16)}
    packed = {"yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv12", "nv21", "nv24"}
    assert set(ENCODINGS) == {row[0] for row in TABLE} | bayer | packed


def strided(data: bytes) -> np.ndarray:
    wide = np.zeros(2 * len(data), np.uint8)
    wide[::2] = np.frombuffer(data, np.uint8)
    return wide[::2]


@pytest.mark.parametrize(
    "container",
    [bytes, bytearray, memoryview, list, lambda b: array.array("B", b), lambda b: np.frombuffer(b, np.uint8), strided],
    ids=["bytes", "bytearray", "memoryview", "list", "array", "ndarray", "non-contiguous"],
)
def test_data_of_any_container(container: Callable[[bytes], Any]) -> None:
    sent = message(bgr(RGB), "bgr8", padding=2)
    sent.data = container(sent.data)
    np.testing.assert_array_equal(image_to_rgb(sent), RGB)


def test_the_last_row_may_come_without_its_padding() -> None:
    sent = message(RGB, "rgb8", padding=5)
    sent.data = sent.data[:-5]
    np.testing.assert_array_equal(image_to_rgb(sent), RGB)


@pytest.mark.parametrize("encoding", ["rgb8", "mono8", "bgr8"])
def test_the_result_is_independent_of_the_message(encoding: str) -> None:
    sent = message(EIGHT if encoding == "mono8" else RGB, encoding)
    sent.data = bytearray(sent.data)
    result = image_to_rgb(sent)
    before = result.copy()
    sent.data[:] = bytes(len(sent.data))
    np.testing.assert_array_equal(result, before)
    assert result.flags.writeable and result.flags.c_contiguous


@pytest.mark.parametrize("encoding", ["rgb8", "mono8", "bgr8", "mono16", "nv12"])
@pytest.mark.parametrize("padding", [0, 4])
def test_sharing_memory_changes_no_pixel(encoding: str, padding: int) -> None:
    random = np.random.default_rng(0)
    shape = {"rgb8": (6, 8, 3), "bgr8": (6, 8, 3), "nv12": (9, 8)}.get(encoding, (6, 8))
    sent = message(random.integers(0, 256, shape).astype(np.uint16 if encoding == "mono16" else np.uint8), encoding)
    if encoding == "nv12":
        sent.height = 6
    if padding:
        rows = np.frombuffer(sent.data, np.uint8).reshape(shape[0], -1)
        sent.data, sent.step = np.pad(rows, ((0, 0), (0, padding))).tobytes(), sent.step + padding
    given = array.array("B", sent.data)
    sent.data = given
    shared = image_to_rgb(sent, copy=False)
    np.testing.assert_array_equal(shared, image_to_rgb(sent))
    shares = np.shares_memory(shared, np.frombuffer(given, np.uint8))
    assert shares == (encoding in ("rgb8", "mono8") and not padding)
    sent.data = bytes(given)
    np.testing.assert_array_equal(image_to_rgb(sent, copy=False), shared)


def test_full_scale() -> None:
    twelve_bits = np.arange(0, 4096, 5, dtype=np.uint16).reshape(1, -1)
    for encoding in ("mono16", "16UC1"):
        result = image_to_rgb(message(twelve_bits, encoding), full_scale=4096)
        np.testing.assert_array_equal(result, twelve_bits >> 4)
    unit = np.array([[0.0, 0.5, 1.0, 2.0]], np.float32)
    np.testing.assert_array_equal(image_to_rgb(message(unit, "32FC1"), full_scale=1.0), [[0, 128, 255, 255]])
    np.testing.assert_array_equal(image_to_rgb(message(RGB, "rgb8"), full_scale=4096), RGB)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="full_scale must be a positive number"):
            image_to_rgb(message(unit, "32FC1"), full_scale=wrong)


def test_a_pixel_does_not_depend_on_the_rest_of_its_frame() -> None:
    frames = [np.array([[3000, other]], np.uint16) for other in (0, 4000, 65535)]
    for encoding in ("mono16", "16UC1"):
        values = {int(image_to_rgb(message(frame, encoding))[0, 0]) for frame in frames}
        assert len(values) == 1


def test_nothing_is_warned_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_to_rgb(message(METRES, "32FC1"))
        signalling_nan = Image(1, 1, "32FC1", 0, 4, bytes.fromhex("0100a07f"))
        assert image_to_rgb(signalling_nan).tolist() == [[0]]
        image_to_rgb(message(SIXTEEN, "mono16", big=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "rgb9"}, r"unknown image encoding 'rgb9'; known are .*mono8.*rgb8"),
        ({"encoding": ""}, r"unknown image encoding ''"),
        ({"width": 0}, r"0 x 7 image .* has no area"),
        ({"height": 0}, r"9 x 0 image .* has no area"),
        ({"step": 26}, r"a step of 26 bytes, but a row takes 27"),
        ({"step": 0}, r"a step of 0 bytes"),
        ({"data": RGB.tobytes()[:-1]}, r"holds 188 bytes, expected 189"),
        ({"data": RGB.tobytes() + b"x"}, r"holds 190 bytes, expected 189"),
        ({"data": b""}, r"holds 0 bytes"),
        ({"height": 8}, r"holds 189 bytes, expected 216"),
        ({"data": [0, 300]}, r"must be bytes"),
        ({"data": RGB.astype(np.int16)}, r"must be uint8, got an array of int16"),
        ({"data": 3.5}, r"got float"),
        ({"encoding": "yuv422"}, r"odd width"),
        ({"encoding": "nv12", "width": 8}, r"odd height"),
    ],
)
def test_bad_messages_are_refused(change: dict[str, Any], words: str) -> None:
    sent = message(RGB, "rgb8")
    for name, value in change.items():
        setattr(sent, name, value)
    with pytest.raises(ImageError, match=words):
        image_to_rgb(sent)


def encoded(extension: str, image: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(extension, image, options)
    assert done
    return data.tobytes()


SMOOTH = ramps(16, 24, np.uint8)
PNG = (".png", bgr(SMOOTH))
COMPRESSED: list[tuple[str, bytes, np.ndarray, float]] = [
    ("png", encoded(*PNG), SMOOTH, 0),
    ("jpeg", encoded(".jpg", bgr(SMOOTH), cv2.IMWRITE_JPEG_QUALITY, 100), SMOOTH, 4),
    ("rgb8; jpeg compressed bgr8", encoded(".jpg", bgr(SMOOTH), cv2.IMWRITE_JPEG_QUALITY, 100), SMOOTH, 4),
    ("rgb8; png compressed bgr8", encoded(*PNG), SMOOTH, 0),
    ("bayer_rggb8; jpeg compressed bgr8", encoded(".jpg", bgr(SMOOTH), cv2.IMWRITE_JPEG_QUALITY, 100), SMOOTH, 4),
    ("bgra8; png compressed bgr8", encoded(".png", with_alpha(bgr(SMOOTH))), SMOOTH, 0),
    ("rgb8; png compressed rgb8", encoded(".png", SMOOTH), SMOOTH, 0),
    ("mono8; png compressed ", encoded(".png", EIGHT), EIGHT, 0),
    ("mono8; jpeg compressed ", encoded(".jpg", SMOOTH[..., 0], cv2.IMWRITE_JPEG_QUALITY, 100), SMOOTH[..., 0], 2),
    ("mono16; png compressed ", encoded(".png", SIXTEEN), SIXTEEN >> 8, 0),
    ("16UC1; png compressed ", encoded(".png", MILLIMETRES), DEPTH_8[:2], 0),
    ("rgb16; png compressed bgr16", encoded(".png", bgr(RGB16)), RGB, 0),
    ("", encoded(*PNG), SMOOTH, 0),
]


@pytest.mark.parametrize(("described", "data", "expected", "tolerance"), COMPRESSED, ids=[row[0] for row in COMPRESSED])
def test_compressed(described: str, data: bytes, expected: np.ndarray, tolerance: float) -> None:
    for container in (bytes, lambda b: array.array("B", b), lambda b: np.frombuffer(b, np.uint8)):
        result = compressed_to_rgb(CompressedImage(described, container(data)))
        assert result.dtype == np.uint8 and result.shape == expected.shape
        assert np.abs(result.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("bits", [8, 16])
def test_a_mosaic_compressed_as_it_is(bits: int) -> None:
    dtype = np.uint8 if bits == 8 else np.uint16
    data = encoded(".png", mosaic(ramps(12, 14, dtype), "gbrg"))
    result = compressed_to_rgb(CompressedImage(f"bayer_gbrg{bits}; png compressed ", data))
    np.testing.assert_array_equal(result[1:-1, 1:-1], ramps(12, 14, np.uint8)[1:-1, 1:-1])


@pytest.mark.parametrize(
    ("described", "data", "words"),
    [
        ("16UC1; compressedDepth png", encoded(".png", MILLIMETRES), "depth transport"),
        ("16UC1; compressedDepth rvl", b"\0" * 12, "depth transport"),
        ("jpeg", b"", "is empty"),
        ("jpeg", b"this is no picture", "'jpeg'.* is text, not a picture"),
        ("jpeg", b"\0\1\2\3 noise", r"'jpeg'.* 10 bytes that begin with 00 01 02 03"),
        ("png", encoded(*PNG)[:20], "is a PNG, but cut short"),
        # Parts of H.264 and H.265: a picture that needs others, a delimiter, a short start code; and of AV1.
        ("h264", b"\0\0\0\1\x41\x9a", "'h264'.* a piece of one, no picture: .*republish"),
        ("h264", b"\0\0\0\1\x09\x10\0\0\0\1\x67", "a piece of one, no picture"),
        ("hevc", b"\0\0\1\x02\x01\xd0", "a piece of one, no picture"),
        ("av1", b"\x12\0\x0a\x0a", "a piece of one, no picture"),
    ],
)
def test_bad_compressed_messages_are_refused(described: str, data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        compressed_to_rgb(CompressedImage(described, data))


def test_messages_of_rosbags() -> None:
    types = pytest.importorskip("rosbags.typesys").get_typestore(
        pytest.importorskip("rosbags.typesys").Stores.ROS2_JAZZY
    )
    stamp = types.types["builtin_interfaces/msg/Time"](1, 2)
    header = types.types["std_msgs/msg/Header"](stamp, "camera")
    data = np.frombuffer(message(bgr(RGB), "bgr8", padding=3).data, np.uint8)
    made = types.types["sensor_msgs/msg/Image"](header, 7, 9, "bgr8", 0, 30, data)
    read = types.deserialize_cdr(types.serialize_cdr(made, "sensor_msgs/msg/Image"), "sensor_msgs/msg/Image")
    np.testing.assert_array_equal(image_to_rgb(read), RGB)
