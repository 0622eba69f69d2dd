"""How two sets of features are matched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from semantic_matcher_core.errors import ConfigError

FUSIONS = ("product", "sum", "concat")


@dataclass(frozen=True)
class MatcherConfig:
    """Options of the matcher; the defaults are those of the published reasoners.

    Distances are those of unit vectors: ``distance² = 2 (1 - similarity)``. Fused similarities are put into the same
    formula, as the published matcher does, although a sum of two of them can exceed 1.

    Attributes:
        mutual: keep a pair only when each is the other's nearest neighbour.
        ratio: keep a nearest neighbour only when its distance is at most ``ratio`` times that of the second nearest
            (Lowe 2004), in both directions when ``mutual``; in (0, 1]. Where there is no second one it is kept.
        max_distance: keep only matches at most this far apart; in (0, 2].
        min_similarity: keep only matches at least this similar (after fusion).
        fusion: how texture and semantic similarity become one: ``"product"``, ``"sum"`` (weighted), or ``"concat"``
            (that of the concatenated vectors, which is the sum of both).
        weights: of ``reasoned`` and ``semantic`` in the sum, in this order; only with ``fusion="sum"``.
        band_px: match only keypoints whose rows (y) differ by at most so many pixels, as those of rectified stereo
            images do; others are not even second nearest. ``None`` for no such restriction.
    """

    mutual: bool = True
    ratio: float | None = None
    max_distance: float | None = None
    min_similarity: float | None = None
    fusion: str = "product"
    weights: tuple[float, float] = (1.0, 1.0)
    band_px: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.mutual, bool):
            raise ConfigError(f"mutual must be true or false, got {self.mutual!r}")
        if self.ratio is not None and not (_is_number(self.ratio) and 0 < self.ratio <= 1):
            raise ConfigError(f"ratio must be in (0, 1], got {self.ratio!r}; leave it out for no ratio test")
        if self.max_distance is not None and not (_is_number(self.max_distance) and 0 < self.max_distance <= 2):
            raise ConfigError(f"max_distance must be in (0, 2], got {self.max_distance!r}; leave it out for no limit")
        if self.min_similarity is not None and not _is_number(self.min_similarity):
            raise ConfigError(f"min_similarity must be a number, got {self.min_similarity!r}")
        if self.band_px is not None and not (_is_number(self.band_px) and self.band_px >= 0):
            raise ConfigError(f"band_px must be 0 or more pixels, got {self.band_px!r}; leave it out for no band")
        if self.fusion not in FUSIONS:
            raise ConfigError(f"unknown fusion {self.fusion!r}; use one of {', '.join(FUSIONS)}")
        if not isinstance(self.weights, (tuple, list)) or len(self.weights) != 2:
            raise ConfigError(f"weights must be two numbers (of reasoned and semantic), got {self.weights!r}")
        if not all(_is_number(w) and w >= 0 for w in self.weights) or not any(self.weights):
            raise ConfigError(f"weights must be 0 or more and not both 0, got {self.weights!r}")
        object.__setattr__(self, "weights", (float(self.weights[0]), float(self.weights[1])))
        if self.fusion != "sum" and self.weights != (1.0, 1.0):
            raise ConfigError(f"weights {self.weights!r} are only used with fusion 'sum', not {self.fusion!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
