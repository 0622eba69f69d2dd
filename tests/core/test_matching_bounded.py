"""The search with bfloat16 products gives what the plain search gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from semantic_matcher_core.errors import ConfigError
from semantic_matcher_core.matching import MatcherConfig, bounded
from semantic_matcher_core.matching.features import match_features, match_features_densely
from semantic_matcher_core.optimisations import VARIABLE, is_enabled
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


@pytest.mark.parametrize(("n", "m"), [(512, 512), (500, 701), (64, 1), (1, 1), (129, 64)])
@pytest.mark.parametrize("spread", [10.0, 0.3, 0.02])
@pytest.mark.parametrize("kinds", [1, 2])
def test_nearest_neighbours_are_exact(n: int, m: int, spread: float, kinds: int) -> None:
    factors = [sides(n, m, 64, spread=spread, seed=seed) for seed in range(kinds)]
    found = bounded.nearest_both_ways([bounded.Factor(*f) for f in factors])
    similarity = true_similarity(factors)
    if found is None:  # too much alike: the plain search is used
        assert spread < 0.1 or min(n, m) < 100
        return
    for index, dim in zip(found, (1, 0), strict=True):
        best = similarity.amax(dim)
        chosen = similarity.gather(dim, index.unsqueeze(dim)).squeeze(dim)
        # Where float32 itself could not tell two apart, either may be chosen.
        torch.testing.assert_close(chosen, best, atol=3e-7, rtol=0)


@pytest.mark.parametrize("spread", [10.0, 0.3])
def test_error_stays_within_its_bound(spread: float) -> None:
    rows, columns = sides(256, 320, 96, spread=spread)
    left, right, (size0, error0, size1, error1) = bounded._narrow_operands(rows, columns)
    assert (left == left.bfloat16().float()).all() and (right == right.bfloat16().float()).all()
    true = true_similarity([(rows, columns)])
    error = (left.double() @ right.double().T - true).abs()
    assert (error <= error0[:, None]).all() and (error <= error1).all()
    assert (true.abs() <= size0[:, None]).all() and (true.abs() <= size1).all()
    assert float(error0.max()) < 0.02


def test_ties_go_to_the_lowest_index() -> None:
    rows, columns = sides(128, 192, 32)
    columns[150] = columns[20]
    rows[100] = rows[7]
    index0, index1 = bounded.nearest_both_ways([bounded.Factor(rows, columns)]) or (torch.empty(0), torch.empty(0))
    assert 150 not in index0.tolist() and 100 not in index1.tolist()


def test_vectors_all_alike_are_left_to_the_plain_search() -> None:
    same = normalize(torch.ones(256, 16), dim=1)
    assert bounded.nearest_both_ways([bounded.Factor(same, same)]) is None
    broken = torch.full((256, 16), torch.nan)
    assert bounded.nearest_both_ways([bounded.Factor(broken, broken)]) is None


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
    monkeypatch.setattr(bounded, "is_available", lambda: True)
    pairs = [sides(count, 600, 48, spread=spread, seed=seed) for seed, spread in enumerate((0.8, 0.2))]
    side0, side1 = (features([pair[i] for pair in pairs]) for i in (0, 1))
    plain = match_features_densely(side0, side1, config)
    narrow = match_features_densely(side0, side1, config, narrow=True)
    assert int((plain.matches0 >= 0).sum()) > 20
    for name in ("matches0", "matches1"):
        assert torch.equal(getattr(plain, name), getattr(narrow, name))
    for name in ("similarity0", "similarity1"):
        torch.testing.assert_close(getattr(plain, name), getattr(narrow, name), atol=1e-6, rtol=0)
    assert torch.equal(
        match_features(side0, side1, config, narrow=True).indices[:, 0], plain.matches0[0].ge(0).nonzero()[:, 0]
    )


def test_it_is_the_narrow_search_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "is_available", lambda: True)
    calls: list[int] = []
    real = bounded.nearest_both_ways
    monkeypatch.setattr(bounded, "nearest_both_ways", lambda factors: calls.append(1) or real(factors))
    pair = sides(512, 512, 32)
    match_features(features([pair[0]]), features([pair[1]]), narrow=True)
    match_features(features([pair[0]]), features([pair[1]]))
    padded = features([pair[0]], torch.arange(512)[None] < 500)
    match_features(padded, features([pair[1]]), narrow=True)
    assert len(calls) == 1


def test_the_process_wide_switch_is_put_back() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(ZeroDivisionError), bounded._narrow_products():
        raise ZeroDivisionError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_optimisations_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert is_enabled("narrow_search")
    monkeypatch.setenv(VARIABLE, "streams, narrow_search")
    assert not is_enabled("narrow_search") and is_enabled("cuda_graphs")
    monkeypatch.setenv(VARIABLE, "all")
    assert not is_enabled("cuda_graphs")
    monkeypatch.setenv(VARIABLE, "narow_search")
    with pytest.raises(ConfigError, match="narow_search; there are all, narrow_search"):
        is_enabled("streams")
