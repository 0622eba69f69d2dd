"""Semantics shown: equal things in equal colours, and what a point resembles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semantic_matcher_core.errors import ConfigError, ShapeError
from semantic_matcher_core.matching import MatcherConfig, match_features
from semantic_matcher_core.matching.evidence import evidence, nearest_keypoint, of_matches
from semantic_matcher_core.semantics.semantic_map import SemanticMap
from semantic_matcher_core.types import Features
from semantic_matcher_core.viz.semantics import _why, draw_point, draw_semantics, principal_colours

SIZE = (48, 64)


def unit(count: int, seed: int, dim: int = 8) -> torch.Tensor:
    vectors = torch.randn(1, count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def features(count: int, seed: int = 0, *, plain: bool = False) -> Features:
    points = torch.rand(1, count, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([63.0, 47.0])
    more = {} if plain else {"reasoned": unit(count, seed + 1), "semantic": unit(count, seed + 2)}
    return Features(points, torch.ones(1, count), unit(count, seed + 3), SIZE, **more)


def two_things(left: int, right: int) -> SemanticMap:
    """A map whose left and right halves are of two of four things."""
    things = torch.eye(4)
    cells = torch.cat([things[left].expand(6, 4, 4), things[right].expand(6, 4, 4)], dim=1)
    return SemanticMap(cells.permute(2, 0, 1)[None], SIZE, 1.0)


def test_equal_things_have_equal_colours_in_both_images() -> None:
    first, second = principal_colours([two_things(0, 1), two_things(1, 2)])
    assert first.shape == (6, 8, 3) and first.min() >= 0 and first.max() <= 1
    assert np.allclose(first[:, 4:], second[:, :4])
    colours = first[0, 0], first[0, -1], second[0, -1]
    assert min(np.abs(a - b).max() for a, b in ((colours[0], colours[1]), (colours[1], colours[2]))) > 0.5
    again = principal_colours([two_things(0, 1), two_things(1, 2)])
    assert np.array_equal(first, again[0])


def test_fewer_channels_than_colours() -> None:
    ramp = torch.linspace(0, 1, 12).reshape(1, 1, 3, 4)
    (colours,) = principal_colours([SemanticMap(ramp, SIZE, 1.0)])
    assert colours.shape == (3, 4, 3) and np.isfinite(colours).all() and colours[..., 0].std() > 0.2
    (flat,) = principal_colours([SemanticMap(torch.ones(1, 5, 3, 4), SIZE, 1.0)])
    assert np.isfinite(flat).all()


def test_picture_of_the_maps() -> None:
    black = np.zeros((*SIZE, 3), np.uint8)
    picture = draw_semantics(black, black, two_things(0, 1), two_things(1, 2), height=96)
    assert picture.shape == (30 + 96, 2 * 128 + 4, 3)
    assert not np.array_equal(picture[60, 20], picture[60, 100])
    with pytest.raises(ConfigError, match="plain matcher"):
        draw_semantics(black, black, None, None)


@pytest.mark.parametrize("fusion", ["product", "sum"])
def test_evidence_is_what_matching_compares(fusion: str) -> None:
    first, second = features(9, 0), features(7, 50)
    config = MatcherConfig(fusion=fusion)
    matches = match_features(first, second, config)
    assert len(matches) > 1
    found = evidence(first, second, matches.indices[:, 0], config)
    assert torch.equal(found.both.argmax(dim=1), matches.indices[:, 1])
    assert torch.allclose(found.both.amax(dim=1), matches.confidence, atol=1e-6)
    texture, semantic = of_matches(first, second, matches)
    assert semantic is not None
    rows = torch.arange(len(matches))
    assert torch.allclose(found.texture[rows, matches.indices[:, 1]], texture, atol=1e-6)
    fused = texture * semantic if fusion == "product" else texture + semantic
    assert torch.allclose(fused, matches.confidence, atol=1e-6)


def test_evidence_without_semantics_and_of_batches() -> None:
    first, second = features(5, plain=True), features(6, 9, plain=True)
    found = evidence(first, second, torch.tensor([2]))
    assert list(found.kinds()) == ["texture"] and found.both is found.texture and found.both.shape == (1, 6)
    matches = match_features(first, second)
    texture, semantic = of_matches(first, second, matches)
    assert semantic is None and torch.allclose(texture, matches.confidence, atol=1e-6)
    with pytest.raises(ShapeError, match="batches of 2 and 1"):
        evidence(Features.stack([first, first]), second, torch.tensor([0]))


@pytest.mark.parametrize(("plain", "panels"), [(False, 4), (True, 2)])
def test_picture_of_a_point(plain: bool, panels: int) -> None:
    image = np.full((*SIZE, 3), 90, np.uint8)
    first, second = features(9, plain=plain), features(7, 50, plain=plain)
    picture = draw_point(image, image, first, second, (10, 10), height=96)
    assert picture.shape == (30 + 96, panels * 128 + (panels - 1) * 4, 3)
    with pytest.raises(ConfigError, match="outside the first image, 64 x 48"):
        draw_point(image, image, first, second, (64, 0))
    with pytest.raises(ShapeError, match="no keypoint"):
        draw_point(image, image, first, features(0, plain=plain), (10, 10))
    assert nearest_keypoint(first, tuple(first.keypoints[0, 4].tolist())) == 4


def test_why_in_words() -> None:
    def kinds(texture: list[float], semantics: list[float]) -> dict[str, torch.Tensor]:
        t, s = torch.tensor([texture]), torch.tensor([semantics])
        return {"texture": t, "semantics": s, "both": t * s}

    def words(values: dict[str, torch.Tensor]) -> str:
        return _why(values, [int(v.argmax()) for v in values.values()])

    assert "agree" in words(kinds([0.9, 0.5], [0.9, 0.5]))
    assert "texture decides" in words(kinds([0.9, 0.3], [0.7, 0.9]))
    assert words(kinds([0.8, 0.7, 0.1], [0.4, 0.9, 0.1])).endswith("only number 2")
    assert "neither alone" in words(kinds([0.9, 0.8, 0.1], [0.1, 0.8, 0.9]))
    assert "with semantics" in _why({"texture": torch.ones(1, 2)}, [0])
