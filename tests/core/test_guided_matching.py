"""Guided search: right matches among look-alikes, nothing changed where there is nothing to gain, by an own oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.matching import MatcherConfig, match_features, match_features_densely
from semantic_matcher_core.optimisations import VARIABLE
from semantic_matcher_core.types import Features


@pytest.fixture(autouse=True, params=["", "nearby_search"], ids=["nearby", "whole"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search as a CPU does, and as a GPU does."""
    monkeypatch.setenv(VARIABLE, request.param)


NEVER, ALWAYS = MatcherConfig(guided="never"), MatcherConfig(guided="always")


def features(keypoints: np.ndarray, descriptors: np.ndarray, **more: object) -> Features:
    """Features of one image, or of a batch, of ``… x N x 2`` pixels and ``… x N x D`` vectors."""
    points = torch.as_tensor(keypoints, dtype=torch.float32).reshape(-1, *keypoints.shape[-2:])
    vectors = torch.as_tensor(descriptors, dtype=torch.float32).reshape(-1, *descriptors.shape[-2:])
    return Features(points, torch.ones(points.shape[:2]), vectors, image_size=(480, 640), **more)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def moved_scene(degrees: float, scale: float, count: int = 240, seed: int = 0) -> tuple[Features, Features]:
    """Row i of one side is row i of the other, turned and scaled; a third of the rows look like another row."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(0, 640, count) + 1j * rng.uniform(0, 480, count)
    turn = scale * np.exp(1j * np.radians(degrees))
    there = turn * (z - 320 - 240j) + 300 + 250j + rng.normal(0, 0.5, count)
    vectors = unit(rng.normal(size=(count, 32)))
    alike = count // 3
    twins = vectors[alike : 2 * alike]
    vectors[:alike] = unit(twins + 0.02 * rng.normal(size=twins.shape))
    seen = unit(vectors + 0.05 * rng.normal(size=vectors.shape))
    # Here the twin is a little more alike than the right one.
    seen[:alike], seen[alike : 2 * alike] = (
        unit(0.4 * seen[:alike] + 0.6 * twins),
        unit(0.4 * twins + 0.6 * vectors[:alike]),
    )
    pixels = [np.stack((p.real, p.imag), axis=1) for p in (z, there)]
    return features(pixels[0], vectors), features(pixels[1], seen)


def right(first: Features, second: Features, config: MatcherConfig) -> int:
    """How many rows are matched with their own."""
    return int(
        (match_features_densely(first, second, config).matches0[0] == torch.arange(first.keypoints.shape[1])).sum()
    )


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (8, 1.2), (90, 0.6), (200, 2.0)])
def test_look_alikes_are_told_apart_by_where_they_are(degrees: float, scale: float) -> None:
    scene = moved_scene(degrees, scale)
    assert right(*scene, NEVER) < 0.75 * 240
    assert right(*scene, ALWAYS) >= 0.98 * 240


def mutual(similarity: np.ndarray) -> np.ndarray:
    """Of each row the column that it matches, -1 for none."""
    best = similarity.argmax(1)
    return np.where(similarity.argmax(0)[best] == np.arange(len(similarity)), best, -1)


def expected_places(
    found: np.ndarray, similarity: np.ndarray, p0: np.ndarray, p1: np.ndarray, most: int, support: int, weight: float
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Where keypoints are to be expected, how far from there is elsewhere, and what that loses."""
    rows = sorted(np.flatnonzero(found >= 0), key=lambda i: -similarity[i, found[i]])[:most]
    seeds = []
    for rank, i in enumerate(rows):
        near = sorted((j for j in rows if j != i), key=lambda j: abs(p0[j] - p0[i]))[:8]
        here = np.array([p0[j] - p0[i] for j in near])
        there = np.array([p1[found[j]] - p1[found[i]] for j in near])
        turns = there / here
        sane = (abs(turns) < 3) & (abs(turns) > 1 / 3)
        agree = [sane[a] * sane * (abs(t * here - there) < 3 + 0.3 * abs(here) * abs(t)) for a, t in enumerate(turns)]
        best = agree[int(np.argmax([x.sum() for x in agree]))]
        if best.sum() >= support:
            turn = (here.conj() * there)[best].sum() / (abs(here[best]) ** 2).sum()
            contrast = similarity[i, found[i]] - similarity[i, found[rows[rank - 1]]] if rank else np.nan
            seeds.append((i, turn, abs(turn * here - there)[best].mean(), contrast))
    if len(seeds) < 12:
        return None
    place, radius = np.empty(len(p0), complex), np.empty(len(p0))
    for n, p in enumerate(p0):
        i, turn, error, _ = min(seeds, key=lambda seed: abs(p - p0[seed[0]]))
        place[n] = p1[found[i]] + turn * (p - p0[i])
        radius[n] = 3 * (4 + error + 0.2 * abs(p - p0[i]))
    return place, radius, weight * max(0, np.nanmean([seed[3] for seed in seeds]))


