"""The torch.hub entry: the published call, with published weights from a local server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import UnknownNameError, WeightsNotFoundError
from tests.core.tiny_parts import Published, published_server
from tests.core.weights_server import isolate

REPOSITORY = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Published]:
    isolate(monkeypatch, tmp_path)
    with published_server(monkeypatch, tmp_path) as everything:
        yield everything


def test_the_published_call(published: Published, textured: Callable[..., np.ndarray]) -> None:
    model = torch.hub.load(REPOSITORY, "reasoning", source="local", pretrained="aliked", dev="cpu")
    scene = torch.from_numpy(textured(120, 160)).permute(2, 0, 1)[None].float() / 255
    image0, image1 = scene[..., :96, :128], scene[..., 8:104, 16:144]
    matches = model.match({"image0": image0, "image1": image1})
    expected = SemanticMatcher.from_pretrained("aliked", device="cpu").match_images(image0, image1)
    assert len(expected) > 5
    torch.testing.assert_close(matches["matches0"][0], expected.keypoints0)
    torch.testing.assert_close(matches["matches1"][0], expected.keypoints1)


def test_the_default_is_xfeat(published: Published) -> None:
    with pytest.raises(WeightsNotFoundError, match="semantic-matcher weights fetch xfeat"):
        torch.hub.load(REPOSITORY, "reasoning", source="local", fetch=False)
    assert published.server.requests == []
    assert torch.hub.load(REPOSITORY, "reasoning", source="local", dev="cpu").matcher.extractor.name == "xfeat"


def test_an_unknown_name_lists_what_exists(published: Published) -> None:
    with pytest.raises(UnknownNameError, match=r"'xfeet'; did you mean 'xfeat'\? known: compact, xfeat, superpoint"):
        torch.hub.load(REPOSITORY, "reasoning", source="local", pretrained="xfeet")
