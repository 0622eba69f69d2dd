"""``python -m tests.core.huge_image NAME …``: extractors on 4000 x 3000 pixels; the memory of each as a JSON line."""

from __future__ import annotations

import json
import multiprocessing
import sys
from dataclasses import asdict

import numpy as np
import torch

from benchmarks.memory import measure
from tests.conftest import make_textured_image
from tests.core.extractor_checks import assert_well_formed
from tests.core.test_extractor_contract import LIMIT, QUARTERED, build


def run(name: str, image: np.ndarray) -> None:
    torch.set_num_threads(1)
    extractor = build(name, whole=True)
    if name in QUARTERED:
        extractor = extractor.configured(max_side=QUARTERED[name])
    peak, features = measure(extractor, image, "random")
    assert_well_formed(features, 1, (3000, 4000), extractor.descriptor_dim, LIMIT)
    print(json.dumps({"name": name, **asdict(peak)}), flush=True)


def main(names: list[str]) -> None:
    """Run each in a child of its own: memory would be that of all before it otherwise. What is imported, they share."""
    image = np.tile(make_textured_image(500, 500, 7), (6, 8, 1))
    for name in names:
        child = multiprocessing.get_context("fork").Process(target=run, args=(name, image))
        child.start()
        child.join()


if __name__ == "__main__":
    main(sys.argv[1:])