def oracle(first: Features, second: Features) -> tuple[np.ndarray, int]:
    """What guided search finds, one match after the other, with complex numbers in float64; after how many rounds."""
    p0, p1 = (f.keypoints[0].double().numpy() @ [1, 1j] for f in (first, second))
    similarity = (first.descriptors[0].double() @ second.descriptors[0].double().T).numpy()
    found = mutual(similarity)
    rounds = 0
    for options in ((384, 4, 0.6), (700, 7, 0.8)):
        expected = expected_places(found, similarity, p0, p1, *options)
        if expected is None:
            break
        place, radius, weight = expected
        away = abs(place - p1[found]) > radius
        if rounds == 0 and (away & (found >= 0))[::4].sum() <= 0.05 * (found >= 0)[::4].sum():
            break
        lost = weight * np.minimum(1, abs(place[:, None] - p1[None]) / radius[:, None])
        found, rounds = mutual(similarity - lost), rounds + 1
    return found, rounds


@pytest.mark.parametrize(("alike", "rounds"), [(2, 0), (12, 2), (28, 2)])
def test_it_is_what_one_match_after_the_other_gives(alike: int, rounds: int) -> None:
    first, second = moved_scene(20, 0.8, seed=alike)
    # Rows that are right at first alone; then some of them look like each other.
    rows = (match_features_densely(first, second, NEVER).matches0[0] == torch.arange(240)).nonzero()[:, 0]
    first, second = first.rows(rows), second.rows(rows)
    some = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:alike]
    own, others = first.descriptors[0, some], first.descriptors[0, some.flip(0)]
    mixed = second.descriptors.clone()
    mixed[0, some] = F.normalize(0.47 * own + 0.53 * others, dim=1)
    second = replace(second, descriptors=mixed)
    expected, rounds_made = oracle(first, second)
    assert rounds_made == rounds
    assert (match_features_densely(first, second, ALWAYS).matches0[0].numpy() == expected).all()
    assert (match_features_densely(first, second, NEVER).matches0[0].numpy() != expected).any() == (rounds > 0)


def test_unrelated_images_and_those_that_agree_keep_their_matches() -> None:
    rng = np.random.default_rng(1)
    first, second = (features(rng.uniform(0, 480, (300, 2)), unit(rng.normal(size=(300, 32)))) for _ in range(2))
    still = replace(first, keypoints=first.keypoints + 2)
    for other in (second, still):
        expected, found = (match_features(first, other, config) for config in (NEVER, ALWAYS))
        assert torch.equal(expected.indices, found.indices) and torch.equal(expected.confidence, found.confidence)


def test_confidence_is_the_similarity_itself_and_its_limits_hold() -> None:
    first, second = moved_scene(15, 1.0)
    found = match_features(first, second, ALWAYS)
    similarity = first.descriptors[0] @ second.descriptors[0].T
    torch.testing.assert_close(found.confidence, similarity[found.indices[:, 0], found.indices[:, 1]])
    limit = float(found.confidence.median())
    for config in (replace(ALWAYS, min_similarity=limit), replace(ALWAYS, max_distance=(2 - 2 * limit) ** 0.5)):
        limited = match_features(first, second, config)
        assert 0 < len(limited) < len(found) and float(limited.confidence.min()) >= limit - 1e-6
        assert {tuple(r) for r in limited.indices.tolist()} <= {tuple(r) for r in found.indices.tolist()}


