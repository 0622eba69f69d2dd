"""Registration of one image onto a template: matches, non-rigid check, spline, warp, and how well it went."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.errors import RegistrationError
from semantic_matcher_core.geometry.smoothing_spline import fit_smoothing
from semantic_matcher_core.geometry.thin_plate import ThinPlateSpline
from semantic_matcher_core.matching.nonrigid import nonrigid_inliers
from semantic_matcher_core.registration.config import RegistrationConfig
from semantic_matcher_core.registration.lattice import lattice_of_spline, warp
from semantic_matcher_core.registration.template import ImageMatcher, Template, as_rgb, extract_features
from semantic_matcher_core.types import Features, Matches

# Of 60 unrelated pairs of photographs, with compact, XFeat and DALF, the sum of both was 0.77 at most and the share
# 0.37; of 60 bent, dimmed and noisy ones the sum was 0.91 at least.
_SURE_SHARE, _LEAST_LIKENESS = 0.5, 0.8


@dataclass(frozen=True, eq=False)
class Fit:
    """A smooth map from a template into an image, and the matches it comes from.

    Attributes:
        matches: template to image, ``inlier`` set.
        spline: from pixels of the template to pixels of the image.
        residual_px: median distance of the inliers from the spline, in the image.
        lattice: the spline over the template, see ``registration.lattice``.
    """

    matches: Matches
    spline: ThinPlateSpline
    residual_px: float
    lattice: np.ndarray

    @property
    def bending_energy(self) -> float:
        """Of the spline, see :meth:`ThinPlateSpline.bending_energy`; 0 for an affine map."""
        return self.spline.bending_energy()

    @property
    def inliers(self) -> int:
        """Number of matches that the map agrees with."""
        assert self.matches.inlier is not None
        return int(self.matches.inlier.sum())


@dataclass(frozen=True, eq=False)
class Agreement:
    """An image warped onto a template, and how alike the two are there.

    Attributes:
        warped: ``H x W x 3`` uint8, the image as it would look from where the template was taken; black outside it.
        support: ``H x W`` bool: inside the hull of the inliers' keypoints, where the map is known and not extrapolated,
            and inside the image.
        coverage: share of the template that ``support`` is.
        error: mean absolute difference of grey levels (0 … 255) between template and ``warped`` over ``support``.
        error_before: the same without registration: template and image laid over each other as they are. NaN where
            the image does not reach ``support``.
        correlation: of the grey levels over ``support``, in [-1, 1]; unlike ``error``, brightness and contrast do not
            change it.
    """

    warped: np.ndarray
    support: np.ndarray
    coverage: float
    error: float
    error_before: float
    correlation: float


@dataclass(frozen=True, eq=False)
class Registration:
    """A template and an image, registered.

    Attributes:
        fit: the map and its matches.
        agreement: the image on the template.
    """

    fit: Fit
    agreement: Agreement

    def to_image(self, points: Tensor) -> Tensor:
        """Return where ``P x 2`` points of the template lie in the image."""
        return self.fit.spline(points)

    def to_template(self, points: Tensor) -> Tensor:
        """Return where ``P x 2`` points of the image lie in the template; NaN where the map folds."""
        return self.fit.spline.inverse_points(points)


def register_pair(
    matcher: ImageMatcher,
    template: np.ndarray,
    image: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    config: RegistrationConfig | None = None,
) -> Registration:
    """Register an image onto a template.

    Args:
        matcher: ``SemanticMatcher.from_pretrained("plain:dalf")``, or any other.
        template, image: ``H x W x 3`` uint8 RGB (or grey) arrays of any sizes.
        mask: ``H x W`` of the template, non-zero on the object.

    Raises:
        ImageError: an image or the mask cannot be used.
        RegistrationError: too little texture, too few matches agree with one smooth deformation, or they do so by
            chance (:func:`check_likeness`).
    """
    return register_onto(matcher, Template.from_image(matcher, template, mask=mask, config=config), image, config)


def register_onto(
    matcher: ImageMatcher, template: Template, image: np.ndarray, config: RegistrationConfig | None = None
) -> Registration:
    """Register as :func:`register_pair` does, with a template that is there already."""
    config = config or RegistrationConfig()
    image = as_rgb(image)
    template = template.beside(matcher, image, config)
    matches = smooth_matches(matcher, template.features, extract_features(matcher, image, config.max_side), config)
    fit = fit_map(matches, template, config)
    agreement = compare(template, image, fit, fit.lattice)
    check_likeness(fit, agreement)
    return Registration(fit, agreement)


def smooth_matches(
    matcher: ImageMatcher, features0: Features, features1: Features, config: RegistrationConfig
) -> Matches:
    """Return matches whose ``inlier`` tells which of them agree with one smooth deformation."""
    return with_smooth_inliers(matcher.match(features0, features1), config)


def with_smooth_inliers(matches: Matches, config: RegistrationConfig) -> Matches:
    """Return matches with their ``inlier``: which of them agree with one smooth deformation."""
    inlier = nonrigid_inliers(
        matches.keypoints0,
        matches.keypoints1,
        threshold=config.threshold,
        hypotheses=config.hypotheses,
        seed=config.seed,
    )
    return replace(matches, inlier=inlier)


def fit_map(matches: Matches, template: Template, config: RegistrationConfig) -> Fit:
    """Return the smooth map that agrees with the inliers of matches.

    Args:
        matches: see :func:`smooth_matches`.
        template: the first image, which the map's lattice covers.

    Raises:
        RegistrationError: too few inliers.
    """
    inlier = matches.inlier
    assert inlier is not None
    found = int(inlier.sum())
    if found < config.min_inliers:
        raise RegistrationError(
            f"only {found} of {len(matches)} matches agree with one smooth deformation, at least {config.min_inliers} "
            "are needed; the image may not show the template, or be too blurred or too small"
        )
    source, target = matches.keypoints0[inlier].double(), matches.keypoints1[inlier].double()
    spline, distances = fit_smoothing(source, target, config.regularisation)
    size = template.features.image_size
    # Where matches were found in a smaller one, nothing finer than its pixels is known.
    step = round(config.step_px * max(size) / (template.side or max(size)))
    return Fit(
        matches,
        spline,
        residual_px=float(distances.median()),
        lattice=lattice_of_spline(spline, size, step),
    )


def compare(template: Template, image: np.ndarray, fit: Fit, lattice: np.ndarray) -> Agreement:
    """Return an image on the template through ``lattice``, which is ``fit.lattice`` or, in a video, a smoothed one."""
    size = template.features.image_size
    warped, inside = warp(image, lattice, size)
    support = inside & _hull(fit.matches, size)
    grey = _grey(template.image)
    known, seen = (shown[support].astype(np.float32) for shown in (grey, _grey(warped)))
    # As they are, they overlap where both have pixels.
    both = np.s_[: image.shape[0], : image.shape[1]]
    overlap = support[both]
    before, laid_over = (
        shown[overlap].astype(np.float32) for shown in (grey[both], _grey(image)[: size[0], : size[1]])
    )
    return Agreement(
        warped,
        support,
        coverage=float(support.mean()),
        error=_mean_difference(known, seen),
        error_before=_mean_difference(before, laid_over),
        correlation=_correlation(known, seen),
    )


def check_likeness(fit: Fit, agreement: Agreement) -> None:
    """Check that a map is no work of chance, by the share of matches that agree with it and by what it shows.

    Wrong matches of unrelated pictures agree with a map, too, the more so where they were searched for by those around
    them: up to 37 % of them, or 181, were seen.

    Raises:
        RegistrationError: fewer than half agree, and template and image are not alike there either.
    """
    share = fit.inliers / len(fit.matches)
    if share < _SURE_SHARE and not share + agreement.correlation >= _LEAST_LIKENESS:
        raise RegistrationError(
            f"{fit.inliers} of {len(fit.matches)} matches agree with one smooth deformation, and the image does not "
            f"look like the template there (correlation {agreement.correlation:.2f}): so few agree by chance; it may "
            "not show the template"
        )


def _hull(matches: Matches, size: tuple[int, int]) -> np.ndarray:
    keypoints = matches.keypoints0[matches.inlier].round().to(torch.int32).cpu().numpy()
    filled = np.zeros(size, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(keypoints), 1)
    return filled > 0


def _grey(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def _mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean()) if a.size else float("nan")


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if a.size == 0:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / spread if spread > 0 else 0.0
