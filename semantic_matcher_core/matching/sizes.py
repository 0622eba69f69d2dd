"""A stored image seen smaller as well, so that an image that shows it small finds its like.

Features are found again in an image that shows the same at two thirds to one and a half times the size, and learned
ones hardly at half or twice. Extracted once at several sizes, and matched with each, the size whose matches are the
most similar is the right one, as among turns (:mod:`~semantic_matcher_core.matching.turns`): for every extractor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import torch
from torch import Tensor

from semantic_matcher_core.extractors.resizing import keypoints_at_size
from semantic_matcher_core.geometry import robust
from semantic_matcher_core.matching.turns import joined
from semantic_matcher_core.types import Features, Matches

# How many times smaller an image is seen; each is half the one before, which is where one ends to serve.
_TIMES = (1, 2, 4)
# Long side in pixels below which an image shows too little.
_LEAST_SIDE = 96
# Matches are right where so large a share of so many agree with one fundamental matrix. Of wrong ones up to 0.44 did.
AGREEING_SHARE, _LEAST = 0.6, 20
_THRESHOLD_PX, _ITERATIONS = 3.0, 200
# Shown this many times as large or as small as it is seen, an image is better seen at another size: half-way to it
# in octaves, and a little more, so that what stands there does not change with every frame.
_SUITS = 1.5


@dataclass(frozen=True, eq=False)
class Seen:
    """One size of features at several.

    Attributes:
        features: of the image as it was seen: its size, pixels of it.
        rows: ``N`` int64, which rows of all they are.
    """

    features: Features
    rows: Tensor

    def restored(self, matches: Matches, whole: Features) -> Matches:
        """Return matches of :attr:`features` as those of all sizes: indices among all rows, pixels of the image as
        given.
        """
        rows = self.rows.to(matches.indices.device)[matches.indices[:, 0]]
        keypoints = whole.keypoints[0, rows.to(whole.device)].to(matches.keypoints0.device)
        return replace(matches, indices=torch.stack((rows, matches.indices[:, 1]), dim=1), keypoints0=keypoints)


def at_sizes(extract: Callable[[int], Features], side: int) -> Features:
    """Return features of an image seen at several sizes, one set of rows after the other; ``shrink`` says which a row
    is of.

    Args:
        extract: features of the image seen no larger than a long side in pixels; keypoints in pixels as given.
        side: the largest it is seen at.
    """
    sides = [side // times for times in _TIMES if times == 1 or side // times >= _LEAST_SIDE]
    found = [extract(side) for side in sides]
    if len(found) == 1:
        return found[0]
    return joined([_marked(features, seen) for features, seen in zip(found, sides, strict=True)])


def sizes_of(features: Features) -> list[Seen]:
    """Return each size that one image was seen at, the largest first; ``features`` has no padding."""
    every_row = torch.arange(features.keypoints.shape[1], device=features.device)
    if features.shrink is None or not len(every_row):
        return [Seen(replace(features, shrink=None), every_row)]
    every, counts = features.shrink[0].unique_consecutive(return_counts=True)
    rows = every_row.split(counts.tolist())
    return [Seen(_seen(features, which, times), which) for times, which in zip(every.tolist(), rows, strict=True)]


def agree(matches: Matches) -> bool:
    """Return whether most matches of one pair agree with one rigid scene, flat or not: then they are right.

    False says little: what bends agrees with none.
    """
    if len(matches) < _LEAST:
        return False
    points0, points1 = (p.detach().cpu().double().numpy() for p in (matches.keypoints0, matches.keypoints1))
    try:
        agreeing = cv2.findFundamentalMat(points0, points1, robust.magsac(_THRESHOLD_PX, 0, _ITERATIONS))[1]
    except cv2.error:  # all points in one place
        return False
    return agreeing is not None and float(agreeing.mean()) >= AGREEING_SHARE


def suits(sizes: Sequence[Seen], index: int, seen: Tensor, shown: Tensor) -> bool:
    """Return whether a size is the one nearest to what an image shows, as its matches have it.

    Args:
        sizes: of the stored image.
        index: which of them.
        seen: ``N x 2`` matched pixels of that size, most of them right.
        shown: ``N x 2``, of the other image.
    """
    apart = [float((p - p.median(dim=0).values).norm(dim=1).median()) for p in (seen.float(), shown.float())]
    return not (
        (index > 0 and apart[1] > _SUITS * apart[0]) or (index < len(sizes) - 1 and apart[0] > _SUITS * apart[1])
    )


def size_seen(given: tuple[int, int], times: float) -> tuple[int, int]:
    """Return the ``(height, width)`` that an image of a size was seen at."""
    return max(1, round(given[0] / times)), max(1, round(given[1] / times))


def size_of(sizes: Sequence[Seen], matches: Matches) -> int | None:
    """Return which size the rows of matches are of; ``None`` where there are none."""
    if not len(matches):
        return None
    row = int(matches.indices[0, 0])
    return next(i for i, seen in enumerate(sizes) if row <= int(seen.rows[-1]))


def _marked(features: Features, side: int) -> Features:
    shrink = torch.full_like(features.scores, max(1.0, max(features.image_size) / side))
    return replace(features, shrink=shrink)


def _seen(features: Features, rows: Tensor, times: float) -> Features:
    """Return rows of one size as features of the image as it was seen."""
    chosen: dict[str, Any] = {
        name: tensor[:, rows] for name, tensor in features.tensors().items() if name not in ("valid", "shrink")
    }
    size = size_seen(features.image_size, times)
    chosen["keypoints"] = keypoints_at_size(chosen["keypoints"], features.image_size, size)
    if "scales" in chosen:
        chosen["scales"] = chosen["scales"] / times
    return replace(features, valid=None, shrink=None, image_size=size, **chosen)
