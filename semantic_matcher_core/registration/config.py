"""Options of a registration."""

from __future__ import annotations

from dataclasses import dataclass

from semantic_matcher_core.errors import ConfigError


@dataclass(frozen=True)
class RegistrationConfig:
    """How an image is registered onto a template.

    Attributes:
        threshold: of the non-rigid check, see :func:`~semantic_matcher_core.matching.nonrigid.nonrigid_inliers`.
        hypotheses: planes that it tries.
        regularisation: of the spline through the inliers; 0 goes through every match, noise included.
        min_inliers: with fewer there is no registration. Between unrelated photographs chance alone gave DALF up to 29
            (536 pairs measured), XFeat up to 60, and a guided search more; what it gives beyond is refused by how
            unlike template and image are (``registration.pair.check_likeness``).
        step_px: spacing of the lattice on which the spline is evaluated, at the size of the template that features were
            taken at; between, it is interpolated.
        max_side: features are taken from images no larger than this (long side in pixels); what comes out has the
            size of what goes in. ``None`` for no bound.
        seed: of the random sampling.
    """

    threshold: float = 0.1
    hypotheses: int = 4000
    regularisation: float = 1e-2
    min_inliers: int = 30
    step_px: int = 8
    max_side: int | None = 1600
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("hypotheses", 1), ("min_inliers", 3), ("step_px", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if not self.threshold > 0:
            raise ConfigError(f"threshold must be above 0, got {self.threshold}")
        if not self.regularisation >= 0:
            raise ConfigError(f"regularisation must be 0 or more, got {self.regularisation}")
        if self.max_side is not None and self.max_side < 32:
            raise ConfigError(f"max_side must be 32 pixels or more, or None, got {self.max_side}")
