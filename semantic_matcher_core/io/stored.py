"""Features and matches of an upright image, for tools that see the file as it is stored."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from semantic_matcher_core.io.exif import to_stored, turns
from semantic_matcher_core.types import Features, Matches


def transformed(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return ``N x 2`` pixels moved by a ``3 x 3`` affine matrix, as float32."""
    if np.array_equal(matrix, np.eye(3)):
        return np.asarray(points, np.float32)
    return (np.asarray(points, np.float64) @ matrix[:2, :2].T + matrix[:2, 2]).astype(np.float32)


def as_stored(features: Features, orientation: int) -> Features:
    """Return features of one image, on the CPU, with the places, the size and the orientations they have in the file.

    Args:
        features: of the upright image; a batch of one.
        orientation: EXIF's, 1 to 8, by which the file was turned.
    """
    if orientation == 1:
        return features
    matrix = to_stored(orientation, features.image_size)
    keypoints = torch.from_numpy(transformed(matrix, features.keypoints[0].cpu().numpy()))[None]
    height, width = features.image_size
    size = (width, height) if turns(orientation) else (height, width)
    angles = features.orientations
    if angles is not None:
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1) @ torch.from_numpy(matrix[:2, :2].T).to(angles)
        angles = torch.atan2(directions[..., 1], directions[..., 0]) % (2 * math.pi)
    return replace(features, keypoints=keypoints, image_size=size, orientations=angles)


def matches_as_stored(
    matches: Matches, orientations: tuple[int, int], sizes: tuple[tuple[int, int], tuple[int, int]]
) -> Matches:
    """Return matches of one pair, on the CPU, with the keypoints and the model that hold for the two files.

    Args:
        matches: of the upright images.
        orientations: EXIF's, 1 to 8, by which the files were turned.
        sizes: (height, width) of the upright images.
    """
    matrices = [to_stored(orientation, size) for orientation, size in zip(orientations, sizes, strict=True)]
    keypoints = [
        torch.from_numpy(transformed(matrix, points.numpy()))
        for matrix, points in zip(matrices, (matches.keypoints0, matches.keypoints1), strict=True)
    ]
    model = matches.model
    if model is not None and matches.model_type:
        model = torch.from_numpy(model_as_stored(model.double().numpy(), matches.model_type, *matrices)).to(model)
    return replace(matches, keypoints0=keypoints[0], keypoints1=keypoints[1], model=model)


def model_as_stored(model: np.ndarray, model_type: str, matrix0: np.ndarray, matrix1: np.ndarray) -> np.ndarray:
    """Return a ``3 x 3`` model from the first image to the second, for the pixels that the two matrices lead to."""
    if model_type == "homography":
        return matrix1 @ model @ np.linalg.inv(matrix0)
    if model_type == "fundamental":
        return np.linalg.inv(matrix1).T @ model @ np.linalg.inv(matrix0)
    # Rays turn as pixels do; where the principal point lies is no part of it.
    return _rotation(matrix1) @ model @ _rotation(matrix0).T


def _rotation(matrix: np.ndarray) -> np.ndarray:
    turned = np.eye(3)
    turned[:2, :2] = matrix[:2, :2]
    return turned
