"""Models between upright images and those between their files say the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from semantic_matcher_core.io.exif import to_stored, turns
from semantic_matcher_core.io.stored import as_stored, model_as_stored, transformed
from semantic_matcher_core.types import Features

SIZE = (300, 400)
K = np.array([[350.0, 0, 199.5], [0, 350.0, 149.5], [0, 0, 1]])


@pytest.mark.parametrize(("turn0", "turn1"), list(itertools.product((1, 2, 3, 5, 6, 8), (1, 4, 6, 7, 8))))
def test_models_of_turned_files(turn0: int, turn1: int) -> None:
    random = np.random.default_rng(3)
    points = random.uniform((-2, -1.5, 4), (2, 1.5, 8), (30, 3))
    angle = 0.1
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    shift = np.array([0.5, 0.1, -0.2])
    cross = np.array([[0, -shift[2], shift[1]], [shift[2], 0, -shift[0]], [-shift[1], shift[0], 0]])
    essential = cross @ rotation
    fundamental = np.linalg.inv(K).T @ essential @ np.linalg.inv(K)
    homography = K @ rotation @ np.linalg.inv(K)
    rays = [points, points @ rotation.T + shift]
    x0, x1 = (np.column_stack([r[:, :2] / r[:, 2:], np.ones(30)]) @ K.T for r in rays)
    a0, a1 = to_stored(turn0, SIZE), to_stored(turn1, SIZE)
    s0, s1 = x0 @ a0.T, x1 @ a1.T
    found = model_as_stored(fundamental, "fundamental", a0, a1)
    assert np.abs(np.einsum("ni,ij,nj->n", s1, found, s0)).max() < 1e-9
    assert np.abs(np.einsum("ni,ij,nj->n", s1, fundamental, s0)).max() > 1e-3 or (turn0, turn1) == (1, 1)
    turned = s0 @ model_as_stored(homography, "homography", a0, a1).T
    expected = (x0 @ homography.T) @ a1.T
    np.testing.assert_allclose(turned / turned[:, 2:], expected / expected[:, 2:], atol=1e-8)
    k0, k1 = (_turned(K, turn, a) for turn, a in ((turn0, a0), (turn1, a1)))
    n0, n1 = s0 @ np.linalg.inv(k0).T, s1 @ np.linalg.inv(k1).T
    assert np.abs(np.einsum("ni,ij,nj->n", n1, model_as_stored(essential, "essential", a0, a1), n0)).max() < 1e-9


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientations_turn_with_the_pixels(turn: int) -> None:
    random = np.random.default_rng(turn)
    places, angles = random.uniform(20, 250, (9, 2)), random.uniform(0, 2 * np.pi, 9)
    ahead = places + np.column_stack([np.cos(angles), np.sin(angles)])
    rows = [torch.from_numpy(values)[None].float() for values in (places, angles)]
    given = Features(rows[0], rows[1], rows[0], SIZE, orientations=rows[1])
    found = as_stored(given, turn)
    matrix = to_stored(turn, SIZE)
    step = transformed(matrix, ahead) - transformed(matrix, places)
    wanted = np.arctan2(step[:, 1], step[:, 0])
    assert found.orientations is not None and ((found.orientations >= 0) & (found.orientations < 2 * np.pi)).all()
    np.testing.assert_allclose(np.exp(1j * found.orientations[0].numpy()), np.exp(1j * wanted), atol=1e-4)


def _turned(matrix: np.ndarray, turn: int, to_file: np.ndarray) -> np.ndarray:
    """The intrinsics of the file of a turned image: the principal point moves with the pixels."""
    centre = to_file @ (matrix[0, 2], matrix[1, 2], 1)
    focal = (matrix[1, 1], matrix[0, 0]) if turns(turn) else (matrix[0, 0], matrix[1, 1])
    return np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]])
