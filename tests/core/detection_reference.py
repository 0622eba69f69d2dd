"""Direct restatements of published detection steps, on dense maps and image by image: oracles for the batched ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def suppressed(scores: Tensor, radius: int) -> Tensor:
    """Non-maximum suppression with two further rounds (SuperPoint, ALIKE, ALIKED); ``H x W``, zero where suppressed."""

    def pooled(x: Tensor) -> Tensor:
        return F.max_pool2d(x[None, None], 2 * radius + 1, stride=1, padding=radius)[0, 0]

    kept = scores == pooled(scores)
    for _ in range(2):
        near = pooled(kept.float()) > 0
        rest = torch.where(near, torch.zeros_like(scores), scores)
        kept = kept | ((rest == pooled(rest)) & ~near)
    return torch.where(kept, scores, torch.zeros_like(scores))


def soft_detection(
    score_map: Tensor, limit: int, threshold: float, radius: int, margins: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """ALIKE's keypoints ``N x 2`` and scores of one ``H x W`` score map, one by one."""
    near, far = margins
    height, width = score_map.shape
    maxima = suppressed(score_map, 2)
    inside = torch.zeros_like(maxima)
    inside[near : height - far, near : width - far] = 1
    maxima = maxima * inside
    values, places = maxima.flatten().topk(min(limit, maxima.numel()))
    keypoints, scores = [], []
    for place in places[values > threshold].tolist():
        y, x = divmod(place, width)
        window = score_map[y - radius : y + radius + 1, x - radius : x + radius + 1].double()
        weights = ((window - window.max()) / 0.1).exp()
        weights = weights / weights.sum()
        steps = torch.arange(-radius, radius + 1).double()
        dx, dy = float((weights.sum(0) * steps).sum()), float((weights.sum(1) * steps).sum())
        keypoints.append((x + dx, y + dy))
        scores.append(float(read_bilinear(score_map[None].double(), x + dx, y + dy)[0]))
    return torch.tensor(keypoints), torch.tensor(scores)


def read_bilinear(maps: Tensor, x: float, y: float) -> Tensor:
    """``C x H x W`` maps at a sub-pixel place (zero outside) by the definition of bilinear interpolation."""
    height, width = maps.shape[-2:]
    x0, y0 = int(x // 1), int(y // 1)
    total = torch.zeros(maps.shape[0], dtype=maps.dtype)
    for i, j in ((0, 0), (1, 0), (0, 1), (1, 1)):
        if 0 <= x0 + i < width and 0 <= y0 + j < height:
            weight = (1 - abs(x - x0 - i)) * (1 - abs(y - y0 - j))
            total = total + weight * maps[:, y0 + j, x0 + i]
    return total
