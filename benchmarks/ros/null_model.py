"""A model that takes no time, or a given time: what is left is what the node itself costs."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch

from semantic_matcher.matching_model import MatchingModel
from semantic_matcher_core.extractors import Extractor
from semantic_matcher_core.networks import Parts
from semantic_matcher_core.networks.networks import eager_networks
from semantic_matcher_core.pipeline import SemanticMatcher
from semantic_matcher_core.settings import Settings
from semantic_matcher_core.types import Features, Matches

KEYPOINTS, DIMENSIONS = 2048, 256


class NullExtractor(Extractor):
    """Always the same keypoints and unit descriptors."""

    name = "null"
    descriptor_dim = DIMENSIONS

    def forward(self, images: torch.Tensor, masks: torch.Tensor | None = None) -> Features:
        raise NotImplementedError("NullMatcher answers without it")


class NullMatcher(SemanticMatcher):
    """Answers with the same features and matches after ``seconds`` for an image."""

    def __init__(self, seconds: float) -> None:
        super().__init__(eager_networks(Parts(NullExtractor())), Settings(), "null")
        generator = torch.Generator().manual_seed(0)
        descriptors = torch.randn(1, KEYPOINTS, DIMENSIONS, generator=generator)
        self.seconds = seconds
        self.answer = Features(
            torch.rand(1, KEYPOINTS, 2, generator=generator) * 400,
            torch.linspace(1, 0, KEYPOINTS)[None],
            torch.nn.functional.normalize(descriptors, dim=-1),
            (480, 640),
        )
        rows = torch.arange(KEYPOINTS)[:, None].expand(-1, 2).contiguous()
        keypoints = self.answer.keypoints[0]
        self.matches = Matches(rows, keypoints, keypoints, torch.ones(KEYPOINTS))

    def extract(self, image: Any, mask: Any = None) -> Features:
        if self.seconds:
            time.sleep(self.seconds)
        return self.answer

    def match(self, features0: Features, features1: Features) -> Matches:
        return self.matches


def load(seconds: float, settings: SimpleNamespace) -> MatchingModel:
    """Return what a node takes for its model."""
    return MatchingModel(NullMatcher(seconds))
