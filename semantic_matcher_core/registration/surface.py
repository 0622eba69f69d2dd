"""Registration of a bending surface in 3-D, from two RGB-D images.

The first image's depth becomes a mesh. Matches between the images, those that agree with one smooth deformation, become
pairs of points in space, towards which the mesh is deformed as rigidly as possible; then it is drawn onto the second
image's depth as well, which speaks where there are no matches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from semantic_matcher_core.errors import ConfigError, RegistrationError
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.geometry.depth import sample_depth
from semantic_matcher_core.motion.pose import Pose
from semantic_matcher_core.motion.trajectories import alignment
from semantic_matcher_core.registration.arap import ArapSolver, Constraints
from semantic_matcher_core.registration.config import RegistrationConfig
from semantic_matcher_core.registration.mesh import (
    DepthMesh,
    Mesh,
    back_project,
    check_depth,
    mesh_of_depth,
)
from semantic_matcher_core.registration.pair import smooth_matches
from semantic_matcher_core.registration.template import ImageMatcher, Template, as_rgb, extract_features


@dataclass(frozen=True)
class SurfaceConfig:
    """How surfaces are registered.

    Attributes:
        step_px: spacing of the mesh's vertices in the first image.
        data_weight: of a match against the stiffness of the mesh; larger follows matches more closely.
        outlier_m: matches further off than this, in metres, lose their hold.
        depth_m: the second depth draws vertices nearer than this to it; 0 leaves it out.
        turns: of deforming towards the matches, and again with the depth.
    """

    step_px: int = 8
    data_weight: float = 0.2
    outlier_m: float = 0.01
    depth_m: float = 0.01
    turns: int = 50

    def __post_init__(self) -> None:
        if self.step_px < 1 or self.turns < 1:
            raise ConfigError(f"step_px and turns must be 1 or more, got {self.step_px} and {self.turns}")
        if not (self.data_weight > 0 and self.outlier_m > 0 and self.depth_m >= 0):
            raise ConfigError(
                "data_weight and outlier_m must be above 0 and depth_m 0 or more, "
                f"got {self.data_weight}, {self.outlier_m} and {self.depth_m}"
            )


@dataclass(frozen=True, eq=False)
class SurfaceRegistration:
    """A surface in its first and its second shape.

    Attributes:
        mesh: as the first image shows it, in the first camera's frame.
        deformed: ``V x 3`` the same vertices in the second camera's frame.
        pixels: ``V x 2`` (x, y) of the vertices in the first image.
        correspondences: pairs of points in space that the matches gave.
        residual_m: median distance of the deformed mesh from the second points of those pairs.
        rigid_residual_m: the same for the best rigid motion: what the bend amounts to.
        stretch_energy: see :meth:`ArapSolver.energy`.
    """

    mesh: Mesh
    deformed: np.ndarray
    pixels: np.ndarray
    correspondences: int
    residual_m: float
    rigid_residual_m: float
    stretch_energy: float


def register_surfaces(
    matcher: ImageMatcher,
    image0: np.ndarray,
    depth0: np.ndarray,
    image1: np.ndarray,
    depth1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray | None = None,
    *,
    mask: np.ndarray | None = None,
    config: RegistrationConfig | None = None,
    surface: SurfaceConfig | None = None,
) -> SurfaceRegistration:
    """Deform the surface of the first RGB-D image into its shape in the second.

    Args:
        matcher: see :func:`~semantic_matcher_core.registration.pair.register_pair`.
        image0, image1: ``H x W x 3`` uint8 RGB.
        depth0, depth1: of the images' sizes, floating-point metres along the optical axis; 0, NaN or infinite where
            there is none.
        K0, K1: ``3 x 3`` camera matrices in pixels; ``None`` for the same camera. Lens distortion is to be
            removed before.
        mask: ``H x W`` of the first image, non-zero on the surface.
        config: of the matches' check.
        surface: of the mesh and its deformation.

    Raises:
        ImageError: an image cannot be used, or a depth is of another size or type.
        ConfigError, ShapeError: a camera matrix is none.
        RegistrationError: too little texture, too few matches, or too few of them with depth in both images.
    """
    config, surface = config or RegistrationConfig(), surface or SurfaceConfig()
    image0, image1 = as_rgb(image0), as_rgb(image1)
    z0 = check_depth(depth0, image0.shape[:2], "first image")
    z1 = check_depth(depth1, image1.shape[:2], "second image")
    K0 = Camera(K0).matrix
    K1 = K0 if K1 is None else Camera(K1).matrix
    template = Template.from_image(matcher, image0, mask=mask, config=config)
    if mask is not None:
        z0 = np.where(np.asarray(mask) != 0, z0, np.nan)
    grid = mesh_of_depth(image0, z0, K0, surface.step_px)
    pairs = _pairs(matcher, template, image1, z1, K1, config)
    grid = _constrained_parts(grid, pairs.pixels, config.min_inliers)
    attachment, attached = grid.attach(pairs.pixels)
    targets = pairs.points[attached]
    mesh = grid.mesh
    points = attachment @ mesh.vertices
    positions = _rigid_motion(points, targets).apply(mesh.vertices)
    matched = Constraints(attachment, targets, surface.outlier_m)
    rigid_residual = float(np.median(matched.residuals(positions)))

    solver = ArapSolver(mesh.vertices, mesh.faces)
    # From wide to narrow: at first the rigid pose is far off wherever the surface bends.
    for scale in np.geomspace(max(4 * rigid_residual, surface.outlier_m), surface.outlier_m, surface.turns):
        positions = solver.step(positions, [Constraints(attachment, targets, scale)], surface.data_weight)
    if surface.depth_m > 0:
        seen = _Depth(z1, K1)
        for _ in range(surface.turns):
            drawn = seen.constraints(positions, surface.depth_m)
            positions = solver.step(positions, [matched, drawn], surface.data_weight)
    return SurfaceRegistration(
        mesh,
        positions,
        grid.pixels,
        correspondences=len(targets),
        residual_m=float(np.median(matched.residuals(positions))),
        rigid_residual_m=rigid_residual,
        stretch_energy=solver.energy(positions),
    )


@dataclass(frozen=True, eq=False)
class _Pairs:
    """``N x 2`` pixels of the first image, and ``N x 3`` where they lie in space before the second camera."""

    pixels: np.ndarray
    points: np.ndarray


def _pairs(
    matcher: ImageMatcher,
    template: Template,
    image1: np.ndarray,
    depth1: np.ndarray,
    K1: np.ndarray,
    config: RegistrationConfig,
) -> _Pairs:
    features = extract_features(matcher, image1, config.max_side)
    matches = smooth_matches(matcher, template.features, features, config)
    pixels0, pixels1 = (
        keypoints[matches.inlier].double().cpu().numpy() for keypoints in (matches.keypoints0, matches.keypoints1)
    )
    depth = sample_depth(depth1, pixels1)
    known = np.isfinite(depth)
    if known.sum() < config.min_inliers:
        raise RegistrationError(
            f"{len(pixels0)} of {len(matches)} matches agree with one smooth deformation, {int(known.sum())} of those "
            f"have depth in the second image; at least {config.min_inliers} are needed"
        )
    return _Pairs(pixels0[known], back_project(pixels1, depth, K1)[known])


def _constrained_parts(grid: DepthMesh, pixels: np.ndarray, least: int) -> DepthMesh:
    """Return the connected parts of the mesh that enough pixels lie in; nothing is known about the others."""
    count = len(grid.mesh.vertices)
    attachment, _ = grid.attach(pixels)
    if attachment.shape[0] >= least:
        faces = grid.mesh.faces
        links = sparse.coo_matrix(
            (np.ones(len(faces) * 2), (faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel())), (count,) * 2
        )
        _, part = connected_components(links, directed=False)
        owner = part[attachment.indices[attachment.indptr[:-1]]]
        enough = np.bincount(owner, minlength=part.max() + 1) >= least
        if enough.any():
            return grid.without(~enough[part])
    raise RegistrationError(
        f"{attachment.shape[0]} matches lie on the surface that the first depth shows ({count} vertices), at least "
        f"{least} on one connected part are needed; the depth may have holes there, or a mask may be too small"
    )


def _rigid_motion(source: np.ndarray, target: np.ndarray) -> Pose:
    """Return the rigid motion of most pairs: those far off, by the median's measure, are left out in turns."""
    kept = np.ones(len(source), bool)
    for _ in range(5):
        motion = alignment(source[kept], target[kept])
        distance = np.linalg.norm(motion.apply(source) - target, axis=1)
        kept = distance <= 3 * np.median(distance)
    return motion