@pytest.mark.parametrize("config", [NEVER, ALWAYS])
def test_a_batch_of_no_pairs_has_no_matches(config: MatcherConfig) -> None:
    nothing = Features(torch.zeros(0, 20, 2), torch.zeros(0, 20), torch.zeros(0, 20, 8), image_size=(480, 640))
    assert match_features_densely(nothing, nothing, config).matches0.shape == (0, 20)
    assert len(match_features(nothing, nothing, config)) == 0


def test_confidence_can_be_differentiated() -> None:
    first, second = moved_scene(15, 1.0)
    first = replace(first, descriptors=first.descriptors.clone().requires_grad_())
    found = match_features(first, second, ALWAYS)
    assert torch.equal(found.indices, match_features(*moved_scene(15, 1.0), ALWAYS).indices)
    found.confidence.sum().backward()
    torch.testing.assert_close(
        first.descriptors.grad[0, found.indices[:, 0]], second.descriptors[0, found.indices[:, 1]]
    )


def test_pairs_of_a_batch_do_not_know_of_each_other_nor_of_padding() -> None:
    pairs = [moved_scene(10, 1.0, seed=1), moved_scene(100, 0.7, count=150, seed=2)]

    def padded(side: int) -> Features:
        rows = 1100
        points, vectors = np.full((2, rows, 2), np.nan, np.float32), np.zeros((2, rows, 32), np.float32)
        valid = torch.zeros((2, rows), dtype=torch.bool)
        for i, pair in enumerate(pairs):
            n = pair[side].keypoints.shape[1]
            points[i, :n], vectors[i, :n], valid[i, :n] = pair[side].keypoints[0], pair[side].descriptors[0], True
        return features(points, vectors, valid=valid)

    both = match_features_densely(padded(0), padded(1), ALWAYS).matches0
    for found, pair in zip(both, pairs, strict=True):
        n = pair[0].keypoints.shape[1]
        assert torch.equal(found[:n], match_features_densely(*pair, ALWAYS).matches0[0]) and (found[n:] == -1).all()


@pytest.mark.parametrize("count", [0, 1, 8, 9, 10])
def test_few_keypoints_are_matched_as_without(count: int) -> None:
    first, second = moved_scene(0, 1.0)
    few = first.rows(torch.arange(count))
    for sides in ((few, second), (second, few), (few, few)):
        assert torch.equal(*(match_features(*sides, config).indices for config in (NEVER, ALWAYS)))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_band_holds_and_what_is_no_number_spoils_no_other(value: float) -> None:
    first, second = moved_scene(0, 1.0)
    whole = len(match_features(first, second, ALWAYS))
    for name in ("keypoints", "descriptors"):
        for side in (0, 1):
            sides = [first, second]
            rows = getattr(sides[side], name).clone()
            rows[0, 5] = value
            sides[side] = replace(sides[side], **{name: rows})
            assert len(match_features(*sides, ALWAYS)) >= 0.95 * whole
    band = match_features(first, second, replace(ALWAYS, band_px=12.0))
    assert len(band) and float((band.keypoints0 - band.keypoints1)[:, 1].abs().max()) <= 12


def test_the_extractor_decides_where_nothing_else_is_said() -> None:
    compact = SemanticMatcher.from_parts(create_extractor("compact", 64), device="cpu")
    sift = SemanticMatcher.from_parts(create_extractor("sift", 64), device="cpu")
    assert (compact.matching.guided, sift.matching.guided) == ("always", "auto")
    assert compact.with_settings(matching=MatcherConfig(ratio=0.9)).matching.guided == "always"
    assert compact.with_settings(matching=NEVER).matching.guided == "never"
    with pytest.raises(ConfigError, match="guided"):
        MatcherConfig(guided="sometimes")
    with pytest.raises(ConfigError, match="guided is of matcher 'nearest'"):
        MatcherConfig(matcher="lightglue", guided="always")


def test_of_several_turns_the_right_one_is_searched_once_more() -> None:
    first, second = moved_scene(180, 1.0)
    blurred = first.descriptors.roll(1, 2)
    turned = Features(
        first.keypoints.repeat(1, 2, 1), torch.ones(1, 480), torch.cat((blurred, first.descriptors), 1),
        image_size=(480, 640), turn=torch.tensor([[0] * 240 + [180] * 240]),
    )  # fmt: skip
    found = match_features(turned, second, ALWAYS)
    expected = match_features(first, second, ALWAYS)
    assert torch.equal(found.indices, expected.indices + torch.tensor([240, 0]))
