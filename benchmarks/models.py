"""The networks and images that the benchmarks run on.

Published weights are used where they are found; otherwise random ones of the same shape stand in, since time does not
depend on their values, and the output says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.device import resolve_device
from semantic_matcher_core.errors import WeightsNotFoundError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.io.images import read_image
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics import create_semantic_encoder
from semantic_matcher_core.semantics.dinov2 import DinoV2


@dataclass(frozen=True)
class Case:
    """One point of measurement: the published default architecture unless said otherwise.

    Attributes:
        size: (height, width) of the images.
        batch: images, or pairs of them, that are worked on together.
    """

    size: tuple[int, int] = (480, 640)
    keypoints: int = 2048
    batch: int = 1
    precision: str = "fp32"
    semantic_size: int = 896
    dino: str = "dinov2_vits14"
    backend: str = "eager"

    def __str__(self) -> str:
        return (
            f"{self.size[1]}×{self.size[0]}, {self.keypoints} keypoints, batch {self.batch}, {self.dino} at "
            f"{self.semantic_size}, {self.precision}, {self.backend}"
        )

    def with_(self, **changes: Any) -> Case:
        """Return the case with some values changed."""
        return replace(self, **changes)


def build_matcher(
    case: Case, device: torch.device, weights: str | None = None
) -> tuple[SemanticMatcher, dict[str, str]]:
    """Build XFeat, DINOv2 and a reasoner of 5 layers of 256, and say where the weights of each came from."""
    torch.manual_seed(0)
    origin = {"reasoner": "random"}

    def found(name: str, make: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        try:
            part, origin[name] = make(), "published"
        except WeightsNotFoundError:
            part, origin[name] = otherwise(), "random"
        return part

    extractor = found(
        "xfeat",
        lambda: create_extractor("xfeat", case.keypoints, weights=weights, device=device, detection_threshold=0.0),
        lambda: XFeat(max_keypoints=case.keypoints, detection_threshold=0.0),
    )
    encoder = found(
        "dino", lambda: create_semantic_encoder(case.dino, weights=weights, device=device), lambda: DinoV2(case.dino)
    )
    config = ReasonerConfig(
        extractor_features_dim=extractor.descriptor_dim,
        semantic_features_dim=encoder.feature_dim,
        features_dim=256,
        n_attention_layers=5,
        num_heads=1,
        semantic_conditioning=True,
    )
    matcher = SemanticMatcher.from_parts(
        extractor,
        encoder,
        Reasoner(config).requires_grad_(False),
        device=device,
        precision=case.precision,
        backend=case.backend,
        semantic_size=case.semantic_size,
        registration="published",
    )
    return matcher.requires_grad_(False), origin


def textured_pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return two uint8 RGB views of smoothed noise at several scales, the second shifted by (12, 7) px."""
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.zeros(1, 3, height + 32, width + 32)
    for octave in range(2, 7):
        noise = torch.rand(1, 3, (height >> octave) + 3, (width >> octave) + 3, generator=generator)
        canvas += torch.nn.functional.interpolate(noise, canvas.shape[-2:], mode="bicubic") * 0.2
    array = (canvas[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return array[:height, :width].copy(), array[7 : 7 + height, 12 : 12 + width].copy()


def batched(image: np.ndarray, batch: int) -> np.ndarray:
    """Return ``batch`` times the same image, as the matcher takes it."""
    return image if batch == 1 else np.stack([image] * batch)


def add_common_options(parser: argparse.ArgumentParser, *, repeats: int) -> None:
    """Add options of programs that time calls on one pair of images."""
    parser.add_argument("--images", nargs=2, help="two images instead of the rendered ones")
    parser.add_argument("--size", default="640x480", help="of the rendered images, WIDTHxHEIGHT")
    parser.add_argument("--weights", help="folder to look for weights in first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's choice")
    parser.add_argument("--repeats", type=int, default=repeats)


def common_setting(args: argparse.Namespace) -> tuple[torch.device, tuple[np.ndarray, np.ndarray]]:
    """Return device and images that :func:`add_common_options` were given, with the threads set."""
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    if args.images:
        return device, (read_image(args.images[0]), read_image(args.images[1]))
    width, height = map(int, args.size.split("x"))
    return device, textured_pair(height, width)