class _Depth:
    """The second depth image, as something that draws vertices towards its surface.

    Args:
        depth: ``H x W`` metres, NaN at holes.
        K: ``3 x 3`` camera matrix.
    """

    def __init__(self, depth: np.ndarray, K: np.ndarray) -> None:
        self.depth, self.K = depth, K
        y, x = np.mgrid[: depth.shape[0], : depth.shape[1]].astype(np.float64)
        points = back_project(np.stack([x, y], axis=-1), depth, K)
        normals = np.cross(np.gradient(points, axis=1), np.gradient(points, axis=0))
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        self.normals = normals / np.where(length > 0, length, np.nan)

    def constraints(self, positions: np.ndarray, reach_m: float) -> Constraints:
        """Pull each vertex nearer to the surface than ``reach_m`` to its foot on the tangent plane there.

        Along the plane it stays free to slide, as in point-to-plane registration (Chen and Medioni 1992).
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = positions[:, :2] / positions[:, 2:] * self.K[[0, 1], [0, 1]] + self.K[:2, 2]
        pixels = np.where((positions[:, 2:] > 0) & np.isfinite(pixels), pixels, -1.0)
        depth = sample_depth(self.depth, pixels)
        limit = np.array(self.depth.shape[::-1]) - 1
        x, y = np.clip(np.round(pixels), 0, limit).astype(int).T
        normals = self.normals[y, x]
        distance = ((back_project(pixels, depth, self.K) - positions) * normals).sum(axis=1)
        near = np.flatnonzero(np.abs(distance) < reach_m)  # false where anything is NaN
        shape = (len(near), len(positions))
        selection = sparse.csr_matrix((np.ones(len(near)), (np.arange(len(near)), near)), shape=shape)
        return Constraints(selection, positions[near] + distance[near, None] * normals[near], reach_m)
