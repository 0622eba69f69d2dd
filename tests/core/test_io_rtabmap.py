"""Descriptors for RTAB-Map, read back as its uncompressData does."""

from __future__ import annotations

import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ShapeError
from semantic_matcher_core.io.rtabmap import compressed_matrix, descriptor_rows, keypoint_rows
from semantic_matcher_core.types import Features


def uncompressed(data: bytes) -> np.ndarray:
    """The last three int32 are rows, columns and OpenCV's type; zlib stops where its stream does."""
    rows, columns, kind = np.frombuffer(data[-12:], "<i4")
    assert kind == cv2.CV_32FC1
    return np.frombuffer(zlib.decompressobj().decompress(data), "<f4").reshape(rows, columns)


@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (2048, 128), (70_000, 3)])
def test_a_matrix_comes_back_as_it_was(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(uncompressed(compressed_matrix(rows)), rows)


def test_rows_that_do_not_lie_together() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    np.testing.assert_array_equal(uncompressed(compressed_matrix(rows)), rows)


def test_no_rows_are_no_bytes() -> None:
    assert compressed_matrix(np.zeros((0, 64), np.float32)) == b""


@pytest.mark.parametrize("rows", [np.zeros(4, np.float32), np.zeros((2, 2))])
def test_what_is_no_matrix_of_float32_is_refused(rows: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="N x D matrix of float32"):
        compressed_matrix(rows)


def test_rows_hold_what_matching_compares() -> None:
    parts = {name: torch.rand(1, 5, width) for name, width in (("descriptors", 4), ("reasoned", 3), ("semantic", 2))}
    place = torch.zeros(1, 5, 2), torch.ones(1, 5)
    plain = Features(*place, parts["descriptors"], (10, 10))
    np.testing.assert_array_equal(descriptor_rows(plain), parts["descriptors"][0])
    reasoned = Features(*place, parts["descriptors"], (10, 10), reasoned=parts["reasoned"], semantic=parts["semantic"])
    expected = torch.cat([parts["reasoned"], parts["semantic"]], dim=2)[0]
    np.testing.assert_array_equal(descriptor_rows(reasoned), expected)


def test_keypoints_have_the_fields_of_opencv() -> None:
    xy, scores = torch.tensor([[[3.0, 4.5], [0.0, 7.0]]]), torch.tensor([[0.9, 0.2]])
    plain = Features(xy, scores, torch.ones(1, 2, 4), (10, 10))
    np.testing.assert_allclose(keypoint_rows(plain), [[3, 4.5, 1, -1, 0.9], [0, 7, 1, -1, 0.2]])
    turned = replace(plain, scales=torch.tensor([[6.0, 2.0]]), orientations=torch.tensor([[-torch.pi / 2, torch.pi]]))
    np.testing.assert_allclose(keypoint_rows(turned), [[3, 4.5, 6, 270, 0.9], [0, 7, 2, 180, 0.2]], rtol=1e-6)
    assert keypoint_rows(Features(xy[:, :0], scores[:, :0], torch.ones(1, 0, 4), (10, 10))).shape == (0, 5)
