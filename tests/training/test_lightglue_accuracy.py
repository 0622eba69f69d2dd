"""LightGlue ahead of nearest neighbours on the same keypoints of real pairs, with figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semantic_matcher_core.io.images import read_image
from training.evaluation.consistency import pair_figures
from training.evaluation.methods import load_matcher


@pytest.fixture(scope="module")
def pairs(shared: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder = shared / "data" / "pairs"
    names = {"pumpkin": ("pumpkin1", "pumpkin2"), "xfeat": ("xfeat_ref", "xfeat_tgt"), "fox": ("fox1", "fox2")}
    return {pair: tuple(read_image(folder / f"{n}.png") for n in names[pair]) for pair in names}  # type: ignore[misc]
