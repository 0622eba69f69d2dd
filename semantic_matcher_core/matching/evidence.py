"""Why a match won: the similarities of a keypoint to all of the other image, by texture, by semantics and by both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semantic_matcher_core.errors import ShapeError
from semantic_matcher_core.matching.similarity import FusedSimilarity
from semantic_matcher_core.settings import MatcherConfig
from semantic_matcher_core.types import Features, Matches


@dataclass(frozen=True, eq=False)
class Evidence:
    """Similarities of ``K`` keypoints of the first image to all ``N`` of the second.

    Attributes:
        texture: ``K x N`` float32, of what the extractor, or the reasoner's texture branch, gave.
        semantic: ``K x N`` of the semantic branch, or ``None`` where matching uses none.
        both: ``K x N``, what matching compares: the two fused, or ``texture`` itself.
    """

    texture: Tensor
    semantic: Tensor | None
    both: Tensor

    def kinds(self) -> dict[str, Tensor]:
        """Return the similarities by name; without semantics ``texture`` alone."""
        if self.semantic is None:
            return {"texture": self.texture}
        return {"texture": self.texture, "semantics": self.semantic, "both": self.both}


def evidence(features0: Features, features1: Features, rows: Tensor, config: MatcherConfig | None = None) -> Evidence:
    """Compare some keypoints of the first image with all of the second.

    Args:
        features0, features1: of one image each, by the same matcher.
        rows: ``K`` int64, which keypoints of the first.
        config: how similarities are fused; ``None`` for the defaults.

    Raises:
        ShapeError: batches of several images.

    Example:
        >>> features = Features(torch.zeros(1, 2, 2), torch.ones(1, 2), torch.eye(2)[None], (4, 4))
        >>> evidence(features, features, torch.tensor([1])).both.tolist()
        [[0.0, 1.0]]
    """
    if len(features0) != 1 or len(features1) != 1:
        raise ShapeError(f"evidence is of one pair, got batches of {len(features0)} and {len(features1)}")
    config = config or MatcherConfig()
    name = "descriptors" if features0.reasoned is None else "reasoned"
    first, second = (getattr(f, name).float() for f in (features0, features1))
    first = first[:, rows.to(first.device)]
    texture = (first @ second.transpose(1, 2))[0]
    if features0.semantic is None or features1.semantic is None or features0.reasoned is None:
        return Evidence(texture, None, texture)
    semantic0, semantic1 = features0.semantic.float()[:, rows.to(first.device)], features1.semantic.float()
    both = FusedSimilarity([first, semantic0], [second, semantic1], config).rows(0, first.shape[1])[0]
    return Evidence(texture, (semantic0 @ semantic1.transpose(1, 2))[0], both.clone())


def of_matches(features0: Features, features1: Features, matches: Matches) -> tuple[Tensor, Tensor | None]:
    """Return texture and semantic similarity of each match, ``M`` each; the latter ``None`` where matching uses none.

    Args:
        features0, features1: of one image each.
        matches: between them.
    """
    rows0, rows1 = matches.indices.unbind(dim=1)

    def product(name: str) -> Tensor:
        return (getattr(features0, name)[0, rows0].float() * getattr(features1, name)[0, rows1].float()).sum(dim=-1)

    texture = product("descriptors" if features0.reasoned is None else "reasoned")
    return texture, None if features0.semantic is None or features1.semantic is None else product("semantic")


def nearest_keypoint(features: Features, point: tuple[float, float]) -> int:
    """Return the row of the keypoint nearest to a place in pixels.

    Raises:
        ShapeError: there is no keypoint.
    """
    if not features.keypoints.shape[1]:
        raise ShapeError("the image has no keypoint that could be compared")
    offset = features.keypoints[0] - torch.tensor(point, dtype=torch.float32, device=features.device)
    return int(offset.square().sum(dim=-1).argmin())
