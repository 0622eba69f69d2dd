"""Which earlier frame a frame of a stream is matched with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from semantic_matcher_core.errors import ConfigError, check_choice
from semantic_matcher_core.streams.frames import MatchedPair

REFERENCE_POLICIES = ("previous", "every_nth", "keyframe")
# Cells per side of the grid that tells how much of the reference is still in view.
_OVERLAP_GRID = 8


@dataclass(frozen=True)
class TemporalPairing:
    """Which earlier frame a frame is matched against.

    Attributes:
        policy: ``previous`` (the frame before), ``every_nth`` (one frame serves as reference for the next ``every_nth``
            frames) or ``keyframe`` (one frame serves until too little of it is found again).
        every_nth: frames that a reference serves for, with policy ``every_nth``.
        min_inlier_share: a keyframe is replaced when fewer of its keypoints than this share (of the smaller of the two
            sets) are matched; inliers alone count where a geometric check ran.
        min_overlap: a keyframe is replaced when less than this share of its occupied area is matched.
    """

    policy: str = "previous"
    every_nth: int = 5
    min_inlier_share: float = 0.25
    min_overlap: float = 0.4

    def __post_init__(self) -> None:
        check_choice("reference policy", self.policy, REFERENCE_POLICIES)
        if self.every_nth < 1:
            raise ConfigError(f"every_nth must be a whole number from 1 up, got {self.every_nth!r}")
        for name in ("min_inlier_share", "min_overlap"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must be from 0 to 1, got {getattr(self, name)!r}")

    def replaces(self, served: int, pair: MatchedPair) -> bool:
        """Return whether the current frame of the pair becomes the reference, which has served for ``served``
        frames.
        """
        if self.policy == "previous":
            return True
        if self.policy == "every_nth":
            return served >= self.every_nth
        return inlier_share(pair) < self.min_inlier_share or overlap(pair) < self.min_overlap


def inlier_share(pair: MatchedPair) -> float:
    """Return matched keypoints (inliers where a geometric check ran) over those of the frame that has fewer; 0
    without any.
    """
    smaller = min(pair.reference.features.keypoints.shape[1], pair.current.features.keypoints.shape[1])
    if smaller == 0:
        return 0.0
    inlier = pair.matches.inlier
    return (len(pair.matches) if inlier is None else int(inlier.sum())) / smaller


def overlap(pair: MatchedPair) -> float:
    """Return share of the reference that is matched: of the cells of an 8 x 8 grid that hold keypoints; 0 without
    any.
    """
    matches = pair.matches
    # Matches may be on the host where features are not.
    keypoints = pair.reference.features.keypoints[0].to(matches.keypoints0.device)
    occupied = _cells(keypoints, pair.reference.features.image_size)
    total = int(occupied.sum())
    if total == 0:
        return 0.0
    matched = matches.keypoints0 if matches.inlier is None else matches.keypoints0[matches.inlier]
    return int((_cells(matched, pair.reference.features.image_size) & occupied).sum()) / total


def _cells(keypoints: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    height, width = image_size
    scale = keypoints.new_tensor([_OVERLAP_GRID / width, _OVERLAP_GRID / height])
    cell = ((keypoints + 0.5) * scale).long().clamp(0, _OVERLAP_GRID - 1)
    occupied = torch.zeros(_OVERLAP_GRID**2, dtype=torch.bool, device=keypoints.device)
    occupied[cell[:, 1] * _OVERLAP_GRID + cell[:, 0]] = True
    return occupied
