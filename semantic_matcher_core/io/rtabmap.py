"""Local features as RTAB-Map's messages and its database have them.

Sources: the messages of the package rtabmap_msgs, and RTAB-Map's Compression.cpp for how a matrix is packed.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from semantic_matcher_core.errors import ShapeError
from semantic_matcher_core.types import Features

# OpenCV's type code of float32 with one channel, CV_32FC1.
_FLOAT32 = 5
_TAIL = struct.Struct("<iii")


def descriptor_rows(features: Features) -> np.ndarray:
    """Return one row for each keypoint that Euclidean distances are meaningful between.

    Args:
        features: of one image.

    Returns:
        ``N x D`` float32; with a reasoner, the reasoned and the semantic unit vector, one after the other.
    """
    columns = [features.descriptors if features.reasoned is None else features.reasoned]
    if features.semantic is not None:
        columns.append(features.semantic)
    return np.hstack([column[0].detach().cpu().float().numpy() for column in columns])


def keypoint_rows(features: Features) -> np.ndarray:
    """Return the fields of OpenCV's KeyPoint: ``N x 5`` float32 of x, y, size in pixels, angle in degrees, response.

    Args:
        features: of one image; without scales the size is 1, without orientations the angle -1, as OpenCV has it.
    """
    rows = np.empty((features.keypoints.shape[1], 5), np.float32)
    rows[:, :2] = features.keypoints[0].detach().cpu().numpy()
    rows[:, 2] = 1.0 if features.scales is None else features.scales[0].detach().cpu().numpy()
    turned = features.orientations
    rows[:, 3] = -1.0 if turned is None else np.degrees(turned[0].detach().cpu().numpy()) % 360
    rows[:, 4] = features.scores[0].detach().cpu().numpy()
    return rows


def compressed_matrix(rows: np.ndarray) -> bytes:
    """Pack a matrix: a zlib stream of its bytes, row by row, then its height, its width and its type as int32.

    The stream is stored, not compressed: of descriptors hardly a tenth would be saved, for many times the time.

    Args:
        rows: ``N x D`` float32.

    Returns:
        What RTAB-Map's ``uncompressData`` reads; nothing for a matrix without elements.

    Raises:
        ShapeError: no matrix of float32.
    """
    if rows.ndim != 2 or rows.dtype != np.float32:
        raise ShapeError(f"expected an N x D matrix of float32, got {rows.shape} {rows.dtype}")
    if not rows.size:
        return b""
    return zlib.compress(rows.astype("<f4").tobytes(), 0) + _TAIL.pack(*rows.shape, _FLOAT32)
