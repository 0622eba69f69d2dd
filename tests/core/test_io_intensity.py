"""16-bit and float images of sensors that fill a part of their range."""

from __future__ import annotations

import logging
import struct
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io import notices
from semantic_matcher_core.io.image_messages import compressed_to_rgb, image_to_rgb
from semantic_matcher_core.io.images import decode_image
from semantic_matcher_core.io.intensity import FULL_SCALE_16, to_8_bit
from semantic_matcher_core.pipeline import SemanticMatcher


def message(image: np.ndarray, encoding: str) -> SimpleNamespace:
    height, width = image.shape[:2]
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=0, step=image.strides[0], data=image.tobytes()
    )


@pytest.fixture(scope="module")
def grey(textured_image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(textured_image, cv2.COLOR_RGB2GRAY)


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_fewer_bits_are_found_out(grey: np.ndarray, bits: int, encoding: str) -> None:
    samples = grey.astype(np.uint16) << (bits - 8)
    found = image_to_rgb(message(samples, encoding)).astype(int)
    if encoding == "mono16" or bits < 12:
        assert np.abs(found - grey.astype(int)).max() <= 1
    assert found.std() > 0.4 * grey.std()


@pytest.mark.parametrize(
    ("encoding", "samples"),
    [
        ("mono16", lambda g: 21_000 + 3 * g.astype(np.uint16)),  # a thermal camera: counts with an offset
        ("16UC1", lambda g: 7_500 + 2 * g.astype(np.uint16)),
        ("16UC1", lambda g: 12_000 + 2 * g.astype(np.uint16)),  # beyond what the encoding has as white
        ("mono16", lambda g: g.astype(np.uint16)),  # eight bits in sixteen
        ("mono16", lambda g: g.astype(np.uint16) << 2),
        ("mono16", lambda g: g.astype(np.uint16) << 8),
        ("32FC1", lambda g: g.astype(np.float32) / 255),
        ("32FC1", lambda g: 290 + g.astype(np.float32) / 20),  # kelvin
    ],
)
def test_enough_is_found_in_every_range(grey: np.ndarray, encoding: str, samples: object) -> None:
    matcher = SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=800)
    usual = len(matcher.match_images(grey[:, :600], grey[:, 40:]))
    wide = samples(grey)  # type: ignore[operator]
    pair = [image_to_rgb(message(np.ascontiguousarray(part), encoding)) for part in (wide[:, :600], wide[:, 40:])]
    assert len(matcher.match_images(*pair)) > 0.6 * usual


def test_files_and_compressed_messages_have_the_same_rule(grey: np.ndarray) -> None:
    samples = grey.astype(np.uint16) << 4
    _, png = cv2.imencode(".png", samples)
    raw = image_to_rgb(message(samples, "mono16"))
    packed = compressed_to_rgb(SimpleNamespace(format="mono16; png compressed ", data=png.tobytes()))
    assert np.array_equal(raw, packed) and np.array_equal(decode_image(png.tobytes())[..., 0], raw)
    fixed = decode_image(png.tobytes(), full_scale=65536)
    assert np.array_equal(fixed[..., 0], samples >> 8)


def test_full_and_dark_ranges_keep_the_usual_scale(grey: np.ndarray) -> None:
    wide = (grey.astype(np.uint16) << 8) | grey
    assert np.array_equal(to_8_bit(wide, FULL_SCALE_16), wide >> 8)
    flat = np.full((64, 64), 700, np.uint16)
    assert np.array_equal(to_8_bit(flat, FULL_SCALE_16), flat >> 8)


