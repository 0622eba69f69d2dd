"""A second look: the first image seen at several turns, so that a second one that is turned finds its like.

Most learned features are blind to an image turned by a quarter. Extracted once at four or eight turns, and matched with
each, the turn whose matches are the most similar is the right one: for every extractor, at no cost to upright pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from semantic_matcher_core.extractors.selection import is_wanted, keep_rows
from semantic_matcher_core.types import Features, Matches

# Of all matches, the most similar that decide which turn, or size, is right.
_DECISIVE_SHARE = 0.1


def turned(images: Tensor, degrees: int) -> Tensor:
    """Return ``B x C x H x W`` images turned clockwise about their middle, in the smallest frame that holds all of
    them; what lies outside the image is black. Quarter turns are exact.
    """
    if degrees % 90 == 0:
        return images.rot90(-degrees // 90, (-2, -1)) if degrees % 360 else images
    size = (images.shape[-2], images.shape[-1])
    height, width = _turned_size(size, degrees)
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device) + 0.0, torch.arange(width, device=images.device) + 0.0, indexing="ij"
    )
    at = turned_back(torch.stack((x, y), dim=-1).view(1, -1, 2), degrees, size).view(1, height, width, 2)
    grid = (2 * at + 1) / at.new_tensor([size[1], size[0]]) - 1
    return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=False)


def turned_back(points: Tensor, degrees: int, size: tuple[int, int]) -> Tensor:
    """Return ``B x N x 2`` pixels of a :func:`turned` image as pixels of the image of ``(height, width)`` before."""
    c, s = _cos_sin(degrees)
    return _rotated(points, c, -s, _turned_size(size, degrees), size)


def turned_points(points: Tensor, degrees: int, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Undo :func:`turned_back`: pixels of the :func:`turned` image, and its ``(height, width)``."""
    turned_size = _turned_size(size, degrees)
    return _rotated(points, *_cos_sin(degrees), size, turned_size), turned_size


def extract_turned(
    extract: Callable[[Tensor, Tensor | None], Features],
    images: Tensor,
    masks: Tensor | None,
    turns: Sequence[int],
) -> Features:
    """Return features of images at several turns, one set of rows after the other; ``turn`` says which a row is of.

    Args:
        extract: features of ``B x 3 x H x W`` images, and ``B x H x W`` bool masks or ``None``.
        images, masks: what ``extract`` takes.
        turns: clockwise degrees.

    Returns:
        Keypoints in pixels of the images as given, at every turn. Rows are sorted by score within a turn.
    """
    size = (images.shape[-2], images.shape[-1])
    found = []
    for degrees in turns:
        mask = _turned_masks(masks, images, degrees)
        features = extract(turned(images, degrees), mask)
        keypoints = turned_back(features.keypoints, degrees, size)
        changes: dict[str, Any] = {"turn": torch.full_like(features.scores, degrees, dtype=torch.int64)}
        if features.orientations is not None:
            changes["orientations"] = features.orientations - math.radians(degrees)
        if degrees % 90:
            # What stands beyond the image's edge, where the black begins, is no keypoint of it.
            inside = ((keypoints >= 0) & (keypoints <= keypoints.new_tensor([size[1] - 1, size[0] - 1]))).all(dim=-1)
            inside = inside if masks is None else inside & is_wanted(keypoints, masks)
            changes["valid"] = inside if features.valid is None else inside & features.valid
        found.append(replace(features, keypoints=keypoints, image_size=size, **changes))
    return joined(found)


def best_look(candidates: Sequence[Matches]) -> int:
    """Return which of the matches of one pair, at several turns or sizes, are the right ones.

    Those with the most of the tenth of all that is most similar; the first of equals, so that an upright pair stays so.
    """
    confidence = [matches.confidence for matches in candidates]
    every = torch.cat(confidence)
    if not len(every):
        return 0
    threshold = every.topk(max(1, int(_DECISIVE_SHARE * len(every)))).values[-1]
    counts = torch.stack([(values >= threshold).sum() for values in confidence])
    return int(counts.argmax())


def joined(parts: Sequence[Features]) -> Features:
    """Return features of the same images, their rows one after the other."""
    if len(parts) == 1:
        return parts[0]
    names = [name for name in parts[0].tensors() if name != "valid"]
    rows: dict[str, Any] = {name: torch.cat([getattr(p, name) for p in parts], dim=1) for name in names}
    joined = replace(parts[0], valid=None, **rows)
    if all(part.valid is None for part in parts):
        return joined
    return keep_rows(joined, torch.cat([part.real for part in parts], dim=1))


def _turned_masks(masks: Tensor | None, images: Tensor, degrees: int) -> Tensor | None:
    if degrees % 90 == 0:
        return None if masks is None else turned(masks, degrees)
    given = torch.ones_like(images[:, 0]) if masks is None else masks.to(images.dtype)
    return turned(given[:, None], degrees)[:, 0] > 0.999


def _rotated(points: Tensor, c: float, s: float, size: tuple[int, int], onto: tuple[int, int]) -> Tensor:
    """Return points turned clockwise about the middle of an image, with the middle of another one in its place."""
    middle, new = (points.new_tensor([(width - 1) / 2, (height - 1) / 2]) for height, width in (size, onto))
    x, y = (points - middle).unbind(-1)
    return torch.stack((c * x - s * y, s * x + c * y), dim=-1) + new


def _turned_size(size: tuple[int, int], degrees: int) -> tuple[int, int]:
    c, s = (abs(value) for value in _cos_sin(degrees))
    height, width = size
    return math.ceil(width * s + height * c - 1e-6), math.ceil(width * c + height * s - 1e-6)


def _cos_sin(degrees: int) -> tuple[float, float]:
    if degrees % 90 == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[degrees // 90 % 4]
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
