"""A teacher's keypoints and descriptors in every picture, computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.registry import accepted_options
from semantic_matcher_core.io.atomic import atomic_output
from training.compact.config import TeacherConfig


@dataclass(frozen=True)
class Lesson:
    """What the teacher sees in one picture.

    Attributes:
        keypoints: ``N x 2`` float32 (x, y) pixels of the picture.
        descriptors: ``N x D`` float16, L2-normalised.
    """

    keypoints: Tensor
    descriptors: Tensor


def lessons(
    pictures: Sequence[Tensor],
    config: TeacherConfig,
    cache: Path,
    *,
    device: str | torch.device = "auto",
    progress: Callable[[int], None] | None = None,
) -> list[Lesson]:
    """The teacher's features of all pictures, from ``cache`` where it holds those of exactly these.

    Args:
        pictures: ``3 x h x w`` uint8 each.
        config: the teacher.
        cache: a safetensors file; written where it is missing or of something else.
        device: where the teacher runs.
        progress: called with the number of pictures done.

    Raises:
        UnknownNameError, WeightsNotFoundError: the teacher cannot be built.
    """
    fingerprint = _fingerprint(pictures, config)
    if cache.is_file():
        with safe_open(cache, "pt") as content:
            if (content.metadata() or {}).get("inputs") == fingerprint:
                return [
                    Lesson(content.get_tensor(f"keypoints.{i}"), content.get_tensor(f"descriptors.{i}"))
                    for i in range(len(pictures))
                ]
    # Ask for the best, however weak: a fixed number of keypoints says more than a threshold that suits other images.
    options = {"detection_threshold": 0.0} if "detection_threshold" in accepted_options(config.extractor) else {}
    teacher = create_extractor(
        config.extractor, config.keypoints, weights=config.weights, device=device, fetch=False, **options
    )
    found = []
    with torch.inference_mode():
        for i, picture in enumerate(pictures):
            features = teacher(picture[None].to(teacher.device).float() / 255)
            found.append(Lesson(features.keypoints[0].cpu(), features.descriptors[0].half().cpu()))
            if progress is not None:
                progress(i + 1)
    tensors = {f"keypoints.{i}": lesson.keypoints.contiguous() for i, lesson in enumerate(found)}
    tensors |= {f"descriptors.{i}": lesson.descriptors.contiguous() for i, lesson in enumerate(found)}
    with atomic_output(cache) as temporary:
        save_file(tensors, temporary, {"inputs": fingerprint})
    return found


def _fingerprint(pictures: Sequence[Tensor], config: TeacherConfig) -> str:
    digest = hashlib.sha256(f"{config.extractor} {config.keypoints}".encode())
    for picture in pictures:
        digest.update(str(tuple(picture.shape)).encode())
        digest.update(picture.numpy().tobytes())
    return digest.hexdigest()