def test_the_range_is_steady_within_a_stream_and_said_once(
    grey: np.ndarray, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("semantic_matcher_core"), "propagate", True)
    notices.say_once.cache_clear()
    random = np.random.default_rng(0)
    tables = set()
    for _ in range(20):
        frame = 21_000 + 3 * grey.astype(np.float64) + random.normal(0, 4, grey.shape)
        tables.add(int(to_8_bit(frame.astype(np.uint16), FULL_SCALE_16, what="mono16 images")[0, 0]) // 16)
    assert len(tables) <= 2
    assert 1 <= len(set(caplog.messages)) <= 2 and "image_full_scale" in caplog.records[0].message
    caplog.clear()
    for brightness in range(9, 15):  # of 12 bits
        to_8_bit(grey.astype(np.uint16) * brightness, FULL_SCALE_16, what="mono16 images")
    assert len(set(caplog.messages)) == 1 and "values below 4096 only" in caplog.text


@settings(deadline=None, max_examples=80)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.sampled_from([None, 1e-30, 1.0, 65536.0, 1e30]))
def test_any_floats_become_eight_bits(values: list[float], full_scale: float | None) -> None:
    pixels = np.resize(np.array(values, np.float32), 256)  # as many as percentiles are taken of
    found = to_8_bit(pixels, 10.0, full_scale)
    assert found.dtype == np.uint8 and found.shape == pixels.shape


# Image messages of any layout.

_LAYOUTS = {"mono8": ("u1", 1), "rgb8": ("u1", 3), "bgr8": ("u1", 3), "bgra8": ("u1", 4), "rgba8": ("u1", 4),
            "mono16": ("u2", 1), "rgb16": ("u2", 3), "bgr16": ("u2", 3), "32FC1": ("f4", 1),
            "16UC1": ("u2", 1)}  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    encoding=st.sampled_from(sorted(_LAYOUTS)),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 7),
    big=st.booleans(),
    last_row_padded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_layout_gives_the_same_pixels(
    encoding: str, height: int, width: int, padding: int, big: bool, last_row_padded: bool, seed: int
) -> None:
    kind, channels = _LAYOUTS[encoding]
    random = np.random.default_rng(seed)
    samples = random.integers(0, 200, (height, width, channels)).astype(kind)
    rows = samples.astype(np.dtype(kind).newbyteorder(">" if big else "<")).reshape(height, -1).view(np.uint8)
    step = rows.shape[1] + padding
    data = b"".join(row.tobytes() + random.bytes(padding) for row in rows)
    data = data if last_row_padded or not padding else data[:-padding]
    found = image_to_rgb(
        SimpleNamespace(height=height, width=width, encoding=encoding, is_bigendian=int(big), step=step, data=data)
    )
    order = [2, 1, 0] if encoding.startswith("bgr") else [0, 1, 2]
    scale = {"u2": 10000.0 if encoding == "16UC1" else 65536.0, "f4": 10.0}.get(kind)
    wide = samples[..., order] if channels > 1 else samples[..., 0]
    expected = wide if scale is None else np.clip(np.floor(wide.astype(np.float64) * 256 / scale), 0, 255)
    assert np.array_equal(found, expected.astype(np.uint8))


