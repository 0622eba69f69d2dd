"""The search by bounds gives what the plain search gives."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from semantic_matcher_core.matching import MatcherConfig, bounded
from semantic_matcher_core.matching.features import match_features, match_features_densely
from semantic_matcher_core.optimisations import VARIABLE
from semantic_matcher_core.types import Features


def sides(n: int, m: int, dim: int, *, spread: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors, part of which are near to one of the other side; with a small ``spread`` all are much alike."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(dim, generator=generator)
    first = torch.randn(n, dim, generator=generator)
    second = torch.randn(m, dim, generator=generator)
    shared = min(n, m) * 2 // 3
    second[:shared] = first[:shared] + 0.4 * second[:shared]
    second = second[torch.randperm(m, generator=generator)]
    return normalize(centre + spread * first, dim=1), normalize(centre + spread * second, dim=1)


def true_similarity(factors: list[tuple[Tensor, Tensor]]) -> Tensor:
    result = torch.ones((), dtype=torch.float64)
    for rows, columns in factors:
        result = result * (rows.double() @ columns.double().T)
    return result


def mutual(similarity: Tensor) -> set[tuple[int, int]]:
    """Pairs of mutual nearest neighbours, lowest index first."""
    nearest0, nearest1 = similarity.argmax(dim=1), similarity.argmax(dim=0)
    return {(i, int(j)) for i, j in enumerate(nearest0) if nearest1[j] == i}


def decided(similarity: Tensor, pair: tuple[int, int]) -> bool:
    """Whether a pair is ahead of all others of its row and of its column by more than float32 loses."""
    i, j = pair
    others = torch.cat((similarity[i, :j], similarity[i, j + 1 :], similarity[:i, j], similarity[i + 1 :, j]))
    return len(others) == 0 or bool(similarity[i, j] > others.max() + 1e-6)


def search(factors: list[tuple[Tensor, Tensor]], narrow: bool) -> bounded.MutualPairs:
    return bounded.mutual_nearest([bounded.Factor(*f) for f in factors], narrow=narrow)


@pytest.mark.parametrize(("n", "m"), [(512, 512), (500, 701), (64, 1), (1, 1), (129, 64)])
@pytest.mark.parametrize("spread", [10.0, 0.3, 0.02])
@pytest.mark.parametrize("kinds", [1, 2, 3])
@pytest.mark.parametrize("narrow", [False, True])
def test_mutual_pairs_are_exact(n: int, m: int, spread: float, kinds: int, narrow: bool) -> None:
    factors = [sides(n, m, 64, spread=spread, seed=seed) for seed in range(kinds)]
    found = search(factors, narrow)
    similarity = true_similarity(factors)
    pairs = set(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
    # Where float32 itself could not tell two apart, either may be chosen.
    for pair in pairs ^ mutual(similarity):
        assert not decided(similarity, pair)
    assert found.rows.tolist() == sorted(found.rows.tolist())
    torch.testing.assert_close(found.similarity.double(), similarity[found.rows, found.columns], atol=1e-6, rtol=0)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_first_factor_that_tells_nothing_changes_nothing(
    narrow: bool, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of either sign: with a factor below zero the largest product is where the other is smallest.
    scanned: list[int] = []
    real = bounded._scanned
    monkeypatch.setattr(bounded, "_scanned", lambda *a, **k: scanned.append(1) or real(*a, **k))
    common = normalize(torch.ones(1, 8), dim=1)
    factors = [(sign * common.expand(400, -1), common.expand(300, -1)), sides(400, 300, 48)]
    found = search(factors, narrow)
    assert len(scanned) == 2
    expected = mutual(true_similarity(factors))
    assert len(expected) > 20
    assert set(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) == expected


def test_factors_of_either_sign() -> None:
    generator = torch.Generator().manual_seed(5)
    factors = [tuple(normalize(torch.randn(n, 6, generator=generator), dim=1) for n in (400, 380)) for _ in range(2)]
    similarity = true_similarity(factors)  # type: ignore[arg-type]
    found = search(factors, narrow=False)  # type: ignore[arg-type]
    assert set(zip(found.rows.tolist(), found.columns.tolist(), strict=True)) == mutual(similarity)


@pytest.mark.parametrize("narrow", [False, True])
def test_most_similarities_of_a_second_factor_are_not_computed(narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[int] = []
    real_scan, real = bounded._scanned, bounded.similarities
    monkeypatch.setattr(bounded, "_scanned", lambda *a, **k: scanned.append(1) or real_scan(*a, **k))
    places: list[int] = []
    monkeypatch.setattr(bounded, "similarities", lambda f, r, c: places.append(len(r)) or real(f, r, c))
    first = sides(512, 512, 48)
    centre = normalize(torch.ones(1, 48), dim=1)
    search([first, tuple(normalize(centre + 0.1 * side, dim=1) for side in first)], narrow)  # type: ignore[list-item]
    assert len(scanned) == 1 and sum(places) < 512 * 512 / 20


@pytest.mark.parametrize("spread", [10.0, 0.3])
@pytest.mark.parametrize("operands", ["_narrow_operands", "_exact_operands"])
def test_error_stays_within_its_bound(spread: float, operands: str) -> None:
    rows, columns = sides(256, 320, 96, spread=spread)
    left, right, bound0, bound1 = getattr(bounded, operands)(bounded.Factor(rows, columns))
    true = true_similarity([(rows, columns)])
    error0, error1 = bound0.error, bound1.error
    assert (true.abs() <= bound0.size[:, None]).all() and (true.abs() <= bound1.size).all()
    if operands == "_narrow_operands":
        assert (left == left.bfloat16().float()).all() and (right == right.bfloat16().float()).all()
        error = (left.double() @ right.double().T - true).abs()
        assert float(error0.max()) < 0.02
    else:
        error = (left @ right.T - true).abs()
        assert float(error0.max()) < 1e-4
    assert (error <= error0[:, None]).all() and (error <= error1).all()


@pytest.mark.parametrize("narrow", [False, True])
def test_ties_go_to_the_lowest_index(narrow: bool) -> None:
    rows, columns = sides(128, 192, 32)
    columns[150] = columns[20]
    rows[100] = rows[7]
    found = search([(rows, columns)], narrow)
    assert 150 not in found.columns.tolist() and 100 not in found.rows.tolist()
    assert len(found.rows) > 20


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("kinds", [1, 2])
def test_vectors_all_alike(narrow: bool, kinds: int) -> None:
    same = normalize(torch.ones(256, 16), dim=1)
    found = search([(same, same)] * kinds, narrow)
    assert found.rows.tolist() == found.columns.tolist() == [0]


@pytest.mark.parametrize("narrow", [False, True])
def test_what_is_no_number_matches_as_little_as_in_the_plain_search(
    narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "has_narrow_products", lambda: True)
    pairs = [sides(400, 500, 48, seed=seed) for seed in range(2)]
    pairs[0][0][17] = torch.nan
    side0, side1 = (features([pair[i] for pair in pairs]) for i in (0, 1))
    found = match_features_densely(side0, side1, narrow=narrow)
    monkeypatch.setenv(VARIABLE, "all")
    plain = match_features_densely(side0, side1)
    assert torch.equal(plain.matches0, found.matches0) and torch.equal(plain.matches1, found.matches1)


def test_memory_kept_from_a_larger_pair_does_not_show() -> None:
    large, small = sides(700, 650, 48), sides(300, 200, 32)
    before = search([small, small], narrow=True)
    search([large, large], narrow=True)
    after = search([small, small], narrow=True)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_gradients_pass_by_the_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "mutual_nearest", lambda *_, **__: pytest.fail("has no gradient"))
    pairs = [sides(400, 500, 48, seed=seed) for seed in range(2)]
    side0 = features([pair[0].requires_grad_() for pair in pairs])
    match_features(side0, features([pair[1] for pair in pairs])).confidence.sum().backward()
    assert pairs[0][0].grad is not None


def features(vectors: list[Tensor], valid: Tensor | None = None) -> Features:
    n = len(vectors[0])
    keypoints = torch.arange(2 * n).view(1, n, 2).float()
    reasoned, semantic = (vectors[0][None], vectors[1][None] if len(vectors) > 1 else None)
    return Features(keypoints, torch.zeros(1, n), torch.zeros(1, n, 4), (9, 9), valid, reasoned, semantic)


@pytest.mark.parametrize(
    "config",
    [
        MatcherConfig(),
        MatcherConfig(min_similarity=0.6),
        MatcherConfig(max_distance=0.7),
        MatcherConfig(fusion="sum", weights=(0.3, 0.9)),
        MatcherConfig(fusion="concat"),
        MatcherConfig(ratio=0.95),
        MatcherConfig(mutual=False),
        MatcherConfig(band_px=300.0),
    ],
    ids=repr,
)
@pytest.mark.parametrize("count", [700, 512])
def test_matches_are_those_of_the_plain_search(
    config: MatcherConfig, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Also where the CPU has no bfloat16 products: the switch then does nothing.
    monkeypatch.setattr(bounded, "has_narrow_products", lambda: True)
    pairs = [sides(count, 600, 48, spread=spread, seed=seed) for seed, spread in enumerate((0.8, 0.2))]
    side0, side1 = (features([pair[i] for pair in pairs]) for i in (0, 1))
    by_bound = match_features_densely(side0, side1, config)
    narrow = match_features_densely(side0, side1, config, narrow=True)
    monkeypatch.setenv(VARIABLE, "all")
    plain = match_features_densely(side0, side1, config)
    assert int((plain.matches0 >= 0).sum()) > 20
    for found in (by_bound, narrow):
        for name in ("matches0", "matches1"):
            assert torch.equal(getattr(plain, name), getattr(found, name))
        for name in ("similarity0", "similarity1"):
            torch.testing.assert_close(getattr(plain, name), getattr(found, name), atol=1e-6, rtol=0)
    monkeypatch.delenv(VARIABLE)
    assert torch.equal(
        match_features(side0, side1, config, narrow=True).indices[:, 0], plain.matches0[0].ge(0).nonzero()[:, 0]
    )


def test_which_search_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "has_narrow_products", lambda: True)
    calls: list[bool] = []
    real = bounded.mutual_nearest
    monkeypatch.setattr(bounded, "mutual_nearest", lambda f, narrow: calls.append(narrow) or real(f, narrow=narrow))

    def run(kinds: int, *, narrow: bool, valid: Tensor | None = None) -> list[bool]:
        calls.clear()
        pair = sides(512, 512, 32)
        match_features(features([pair[0]] * kinds, valid), features([pair[1]] * kinds), narrow=narrow)
        return list(calls)

    assert run(1, narrow=True) == [True] and run(2, narrow=True) == [True]
    assert run(1, narrow=False) == [] and run(2, narrow=False) == [False]
    assert run(2, narrow=True, valid=torch.arange(512)[None] < 500) == []
    monkeypatch.setenv(VARIABLE, "bounded_search")
    assert run(2, narrow=False) == []
    monkeypatch.setattr(bounded, "has_narrow_products", lambda: False)
    assert run(1, narrow=True) == []


def test_the_process_wide_switch_is_put_back() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(ZeroDivisionError), bounded._narrow_products():
        raise ZeroDivisionError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("narrow", [False, True])
def test_memory_of_inference_mode_serves_outside_of_it(narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "_memory", threading.local())
    factors = [sides(512, 512, 64, seed=seed) for seed in range(2)]
    with torch.inference_mode():
        inside = search(factors, narrow)
    outside = search(factors, narrow)
    assert torch.equal(inside.rows, outside.rows) and torch.equal(inside.columns, outside.columns)
