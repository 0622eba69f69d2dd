"""What the demo measures, from its recording alone. No ROS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from semantic_matcher.demo.scenes import transfer
from semantic_matcher.demo.sequences import Sequence
from semantic_matcher_core.io.bags import BagReader
from semantic_matcher_core.io.messages import stamp_of

CORRECT_PX = 3.0
"""A match is correct up to this distance from the true position, pixels."""

_HOMOGRAPHY_PX = 3.0
_EPIPOLAR_PX = 1.5


@dataclass(frozen=True, eq=False)
class Match:
    """One Matches message.

    Attributes:
        stamp_ns, reference_stamp_ns: of the current (or right) and the reference (previous or left) image.
        points0, points1: ``M x 2`` float64 (x, y) in pixels of the reference and the current image.
        confidence: ``M``, higher is better.
        latency_s: seconds from the stamp of the current image to the arrival of the message at the recorder.
    """

    stamp_ns: int
    reference_stamp_ns: int
    points0: np.ndarray
    points1: np.ndarray
    confidence: np.ndarray
    latency_s: float


@dataclass(frozen=True, eq=False)
class Recording:
    """What one matcher sent.

    Attributes:
        matches: its Matches messages in the order of their arrival.
        keypoints: keypoints of each image it processed.
    """

    matches: tuple[Match, ...]
    keypoints: tuple[int, ...]


@dataclass(frozen=True)
class Figures:
    """What the demo prints of one matcher; ``None`` where it cannot be measured.

    Attributes:
        frames: frames sent.
        matched: frames for which matches came.
        dropped: frames for which none came though they should have; the first of a temporal sequence has no partner.
        keypoints, matches: medians per image and per pair.
        correct: share of all matches within :data:`CORRECT_PX` of the true position.
        homography, epipolar: medians of the share of matches that agree with one homography (3 px), or with one
            fundamental matrix (1.5 px).
        latency_ms, latency_p95_ms: median and 95th percentile, from image stamp to match message.
    """

    frames: int
    matched: int
    dropped: int
    keypoints: int
    matches: int
    latency_ms: float
    latency_p95_ms: float
    correct: float | None = None
    homography: float | None = None
    epipolar: float | None = None


def read_recording(path: Path, matches_topic: str, keypoints_topics: tuple[str, ...]) -> Recording:
    """Return what one matcher sent, out of an MCAP file.

    Raises:
        BagError: the file cannot be read.
    """
    matches, keypoints = [], []
    with BagReader(path) as bag:
        for item in bag.messages([matches_topic, *keypoints_topics]):
            message = item.message
            if item.topic != matches_topic:
                keypoints.append(len(message.scores))
                continue
            stamp_ns = stamp_of(message.header)
            matches.append(
                Match(
                    stamp_ns,
                    stamp_of(message.reference_header),
                    np.asarray(message.xy0, np.float64).reshape(-1, 2),
                    np.asarray(message.xy1, np.float64).reshape(-1, 2),
                    np.asarray(message.confidence, np.float64),
                    (item.received_ns - stamp_ns) * 1e-9,
                )
            )
    return Recording(tuple(matches), tuple(keypoints))


def errors_px(match: Match, sequence: Sequence, index_of: Mapping[int, int]) -> np.ndarray:
    """Return ``M`` distances from the true positions in the current image, pixels; infinite where there is none.

    A keypoint on an edge may count to the side that the other image does not show: then the place of the pixel beside it
    is taken.

    Args:
        match: of a synthetic sequence.
        sequence: the sequence.
        index_of: frame of each stamp.
    """
    source = sequence.cameras(index_of[match.reference_stamp_ns])[0]
    target = sequence.cameras(index_of[match.stamp_ns])[-1]
    truth = transfer(sequence.scene, source, target, match.points0)
    for aside in np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]):
        missing = np.isnan(truth[:, 0])
        truth[missing] = transfer(sequence.scene, source, target, match.points0[missing] + aside) - aside
    return np.nan_to_num(np.linalg.norm(truth - match.points1, axis=1), nan=np.inf)


def homography_inliers(match: Match) -> np.ndarray:
    """Return ``M`` bool: which matches agree with one homography; none below four."""
    if len(match.points0) < 4:
        return np.zeros(len(match.points0), bool)
    _, inliers = cv2.findHomography(match.points0, match.points1, cv2.USAC_MAGSAC, _HOMOGRAPHY_PX)
    return np.zeros(len(match.points0), bool) if inliers is None else inliers.ravel() > 0


def epipolar_inliers(match: Match) -> np.ndarray:
    """Return ``M`` bool: which matches agree with one fundamental matrix; none below eight."""
    if len(match.points0) < 8:
        return np.zeros(len(match.points0), bool)
    _, inliers = cv2.findFundamentalMat(match.points0, match.points1, cv2.USAC_MAGSAC, _EPIPOLAR_PX, 0.999, 10_000)
    return np.zeros(len(match.points0), bool) if inliers is None else inliers.ravel() > 0


def measure(
    recording: Recording, stamps: Mapping[int, int], *, first_has_no_partner: bool, sequence: Sequence | None = None
) -> Figures:
    """Return the figures of one matcher.

    Args:
        recording: what it sent; at least one Matches message.
        stamps: frame of each stamp that the camera sent.
        first_has_no_partner: the first frame is matched with nothing.
        sequence: where the true positions are known from.
    """
    matched = {match.stamp_ns for match in recording.matches} & set(stamps)
    latencies = 1000.0 * np.array([match.latency_s for match in recording.matches])
    correct = homography = epipolar = None
    if sequence is not None:
        errors = np.concatenate([errors_px(match, sequence, stamps) for match in recording.matches])
        correct = float(np.mean(errors <= CORRECT_PX)) if len(errors) else 0.0
    else:
        shares = [
            (homography_inliers(match).mean(), epipolar_inliers(match).mean())
            for match in recording.matches
            if len(match.points0)
        ]
        homography, epipolar = (float(share) for share in np.median(shares or [(0.0, 0.0)], axis=0))
    return Figures(
        frames=len(stamps),
        matched=len(matched),
        dropped=len(stamps) - len(matched) - int(first_has_no_partner),
        keypoints=int(np.median(recording.keypoints)) if recording.keypoints else 0,
        matches=int(np.median([len(match.points0) for match in recording.matches])),
        latency_ms=float(np.median(latencies)),
        latency_p95_ms=float(np.percentile(latencies, 95)),
        correct=correct,
        homography=homography,
        epipolar=epipolar,
    )