@settings(deadline=None, max_examples=150)
@given(
    encoding=st.sampled_from([*sorted(_LAYOUTS), "nv12", "yuyv", "bayer_rggb8", "bayer_gbrg16", "8UC3", "", "x"]),
    height=st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1)),
    width=st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1)),
    step=st.one_of(st.integers(0, 200), st.integers(0, 2**32 - 1)),
    big=st.integers(0, 255),
    data=st.binary(max_size=2000),
)
def test_whatever_a_message_says_it_is_an_image_or_an_image_error(
    encoding: str, height: int, width: int, step: int, big: int, data: bytes
) -> None:
    fields = SimpleNamespace(height=height, width=width, encoding=encoding, is_bigendian=big, step=step, data=data)
    try:
        found = image_to_rgb(fields)
    except ImageError as error:
        assert str(error)
    else:
        assert found.shape[:2] == (height, width) and found.dtype == np.uint8


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    wide = np.random.default_rng(0).integers(0, 65535, (20, 30), np.uint16)
    return [cv2.imencode(suffix, i)[1].tobytes() for suffix, i in ((".jpg", image), (".png", image), (".png", wide))]


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_whatever_happens_to_a_compressed_image_it_is_an_image_or_an_image_error(
    data: st.DataObject, pictures: list[bytes]
) -> None:
    content = bytearray(data.draw(st.sampled_from(pictures)))
    for _ in range(data.draw(st.integers(0, 3))):
        # Headers above all: sizes, depths, kinds.
        place = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(content) - 1)))
        content[min(place, len(content) - 1)] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    described = data.draw(st.sampled_from(["jpeg", "png", "rgb8; jpeg compressed bgr8", "16UC1; png compressed ", "?"]))
    for read in (
        lambda: compressed_to_rgb(SimpleNamespace(format=described, data=bytes(content))),
        lambda: decode_image(bytes(content)),
    ):
        try:
            assert read().dtype == np.uint8
        except ImageError as error:
            assert str(error)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_header_of_billions_of_pixels_asks_for_no_memory(suffix: str) -> None:
    data = bytearray(cv2.imencode(suffix, np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    if suffix == ".png":
        data[16:24] = (40_000).to_bytes(4, "big") * 2
    else:
        place = data.index(b"\xff\xc0")
        data[place + 5 : place + 9] = (48_000).to_bytes(2, "big") * 2
    with pytest.raises(ImageError, match="too many"):
        decode_image(bytes(data))
    with pytest.raises(ImageError, match="too many"):
        compressed_to_rgb(SimpleNamespace(format="jpeg", data=bytes(data)))


def test_a_picture_is_not_damaged_for_being_large_or_flat() -> None:
    row = b"\0" + bytes(500)
    flat = np.unpackbits(np.frombuffer(row[1:], np.uint8))
    head = struct.pack(">IIBBBBB", 4000, 3000, 1, 0, 0, 0, 0)
    assert (decode_image(one_bit_png(head, zlib.compress(row * 3000, 9)))[0, :, 0] == flat).all()
    many = struct.pack(">IIBBBBB", 2**15, 2**14, 1, 0, 0, 0, 0)
    with pytest.raises(ImageError, match=r"32768 x 16384 pixels, and at most 268435456 are taken; make it smaller"):
        decode_image(one_bit_png(many, bytes(70_000)))
    with pytest.raises(ImageError, match="cannot be decoded: its header says that it is larger than any picture"):
        decode_image(b"P6 100000 100000 255\n" + bytes(100))


def one_bit_png(head: bytes, data: bytes) -> bytes:
    chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("suffix", "factor", "offset"),
    [(".tiff", 1.0, 0.0), (".tiff", 30.0, 280.0), (".tiff", 12.0, -6.0), (".tiff", 9.0, -40.0), (".tiff", 5e3, 0.0)],
)
def test_floats_are_seen_in_the_range_that_they_fill(
    grey: np.ndarray, kind: type, suffix: str, factor: float, offset: float, capfd: pytest.CaptureFixture[str]
) -> None:
    floats = (grey / 255 * factor + offset).astype(kind)  # radiance, kelvin, degrees Celsius, distances
    floats[:5] = np.nan
    _, data = cv2.imencode(suffix, floats)
    seen = decode_image(data.tobytes())
    assert seen.shape == (*grey.shape, 3) and (seen[:5] == 0).all()
    assert np.corrcoef(seen[5:, :, 0].ravel(), grey[5:].ravel())[0, 1] > 0.999
    assert np.ptp(seen[5:].astype(float)) > 0.35 * np.ptp(grey)
    fixed = decode_image(data.tobytes(), full_scale=2 * factor)[5:, :, 0]
    assert np.array_equal(fixed, np.clip(floats[5:] * (128 / factor), 0, 255).astype(np.uint8))
    assert capfd.readouterr().err == ""


def test_colours_of_floats_are_read_and_other_numbers_named() -> None:
    colours = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32)
    for suffix in (".tiff", ".hdr", ".pfm"):
        _, data = cv2.imencode(suffix, colours)
        assert np.abs(decode_image(data.tobytes()) / 256 - colours[..., ::-1]).max() < 0.02, suffix
    _, data = cv2.imencode(".tiff", np.ones((20, 30), np.int32))
    with pytest.raises(ImageError, match=r"1 x int32 a pixel; taken are 1, 3 or 4 channels of 8 or 16 bits or of floa"):
        decode_image(data.tobytes())
    with pytest.raises(ImageError, match="is an OpenEXR picture"):
        decode_image(b"v/1\x01\2\0\0\0" + bytes(200))
