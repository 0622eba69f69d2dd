"""Surfaces in 3-D: sheets rolled round cylinders, rendered with depth, against where their points truly lie."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError, ImageError, RegistrationError
from semantic_matcher_core.geometry.depth import sample_depth
from semantic_matcher_core.motion.pose import nearest_rotation
from semantic_matcher_core.motion.trajectories import alignment
from semantic_matcher_core.registration.arap import ArapSolver, Constraints
from semantic_matcher_core.registration.mesh import back_project, mesh_of_depth
from semantic_matcher_core.registration.surface import SurfaceConfig, SurfaceRegistration, register_surfaces
from tests.core.rendered_sheets import WIDTH_M, Sheet, camera, turn

SIZE = (270, 360)
# What a registration must reach, as a share of the sheet's width; the best rigid motion stays far above it.
BOUND = 0.01


@pytest.fixture(scope="module")
def texture(textured: Callable[..., np.ndarray]) -> np.ndarray:
    return textured(480, 640, seed=2)


@pytest.fixture(scope="module")
def sift() -> SemanticMatcher:
    return SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=1500)


def errors(result: SurfaceRegistration, target: Sheet) -> tuple[np.ndarray, np.ndarray]:
    """Distances from the truth as shares of the width: of the deformed mesh, and of the best rigid motion.

    The first sheet lies flat and straight before the camera, so that x and y are its own coordinates.
    """
    truth = target.points(result.mesh.vertices[:, 0], result.mesh.vertices[:, 1])
    rigid = alignment(result.mesh.vertices, truth).apply(result.mesh.vertices)
    return tuple(np.linalg.norm(points - truth, axis=1) / WIDTH_M for points in (result.deformed, rigid))  # type: ignore[return-value]


def register(matcher: SemanticMatcher, texture: np.ndarray, target: Sheet, **options: object) -> SurfaceRegistration:
    flat = Sheet(texture).render(SIZE)
    return register_surfaces(matcher, *flat, *target.render(SIZE), camera(SIZE), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("radius_m", [0.30, -0.25])
def test_a_rolled_sheet_is_registered_where_a_rigid_motion_cannot(
    sift: SemanticMatcher, texture: np.ndarray, radius_m: float
) -> None:
    target = Sheet(texture, radius_m, turn((8, -10, 6)), (0.01, 0.0, 0.48))
    result = register(sift, texture, target)
    deformed, rigid = errors(result, target)
    assert np.median(rigid) > 3 * BOUND
    assert np.median(deformed) < BOUND
    assert np.quantile(deformed, 0.95) < 2 * BOUND
    assert result.residual_m < 0.2 * result.rigid_residual_m
    assert result.correspondences > 100


def test_dalf_registers_a_rolled_sheet(shared: Path, texture: np.ndarray) -> None:
    dalf = SemanticMatcher.from_pretrained("plain:dalf", device="cpu", weights=shared / "weights")
    target = Sheet(texture, 0.28, turn((5, -8, 20)), (0.0, 0.01, 0.48))
    deformed, rigid = errors(register(dalf, texture, target), target)
    assert np.median(deformed) < BOUND < np.median(rigid) / 3


def test_noisy_depth_with_holes_and_false_depth(sift: SemanticMatcher, texture: np.ndarray) -> None:
    random = np.random.default_rng(0)
    target = Sheet(texture, 0.3, None, (0.0, 0.0, 0.5))
    image, depth = target.render(SIZE)
    depth = np.where(depth > 0, depth + random.normal(0, 0.002, SIZE), 0).astype(np.float32)
    depth[100:130, 150:200] = np.nan
    depth[40:60, 100:140] += 0.5
    result = register_surfaces(sift, *Sheet(texture).render(SIZE), image, depth, camera(SIZE))
    deformed, _ = errors(result, target)
    assert np.median(deformed) < BOUND
    assert np.quantile(deformed, 0.9) < 2 * BOUND


def test_depth_speaks_where_there_are_no_matches(sift: SemanticMatcher, texture: np.ndarray) -> None:
    blank = texture.copy()
    blank[:, 400:] = 128
    target = Sheet(blank, 0.3, None, (0.0, 0.0, 0.5))
    results = [register(sift, blank, target, surface=SurfaceConfig(depth_m=reach)) for reach in (0.0, 0.02)]
    without, with_depth = (np.quantile(errors(result, target)[0], 0.9) for result in results)
    assert with_depth < 0.7 * without


def test_a_flat_sheet_only_moves(sift: SemanticMatcher, texture: np.ndarray) -> None:
    target = Sheet(texture, np.inf, turn((10, 15, 25)), (0.0, 0.0, 0.5))
    result = register(sift, texture, target)
    deformed, _ = errors(result, target)
    assert np.median(deformed) < 0.003
    assert result.rigid_residual_m < 0.002


def test_cameras_and_sizes_may_differ(sift: SemanticMatcher, texture: np.ndarray) -> None:
    target = Sheet(texture, 0.3, None, (0.0, 0.0, 0.5))
    other = (300, 380)
    result = register_surfaces(sift, *Sheet(texture).render(SIZE), *target.render(other), camera(SIZE), camera(other))
    deformed, _ = errors(result, target)
    assert np.median(deformed) < BOUND


def test_a_mask_limits_the_mesh(sift: SemanticMatcher, texture: np.ndarray) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[60:200, 60:240] = 1
    result = register(sift, texture, Sheet(texture, 0.3, None, (0, 0, 0.5)), mask=mask)
    assert (result.pixels >= 60).all() and (result.pixels < [240, 200]).all()
    projected = back_project(result.pixels, result.mesh.vertices[:, 2], camera(SIZE))
    np.testing.assert_allclose(projected, result.mesh.vertices, atol=1e-9)


def test_bad_input_is_refused(sift: SemanticMatcher, texture: np.ndarray) -> None:
    image, depth = Sheet(texture).render(SIZE)
    K = camera(SIZE)
    with pytest.raises(ImageError, match=r"depth of the second image is 135 x 180, its image 270 x 360"):
        register_surfaces(sift, image, depth, image, depth[::2, ::2], K)
    with pytest.raises(ImageError, match=r"depth of the first image is uint16, .* divide millimetres by 1000"):
        register_surfaces(sift, image, (depth * 1000).astype(np.uint16), image, depth, K)
    with pytest.raises(ConfigError, match="camera matrix"):
        register_surfaces(sift, image, depth, image, depth, np.zeros((3, 3)))
    with pytest.raises(RegistrationError, match="0 of those have depth in the second image"):
        register_surfaces(sift, image, depth, image, depth * 0, K)
    with pytest.raises(RegistrationError, match="lie on the surface that the first depth shows"):
        register_surfaces(sift, image, depth * 0, image, depth, K)
    with pytest.raises(RegistrationError, match="keypoints in the template"):
        register_surfaces(sift, image * 0, depth, image, depth, K)
    for option in ({"step_px": 0}, {"data_weight": 0.0}, {"depth_m": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(option))):
            SurfaceConfig(**option)  # type: ignore[arg-type]


def test_a_mesh_leaves_out_holes_and_edges() -> None:
    depth = np.full((40, 60), 1.0)
    depth[:, 30:] = 1.5
    depth[8:17, 8:17] = np.nan
    image = np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3)
    grid = mesh_of_depth(image, depth, camera((40, 60)), step=4)
    spans = grid.mesh.vertices[grid.mesh.faces][:, :, 2]
    assert (spans.max(axis=1) == spans.min(axis=1)).all()
    assert np.isfinite(grid.mesh.vertices).all() and np.unique(grid.mesh.faces).tolist() == list(
        range(len(grid.mesh.vertices))
    )
    x, y = grid.pixels.astype(int).T
    np.testing.assert_array_equal(grid.mesh.colours, image[y, x])
    assert not np.isnan(depth[y, x]).any()
    edges = grid.mesh.vertices[grid.mesh.faces]
    normals = np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])
    assert (normals[:, 2] < 0).all()  # towards the camera


def test_attachment_is_barycentric() -> None:
    K = camera((40, 60))
    grid = mesh_of_depth(np.zeros((40, 60, 3), np.uint8), np.full((40, 60), 2.0), K, step=5)
    pixels = np.random.default_rng(0).uniform(-5, 60, (300, 2))
    weights, attached = grid.attach(pixels)
    inside = ((pixels >= 0) & (pixels < [55, 35])).all(axis=1)
    np.testing.assert_array_equal(attached, inside)
    np.testing.assert_allclose(weights @ grid.pixels, pixels[attached], atol=1e-9)
    np.testing.assert_allclose(np.asarray(weights.sum(axis=1)).ravel(), 1)
    assert weights.data.min() >= -1e-12


def test_depth_between_pixels() -> None:
    y, x = np.mgrid[:20, :30].astype(float)
    depth = 1 + 0.002 * x + 0.001 * y
    depth[10, 10] = np.nan
    depth[:, 25:] += 1
    pixels = np.array([[3.25, 4.5], [9.5, 9.5], [24.5, 3], [-0.6, 3], [29, 19], [12, 19.6]])
    found = sample_depth(depth, pixels)
    np.testing.assert_allclose(found[[0, 4]], [1 + 0.002 * 3.25 + 0.001 * 4.5, 2 + 0.002 * 29 + 0.001 * 19], rtol=1e-6)
    assert np.isnan(found[[1, 2, 3, 5]]).all()


def test_rotations_are_found_and_never_reflect() -> None:
    random = np.random.default_rng(0)
    rotation = turn((40, -70, 100))
    points = random.normal(size=(20, 3))
    np.testing.assert_allclose(nearest_rotation((points @ rotation.T).T @ points), rotation, atol=1e-12)
    found = alignment(points, points @ rotation.T + [1, 2, 3])
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-12)
    np.testing.assert_allclose(found.translation, [1, 2, 3], atol=1e-12)
    covariance = random.normal(size=(50, 3, 3))
    np.testing.assert_allclose(np.linalg.det(nearest_rotation(covariance)), 1)


def test_every_turn_lowers_the_energy_and_a_rigid_motion_has_none() -> None:
    from scipy import sparse

    grid = mesh_of_depth(np.zeros((60, 80, 3), np.uint8), np.full((60, 80), 1.0), camera((60, 80)), step=8)
    vertices = grid.mesh.vertices
    solver = ArapSolver(vertices, grid.mesh.faces)
    assert solver.energy(vertices @ turn((10, 20, 30)).T + 0.5) == pytest.approx(0, abs=1e-12)
    chosen = np.array([0, 9, len(vertices) - 10, len(vertices) - 1])
    selection = sparse.csr_matrix((np.ones(4), (np.arange(4), chosen)), shape=(4, len(vertices)))
    targets = vertices[chosen] + [[0, 0, 0.3], [0, 0, 0], [0, 0, 0], [0, 0, 0.3]]
    pull = Constraints(selection, targets)
    positions, energies = vertices, []
    for _ in range(15):
        positions = solver.step(positions, [pull], 10.0)
        energies.append(solver.energy(positions) + 10.0 * np.square(pull.residuals(positions)).sum())
    assert all(b <= a + 1e-9 for a, b in pairwise(energies))
    assert pull.residuals(positions).max() < 0.05
    rested = np.linalg.norm(solver.rest, axis=1)
    stretched = np.linalg.norm(positions[solver.first] - positions[solver.second], axis=1)
    assert np.median(np.abs(stretched / rested - 1)) < 0.05
