"""Pictures of a textured sheet bent by a known thin-plate spline."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from semantic_matcher_core.geometry.thin_plate import ThinPlateSpline


def known_bend(size: tuple[int, int], strength_px: float, seed: int = 0) -> ThinPlateSpline:
    """A map from the bent image to the flat one: 6 x 6 control points, each moved by up to ``strength_px``."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, height - 1, 6), torch.linspace(0, width - 1, 6), indexing="ij")
    points = torch.stack([x, y], dim=-1).reshape(-1, 2).double()
    moved = points + (torch.rand(points.shape, generator=generator).double() * 2 - 1) * strength_px
    return ThinPlateSpline.fit(points, moved)


def render(flat: np.ndarray, bend: ThinPlateSpline) -> np.ndarray:
    """The sheet bent: uint8 RGB of the flat picture's size."""
    warped = bend.warp_image(torch.from_numpy(flat).permute(2, 0, 1).float(), flat.shape[:2])
    return warped.permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


def ground_truth(bend: ThinPlateSpline, size: tuple[int, int], border: int = 20) -> tuple[Tensor, Tensor]:
    """``P x 2`` points of the flat picture and where they lie in the bent one, over all that both show."""
    height, width = size
    y, x = torch.meshgrid(
        torch.arange(border, height - border, 8), torch.arange(border, width - border, 8), indexing="ij"
    )
    bent = torch.stack([x, y], dim=-1).reshape(-1, 2).double()
    flat = bend(bent)
    visible = ((flat >= border) & (flat <= torch.tensor([width - border, height - border]))).all(dim=1)
    return flat[visible], bent[visible]


def best_homography_error(flat: Tensor, bent: Tensor) -> float:
    """Median error of the homography that fits the ground truth itself best: what ignoring the bend costs at least."""
    model, _ = cv2.findHomography(flat.numpy(), bent.numpy(), 0)
    mapped = cv2.perspectiveTransform(flat.numpy()[None], model)[0]
    return float(np.median(np.linalg.norm(mapped - bent.numpy(), axis=1)))
