"""Depth images of ROS: encodings, padding, byte order, and the depth transport."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io.depth_messages import depth_of, unit_doubt

MILLIMETRES = np.array([[0, 1, 500], [1234, 40_000, 65_535]], np.uint16)
METRES = np.array([[np.nan, 0.5, 1.25], [2, 4, 8]], np.float32)


def raw(values: np.ndarray, encoding: str, *, padding: int = 0, big: bool = False) -> SimpleNamespace:
    height, width = values.shape
    rows = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
    row = len(rows) // height
    data = b"".join(rows[i * row : (i + 1) * row] + b"x" * padding for i in range(height))
    return SimpleNamespace(height=height, width=width, encoding=encoding, is_bigendian=int(big), step=row + padding,
                           data=data)  # fmt: skip


def compressed(values: np.ndarray, description: str, header: bytes = b"") -> SimpleNamespace:
    data = header + cv2.imencode(".png", values)[1].tobytes()
    return SimpleNamespace(format=description, data=np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("values", [MILLIMETRES, METRES])
@pytest.mark.parametrize(("padding", "big"), [(0, False), (5, False), (0, True)])
def test_raw_depth_comes_as_it_is(values, padding, big):
    found = depth_of(raw(values, "16UC1" if values.dtype == np.uint16 else "32FC1", padding=padding, big=big))
    assert found.dtype == values.dtype and found.dtype.isnative
    np.testing.assert_array_equal(found, values)


def test_the_depth_transport():
    header = struct.pack("<iff", 0, 0.0, 0.0)
    for message in (
        compressed(MILLIMETRES, "16UC1; compressedDepth png", header),
        compressed(MILLIMETRES, "16UC1; compressedDepth", header),
        compressed(MILLIMETRES, "16UC1; png compressed "),
    ):
        np.testing.assert_array_equal(depth_of(message), MILLIMETRES)
    # Quantised as the transport does it: up to 10 m, 1 cm at 1 m.
    quantum = 100.0 * 101.0
    offset = 1 - quantum / 10.0
    inverse = np.where(np.isfinite(METRES), quantum / METRES + offset, 0).astype(np.uint16)
    found = depth_of(compressed(inverse, "32FC1; compressedDepth png", struct.pack("<iff", 0, quantum, offset)))
    np.testing.assert_allclose(found, METRES, rtol=1e-3)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (raw(MILLIMETRES, "rgb8"), "rgb8"),
        (
            SimpleNamespace(**{**vars(raw(MILLIMETRES, "16UC1")), "data": b"12"}),
            "depth: the 3 x 2 image .* holds 2 bytes, expected 12",
        ),
        (compressed(MILLIMETRES.astype(np.uint8), "16UC1; compressedDepth png", b"x" * 12), "16 bits"),
        (SimpleNamespace(format="16UC1; compressedDepth rvl", data=b"x" * 40), "RVL"),
        (SimpleNamespace(format="16UC1; compressedDepth png", data=b""), "no PNG"),
        (SimpleNamespace(format="16UC1; compressedDepth png", data=b"x" * 12 + b"\x89PNG"), "decoded"),
    ],
)
def test_what_is_no_depth_is_named(message, named):
    with pytest.raises(ImageError, match=named):
        depth_of(message)


def test_the_last_rows_padding_may_be_left_out_as_of_images():
    message = raw(MILLIMETRES, "16UC1", padding=5)
    message.data = message.data[:-5]
    np.testing.assert_array_equal(depth_of(message), MILLIMETRES)


def test_depth_in_another_unit_is_doubted():
    metres = np.linspace(0.3, 8, 64 * 48, dtype=np.float32).reshape(48, 64)
    metres[:24] = np.nan
    assert unit_doubt(metres) == unit_doubt((metres[24:] * 1000).astype(np.uint16)) == ""
    assert "32FC1 is taken as metres" in unit_doubt(metres * 1000)
    assert "16UC1 is taken as millimetres" in unit_doubt(np.nan_to_num(metres).astype(np.uint16))
    assert unit_doubt(np.full_like(metres, np.nan)) == unit_doubt(np.zeros((3, 3), np.uint16)) == ""
