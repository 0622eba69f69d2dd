"""Registration of frame after frame onto the first of them or a given template.

Each frame is matched with the template itself and not with the frame before, so that errors do not add up and an object
that was hidden is found again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from semantic_matcher_core.errors import RegistrationError
from semantic_matcher_core.io.video import VideoFrame
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.registration.config import RegistrationConfig
from semantic_matcher_core.registration.figures import FrameFigures
from semantic_matcher_core.registration.pair import Agreement, Fit, compare, fit_map
from semantic_matcher_core.registration.smoothing import OneEuroFilter
from semantic_matcher_core.registration.template import Template, extract_features


@dataclass(frozen=True, eq=False)
class FrameRegistration:
    """One frame, registered or not.

    Attributes:
        frame: index, time stamp and image.
        template: what it was registered onto.
        is_template: whether it is the template itself.
        fit: the map, or ``None`` where the frame could not be registered.
        lattice: the map that was used: the fit's, or smoothed over time.
        agreement: of template and frame through ``lattice``.
        problem: why the frame could not be registered, or "".
    """

    frame: VideoFrame
    template: Template
    is_template: bool = False
    fit: Fit | None = None
    lattice: np.ndarray | None = None
    agreement: Agreement | None = None
    problem: str = ""

    def figures(self) -> FrameFigures:
        """How well it went."""
        stamp_s = self.frame.stamp_ns * 1e-9
        if self.fit is None or self.agreement is None:
            return FrameFigures(self.frame.index, stamp_s, False)
        return FrameFigures(
            self.frame.index,
            stamp_s,
            True,
            len(self.fit.matches),
            self.fit.inliers,
            self.fit.residual_px,
            self.agreement.error,
            self.agreement.error_before,
            self.agreement.correlation,
            self.agreement.coverage,
            self.fit.bending_energy,
        )


def register_frames(
    matcher: SemanticMatcher,
    frames: Iterable[VideoFrame],
    *,
    template: Template | None = None,
    mask: np.ndarray | None = None,
    smoothing: OneEuroFilter | None = None,
    config: RegistrationConfig | None = None,
) -> Iterator[FrameRegistration]:
    """Register frames one after the other, as they come.

    Args:
        template: what to register onto; ``None`` for the first frame.
        mask: with no ``template``: ``H x W``, non-zero on the object in the first frame.
        smoothing: steadies the map over time; it starts anew after a frame that could not be registered.

    Raises:
        ImageError: a frame or the mask cannot be used.
        RegistrationError: the first frame has too little texture to be a template.
    """
    config = config or RegistrationConfig()
    for frame in frames:
        is_template = template is None
        if template is None:
            template = Template.from_image(matcher, frame.image, mask=mask, config=config)
            features = template.features
        else:
            features = extract_features(matcher, frame.image, config.max_side)
        try:
            fit = fit_map(matcher, template, features, config)
        except RegistrationError as error:
            if smoothing is not None:
                smoothing.reset()
            yield FrameRegistration(frame, template, is_template, problem=str(error))
            continue
        lattice = fit.lattice if smoothing is None else smoothing(fit.lattice, frame.stamp_ns)
        agreement = compare(template, frame.image, fit, lattice)
        yield FrameRegistration(frame, template, is_template, fit, lattice, agreement)
