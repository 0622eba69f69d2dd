"""A second look: turns are exact, keypoints come back, and the turn that fits is found for every extractor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher, create_extractor
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.matching.features import match_features
from semantic_matcher_core.matching.turns import best_look, extract_turned, turned, turned_back
from semantic_matcher_core.settings import ROTATIONS, turns_of
from semantic_matcher_core.types import Features, Matches
from tests.conftest import make_textured_image


def image_of(seed: int = 3, height: int = 180, width: int = 240) -> torch.Tensor:
    return torch.from_numpy(make_textured_image(height, width, seed)).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("degrees", [0, 90, 180, 270, 45, 135, 30])
@pytest.mark.parametrize("size", [(5, 8), (64, 41)])
def test_a_point_of_the_turned_image_is_where_it_was(degrees: int, size: tuple[int, int]) -> None:
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.0, torch.arange(size[1]) + 0.0, indexing="ij")
    # An image whose values are its coordinates.
    there = turned(torch.stack((x, y))[None], degrees)
    pixels = torch.stack(
        torch.meshgrid(torch.arange(there.shape[-1]) + 0.0, torch.arange(there.shape[-2]) + 0.0, indexing="xy"), dim=-1
    )
    back = turned_back(pixels.view(1, -1, 2), degrees, size)[0]
    inside = ((back >= 0) & (back <= torch.tensor([size[1] - 1.0, size[0] - 1.0]))).all(dim=-1)
    assert inside.sum() > 0.85 * size[0] * size[1] - 2 * sum(size)
    torch.testing.assert_close(there[0].flatten(1).T[inside], back[inside], atol=1e-4, rtol=0)


def test_quarter_turns_are_those_of_numpy() -> None:
    image = image_of(height=20, width=30)
    for quarters in range(4):
        expected = np.rot90(image[0].permute(1, 2, 0).numpy(), -quarters)
        assert np.array_equal(turned(image, 90 * quarters)[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("name", ["compact", "sift"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_turned_image_finds_its_like(name: str, degrees: int) -> None:
    extractor, image = create_extractor(name, 300, device="cpu"), image_of()
    with torch.inference_mode():
        first = extract_turned(lambda images, masks: extractor(images, masks), image, None, turns_of("quarter"))
        second = extractor(turned(image, degrees))
    matches = match_features(first, second)
    places = turned_back(matches.keypoints1[None], degrees, (180, 240))[0]
    right = (places - matches.keypoints0).norm(dim=-1) < 2
    assert right.float().mean() > 0.7 and right.sum() > 100
    assert first.turn is not None
    if name == "compact":  # SIFT finds itself at every turn
        assert (first.turn[0, matches.indices[:, 0]] == degrees).all()
    torch.testing.assert_close(first.keypoints[0, matches.indices[:, 0]], matches.keypoints0)


def test_eighths_help_between_quarters() -> None:
    extractor, image = create_extractor("compact", 400, device="cpu"), image_of()
    second_image = turned(image, 45)
    counts = {}
    with torch.inference_mode():
        second = extractor(second_image)
        for rotation in ROTATIONS:
            first = extract_turned(lambda i, m: extractor(i, m), image, None, turns_of(rotation))
            matches = match_features(first, second)
            places = turned_back(matches.keypoints1[None], 45, (180, 240))[0]
            counts[rotation] = int(((places - matches.keypoints0).norm(dim=-1) < 3).sum())
    assert counts["any"] > 1.5 * max(counts["upright"], counts["quarter"]), counts


def test_masks_turn_with_their_images_and_nothing_lies_outside() -> None:
    extractor, image = create_extractor("compact", 200, device="cpu"), image_of()
    mask = torch.zeros(1, 180, 240, dtype=torch.bool)
    mask[:, 30:150, 60:200] = True
    with torch.inference_mode():
        found = extract_turned(lambda i, m: extractor(i, m), image, mask, turns_of("any"))
        everywhere = extract_turned(lambda i, m: extractor(i, m), image, None, turns_of("any"))
    x, y = found.keypoints[0].unbind(-1)
    assert ((x > 58) & (x < 201) & (y > 28) & (y < 151)).all()
    assert set(found.turn[0].tolist()) == set(ROTATIONS["any"])  # type: ignore[index]
    x, y = everywhere.keypoints[0].unbind(-1)
    assert ((x >= 0) & (x <= 239) & (y >= 0) & (y <= 179)).all()


def test_batches_choose_their_turns_pair_by_pair() -> None:
    extractor = create_extractor("compact", 150, device="cpu")
    images = torch.cat([image_of(1), image_of(2)])
    with torch.inference_mode():
        first = extract_turned(lambda i, m: extractor(i, m), images, None, turns_of("quarter"))
        second = [extractor(turned(images[i : i + 1], d)) for i, d in ((0, 180), (1, 0))]
    matches = match_features(first, Features.stack(second))
    assert matches.batch_size == 2
    for i, degrees in enumerate((180, 0)):
        one = matches.of_pair(i)
        alone = match_features(first[i], second[i])
        assert torch.equal(one.indices, alone.indices) and len(one) > 40
        assert first.turn is not None and (first.turn[i, one.indices[:, 0]] == degrees).all()


def test_no_keypoints_no_matches() -> None:
    extractor = create_extractor("compact", 50, device="cpu")
    with torch.inference_mode():
        flat = extract_turned(lambda i, m: extractor(i, m), torch.full((1, 3, 64, 64), 0.5), None, turns_of("any"))
        one = extractor(image_of())
        assert len(match_features(flat, one)) >= 0
        empty = flat.rows(torch.zeros(0, dtype=torch.int64))
        assert len(match_features(empty, one)) == 0
    nothing = Matches(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))
    assert best_look([nothing, nothing]) == 0
    with pytest.raises(ConfigError, match="use one of upright, quarter, any"):
        turns_of("sideways")


def test_the_library_offers_it() -> None:
    matcher = SemanticMatcher.from_pretrained(device="cpu", max_keypoints=300)
    image = make_textured_image(180, 240, 4)
    second = np.ascontiguousarray(np.rot90(image, -1))
    upright, quarter = (matcher.match_images(image, second, rotation=rotation) for rotation in ("upright", "quarter"))

    def right(matches: Matches) -> int:
        places = turned_back(matches.keypoints1[None], 90, (180, 240))[0]
        return int(((places - matches.keypoints0).norm(dim=-1) < 2).sum())

    assert right(quarter) > 100 and right(quarter) > 2 * right(upright)
