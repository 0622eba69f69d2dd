"""What odometry and localisation keep of an image: its features, where they look, and how far away what they see is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semantic_matcher_core.errors import ConfigError, ImageError
from semantic_matcher_core.geometry.camera import Camera
from semantic_matcher_core.geometry.depth import sample_depth
from semantic_matcher_core.motion.disparity import align_rows
from semantic_matcher_core.motion.metric import Observation
from semantic_matcher_core.motion.patches import PatchImage
from semantic_matcher_core.types import Features, Matches

# A disparity of less than this tells little more than "far", which is enough to know the rotation by.
_LEAST_DISPARITY_PX = 0.3
# Depth of fewer pixels a side is none that a camera takes; of more, its sides are the image's by one factor, rounded.
_LEAST_DEPTH_PX, _ROUNDING_SHARE = 8, 0.02


@dataclass(frozen=True)
class DepthNoise:
    """Standard deviation of a depth camera's depth z in metres: ``floor + quadratic * z²``.

    The defaults are those of structured light and active stereo at short range (Khoshelham and Elberink, Sensors 2012:
    1.4e-3 z²).

    Attributes:
        floor: metres.
        quadratic: 1/m.
    """

    floor: float = 0.002
    quadratic: float = 0.0015

    def __post_init__(self) -> None:
        if not (self.floor >= 0 and self.quadratic >= 0 and self.floor + self.quadratic > 0):
            raise ConfigError(f"noise of depth must not be negative, nor none, got {self}")


@dataclass(frozen=True, eq=False)
class View:
    """Features of one image with what is known of their place in space.

    Attributes:
        features: of one image, N keypoints.
        seen: the N keypoints as rays, and their inverse depths.
        stamp: nanoseconds.
        camera: that took the image; with ``patches``, what poses are refined by.
        patches: the image, or ``None`` where it is not at hand.
    """

    features: Features
    seen: Observation
    stamp: int = 0
    camera: Camera | None = None
    patches: PatchImage | None = None


def observation(
    keypoints: np.ndarray,
    camera: Camera | np.ndarray,
    inverse_depth: np.ndarray | None = None,
    std: np.ndarray | None = None,
) -> Observation:
    """Return rays of keypoints, with depth where it is given.

    Args:
        keypoints: ``N x 2`` pixels of the image as given.
        camera: that took it; a ``3 x 3`` matrix is one without distortion.
        inverse_depth, std: ``N`` each, in 1/m; ``None`` for no depth at all.
    """
    camera = Camera.of(camera)
    pixels = camera.undistorted(keypoints)
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(camera.matrix).T
    nothing = np.full(len(pixels), np.nan)
    focal = float(np.mean([camera.matrix[0, 0], camera.matrix[1, 1]]))
    return Observation(
        rays[:, :2] / rays[:, 2:],
        nothing if inverse_depth is None else inverse_depth,
        nothing.copy() if std is None else std,
        focal,
    )


def mono_view(
    features: Features, camera: Camera | np.ndarray, *, image: np.ndarray | None = None, stamp: int = 0
) -> View:
    """Make a view without depth; arguments as for :func:`depth_view`."""
    camera = Camera.of(camera)
    return View(features, observation(_pixels(features), camera), stamp, camera, _patches(image))


def depth_view(
    features: Features,
    depth: np.ndarray,
    camera: Camera | np.ndarray,
    *,
    image: np.ndarray | None = None,
    scale: float | None = None,
    noise: DepthNoise | None = None,
    max_depth: float = 0.0,
    stamp: int = 0,
) -> View:
    """Make a view of features and the depth image that belongs to their image, pixel by pixel (registered).

    Args:
        features: of one image.
        depth: ``H x W`` along z; uint16 (millimetres) or floats (metres). 0, NaN and infinity are unknown. It may be
            smaller or larger than the image by one factor for both sides.
        camera: that took the image; a ``3 x 3`` matrix is one without distortion.
        image: ``H x W`` or ``H x W x 3``; with it poses are refined to a fraction of a pixel.
        scale: metres of a depth of 1; ``None`` for 0.001 of integers and 1 of floats (REP-118).
        noise: of the depth.
        max_depth: farther ones are left out; 0 for no limit.
        stamp: nanoseconds.

    Raises:
        ImageError: depth of another shape or type, or of other proportions than the image.
    """
    noise = noise or DepthNoise()
    height, width = features.image_size
    depth = np.asarray(depth)
    if depth.ndim != 2 or not depth.size or depth.dtype.kind not in "uif":
        raise ImageError(f"a depth image is H x W of integers (millimetres) or floats (metres), got {depth.shape}")
    factor = depth.shape[1] / width
    rounding = min(1.0, _ROUNDING_SHARE * depth.shape[0])
    if min(depth.shape) < _LEAST_DEPTH_PX or abs(depth.shape[0] - height * factor) > rounding:
        raise ImageError(
            f"depth of {depth.shape[1]} x {depth.shape[0]} does not belong to an image of {width} x {height}: "
            "it must be registered to it, of its size or of its proportions"
        )
    metres = scale if scale is not None else (1.0 if depth.dtype.kind == "f" else 0.001)
    pixels = _pixels(features)
    z = sample_depth(depth, (pixels + 0.5) * factor - 0.5) * metres
    if max_depth > 0:
        z = np.where(z <= max_depth, z, np.nan)
    camera = Camera.of(camera)
    std = (noise.floor + noise.quadratic * z**2) / z**2
    return View(features, observation(pixels, camera, 1.0 / z, std), stamp, camera, _patches(image))


def stereo_view(
    matches: Matches,
    features: Features,
    left: np.ndarray,
    right: np.ndarray,
    projection_left: np.ndarray,
    projection_right: np.ndarray,
    *,
    max_row_difference: float = 2.0,
    stamp: int = 0,
) -> View:
    """Make a view of a rectified pair: the left image's features, with depth where disparity can be measured.

    Args:
        matches: between left and right; where a geometric check ran, its inliers alone are used.
        features: of the left image.
        left, right: the images, as for :func:`~semantic_matcher_core.motion.disparity.align_rows`.
        projection_left, projection_right: ``3 x 4``, as for
            :func:`~semantic_matcher_core.geometry.stereo.points_from_disparity`.
        max_row_difference: matches whose rows differ by more pixels are left out.
        stamp: nanoseconds.

    Raises:
        ConfigError: projection matrices that are not those of a rectified pair.
    """
    from semantic_matcher_core.geometry.stereo import points_from_disparity

    p0, p1 = np.asarray(projection_left, dtype=np.float64), np.asarray(projection_right, dtype=np.float64)
    points_from_disparity(np.zeros((0, 2)), np.zeros((0, 2)), p0, p1)  # refuses what is no rectified pair
    keypoints0, keypoints1 = (k.detach().cpu().double().numpy() for k in (matches.keypoints0, matches.keypoints1))
    aligned = align_rows(left, right, keypoints0, keypoints1)
    disparity = (keypoints0[:, 0] - p0[0, 2]) - (aligned.columns - p1[0, 2])
    use = aligned.aligned & (np.abs(keypoints0[:, 1] - keypoints1[:, 1]) <= max_row_difference)
    use &= disparity >= _LEAST_DISPARITY_PX
    if matches.inlier is not None:
        use &= matches.inlier.cpu().numpy()
    rows = matches.indices[:, 0].cpu().numpy()[use]
    per_pixel = 1.0 / (p0[0, 3] - p1[0, 3])
    pixels = _pixels(features)
    inverse_depth, std = np.full(len(pixels), np.nan), np.full(len(pixels), np.nan)
    inverse_depth[rows], std[rows] = disparity[use] * per_pixel, aligned.std[use] * per_pixel
    camera = Camera(p0[:, :3])
    return View(features, observation(pixels, camera, inverse_depth, std), stamp, camera, _patches(left))


def _patches(image: np.ndarray | None) -> PatchImage | None:
    return None if image is None else PatchImage(image)


def _pixels(features: Features) -> np.ndarray:
    return features.keypoints[0].detach().cpu().double().numpy()
