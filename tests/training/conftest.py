"""What tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from semantic_matcher_core.io.images import write_image
from tests.conftest import make_textured_image


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight small pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(8):
        write_image(folder / f"{i}.png", make_textured_image(150, 190, i))
    return folder
