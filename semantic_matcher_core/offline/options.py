"""What a run does."""

from __future__ import annotations

from dataclasses import dataclass, field

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.offline.pairing import MODES
from semantic_matcher_core.settings import turns_of
from semantic_matcher_core.streams import TemporalPairing, slop_of

IMAGE_CHOICES = ("jpeg", "none")


@dataclass(frozen=True)
class RunOptions:
    """What a run does; the same options on the same recording give the same file.

    Attributes:
        mode: ``temporal``, ``stereo`` or ``reference``.
        pairing: which earlier image, in temporal mode.
        sync: which left and right images are a pair, in stereo mode: ``approximate``, those nearest in time; ``exact``,
            those of equal stamps.
        slop_s: largest difference between their stamps in seconds, with ``approximate``; 0 for three quarters of the
            frame period.
        queue_size: images of each side that wait for their partner, in stereo mode.
        rotation: how images may be turned against the stored ones (mode reference): ``upright``, ``quarter``, ``any``.
        geometry: ``None``, ``"homography"`` or ``"fundamental"``.
        geometry_threshold: largest distance of an inlier from the model, in pixels.
        descriptors: write descriptors as well; they are large.
        images: ``"jpeg"`` to write the images beside the results, or ``"none"``.
        jpeg_quality: 1 to 100.
        namespace: put before all topics, as a node's namespace is.
    """

    mode: str = "temporal"
    pairing: TemporalPairing = field(default_factory=TemporalPairing)
    sync: str = "approximate"
    slop_s: float = 0.0
    queue_size: int = 10
    rotation: str = "upright"
    geometry: str | None = None
    geometry_threshold: float = 2.0
    descriptors: bool = False
    images: str = "jpeg"
    jpeg_quality: int = 90
    namespace: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"unknown mode {self.mode!r}; use one of {', '.join(MODES)}")
        slop_of(self.sync, self.slop_s)
        turns_of(self.rotation)
        if self.images not in IMAGE_CHOICES:
            raise ConfigError(f"unknown choice of images {self.images!r}; use one of {', '.join(IMAGE_CHOICES)}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality must be from 1 to 100, got {self.jpeg_quality}")
