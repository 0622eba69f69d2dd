"""``python -m tests.core.huge_image NAME``: an extractor on 4000 x 3000 pixels, and its memory, as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import numpy as np
import torch

from benchmarks.memory import measure
from tests.conftest import make_textured_image
from tests.core.extractor_checks import assert_well_formed
from tests.core.test_extractor_contract import LIMIT, build


def main(name: str) -> None:
    torch.set_num_threads(1)
    image = np.tile(make_textured_image(500, 500, 7), (6, 8, 1))
    extractor = build(name)
    peak, features = measure(extractor, image, "random")
    assert_well_formed(features, 1, (3000, 4000), extractor.descriptor_dim, LIMIT)
    print(json.dumps(asdict(peak)))


if __name__ == "__main__":
    main(sys.argv[1])
