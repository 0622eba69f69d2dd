"""An extractor that only takes time, found by its entry point as a third party's would be, in one process alone."""

from __future__ import annotations

import os
from pathlib import Path

_MODULE = """
import os
import time

import torch

from semantic_matcher_core.extractors import Extractor
from semantic_matcher_core.types import Features


class Slow(Extractor):
    name = "slow"
    descriptor_dim = 2

    def forward(self, images, masks=None):
        if images.shape[-2:] != (16, 16) or os.environ.get("SLOW_WARMUP"):
            time.sleep(float(os.environ["SLOW_SECONDS"]))
        height, width = images.shape[-2:]
        return Features(
            keypoints=torch.tensor([[[1.0, 2.0]]]),
            scores=torch.ones(1, 1),
            descriptors=torch.tensor([[[1.0, 0.0]]]),
            image_size=(height, width),
        )
"""


def install(folder: Path, seconds: float, warmup: bool = False) -> dict[str, str]:
    """Environment variables with which ``plain:slow`` is a variant that takes ``seconds`` per image.

    Args:
        folder: where the module and its metadata are written.
        seconds: time an image takes.
        warmup: whether the 16 x 16 picture of the warm-up takes as long.
    """
    (folder / "slow_extractor_for_tests.py").write_text(_MODULE)
    metadata = folder / "slow_extractor_for_tests-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-extractor-for-tests\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[semantic_matcher.extractors]\nslow = slow_extractor_for_tests:Slow\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "SLOW_SECONDS": str(seconds)} | ({"SLOW_WARMUP": "1"} if warmup else {})


PLAIN_SLOW = {
    "variant": "plain:slow",
    "warmup_width": 16,
    "warmup_height": 16,
    "torch_threads": 1,
    "diagnostics_period": 0.2,
}
