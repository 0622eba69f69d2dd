"""Registration of frame after frame onto the first of them or a given template.

Each frame is matched with the template itself and not with the frame before, so that errors do not add up and an object
that was hidden is found again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from semantic_matcher_core.errors import RegistrationError
from semantic_matcher_core.io.video import VideoFrame
from semantic_matcher_core.matching.sizes import AGREEING_SHARE, size_of, suits
from semantic_matcher_core.registration.config import RegistrationConfig
from semantic_matcher_core.registration.figures import FrameFigures
from semantic_matcher_core.registration.pair import (
    Agreement,
    Fit,
    check_likeness,
    compare,
    fit_map,
    smooth_matches,
    with_smooth_inliers,
)
from semantic_matcher_core.registration.smoothing import OneEuroFilter
from semantic_matcher_core.registration.template import ImageMatcher, Template, as_rgb, extract_features
from semantic_matcher_core.types import Features, Matches


@dataclass(frozen=True, eq=False)
class FrameRegistration:
    """One frame, registered or not.

    Attributes:
        frame: index, time stamp and image.
        template: what it was registered onto.
        features: of the frame, a batch of one.
        matches: template to frame; ``inlier`` tells which agree with one smooth deformation.
        is_template: whether it is the template itself.
        fit: the map, or ``None`` where the frame could not be registered.
        lattice: the map that was used: the fit's, or smoothed over time.
        agreement: of template and frame through ``lattice``.
        problem: why the frame could not be registered, or "".
    """

    frame: VideoFrame
    template: Template
    features: Features
    matches: Matches
    is_template: bool = False
    fit: Fit | None = None
    lattice: np.ndarray | None = None
    agreement: Agreement | None = None
    problem: str = ""

    def figures(self) -> FrameFigures:
        """Return how well it went."""
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


class TemplateTracker:
    """Registers frames onto one template, as they come.

    Attributes:
        matcher: of the template's features, and of the frames'.
        template: what to register onto; may be replaced at any time.
        config: may be replaced at any time.
        smoothing: steadies the map over time, or ``None``; it starts anew after a frame that could not be registered.
    """

    def __init__(
        self,
        matcher: ImageMatcher,
        template: Template,
        config: RegistrationConfig | None = None,
        smoothing: OneEuroFilter | None = None,
    ) -> None:
        self.matcher = matcher
        self.template = template
        self.config = config or RegistrationConfig()
        self.smoothing = smoothing
        self._served: tuple[Template, int] | None = None

    def track(self, frame: VideoFrame, features: Features | None = None, mask: Any = None) -> FrameRegistration:
        """Register one frame.

        Args:
            features: of the frame, where they are there already.
            mask: ``H x W`` of the frame, zero where keypoints are not wanted; ``None`` for everywhere.

        Raises:
            ImageError: the frame cannot be used.
        """
        image = as_rgb(frame.image)
        config = self.config
        template = self.template = self.template.beside(self.matcher, image, config)
        if features is None:
            features = extract_features(self.matcher, image, config.max_side, mask)
        matches = self._match(template, features)
        try:
            fit = fit_map(matches, template, config)
            lattice = fit.lattice if self.smoothing is None else self.smoothing(fit.lattice, frame.stamp_ns)
            agreement = compare(template, image, fit, lattice)
            check_likeness(fit, agreement)
        except RegistrationError as error:
            if self.smoothing is not None:
                self.smoothing.reset()
            return FrameRegistration(frame, template, features, matches, problem=str(error))
        return FrameRegistration(frame, template, features, matches, fit=fit, lattice=lattice, agreement=agreement)

    def _match(self, template: Template, features: Features) -> Matches:
        """Return matches of the template with a frame, at all sizes where the one that served the last does not do."""
        if self._served is not None and self._served[0] is template:
            size = self._served[1]
            seen = template.sizes[size]
            found = self.matcher.match(seen.features, features)
            matches = with_smooth_inliers(seen.restored(found, template.features), self.config)
            if self._agree(matches) and suits(
                template.sizes, size, found.keypoints0[matches.inlier], found.keypoints1[matches.inlier]
            ):
                return matches
        matches = smooth_matches(self.matcher, template.features, features, self.config)
        serves = size_of(template.sizes, matches)
        self._served = None if serves is None or not self._agree(matches) else (template, serves)
        return matches

    def _agree(self, matches: Matches) -> bool:
        assert matches.inlier is not None
        agreeing = int(matches.inlier.sum())
        return agreeing >= max(self.config.min_inliers, AGREEING_SHARE * len(matches))


def register_frames(
    matcher: ImageMatcher,
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
        smoothing, config: see :class:`TemplateTracker`.

    Raises:
        ImageError: a frame or the mask cannot be used.
        RegistrationError: the first frame has too little texture to be a template.
    """
    tracker = None if template is None else TemplateTracker(matcher, template, config, smoothing)
    for frame in frames:
        if tracker is not None:
            yield tracker.track(frame)
            continue
        template = Template.from_image(matcher, frame.image, mask=mask, config=config)
        tracker = TemplateTracker(matcher, template, config, smoothing)
        itself = template.features.rows(template.sizes[0].rows)
        yield replace(tracker.track(frame, itself), is_template=True)
