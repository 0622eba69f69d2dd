"""The matcher against loops and against the published matchers' results."""

from __future__ import annotations

import itertools
from dataclasses import replace

import kornia
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError, DeviceError, ShapeError
from semantic_matcher_core.extractors.alike import Alike
from semantic_matcher_core.extractors.compact import Compact
from semantic_matcher_core.matching import (
    FusedSimilarity,
    MatcherConfig,
    match_features,
    match_features_densely,
    match_similarities,
    nearest,
)
from semantic_matcher_core.types import Features


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def related(batch: int, n: int, m: int, dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sides of which many rows are noisy copies of each other."""
    first = unit(batch, n, dim, seed=seed)
    picks = torch.randint(0, n, (batch, m), generator=torch.Generator().manual_seed(seed + 1))
    second = first.gather(1, picks[..., None].expand(-1, -1, dim))
    return first, F.normalize(second + 0.15 * unit(batch, m, dim, seed=seed + 2) * dim**0.5 / 4, dim=-1)


def make_features(descriptors: torch.Tensor, valid: torch.Tensor | None = None, **fields: torch.Tensor) -> Features:
    batch, n = descriptors.shape[:2]
    keypoints = torch.arange(batch * n * 2, dtype=torch.float32).reshape(batch, n, 2)
    return Features(keypoints, torch.ones(batch, n), descriptors, (480, 640), valid=valid, **fields)


def given(matrix: torch.Tensor) -> FusedSimilarity:
    """Similarities that are there already, to the last bit."""
    unit = torch.eye(matrix.shape[2]).expand(len(matrix), -1, -1)
    return FusedSimilarity([matrix], [unit], MatcherConfig())


def looped_matches(similarity: np.ndarray, config: MatcherConfig) -> list[int]:
    """One pair, one row at a time; ties go to the lowest index."""

    def one_way(rows: np.ndarray) -> list[int]:
        found = []
        for row in rows:
            best = max(range(len(row)), key=lambda j: (row[j], -j))
            keep = True
            if config.ratio is not None and len(row) > 1:
                second = max(row[j] for j in range(len(row)) if j != best)
                keep &= bool(1 - row[best] <= config.ratio**2 * (1 - second))
            if config.max_distance is not None:
                keep &= bool(2 * (1 - row[best]) <= config.max_distance**2)
            if config.min_similarity is not None:
                keep &= bool(row[best] >= config.min_similarity)
            found.append(best if keep else -1)
        return found

    forth, back = one_way(similarity), one_way(similarity.T)
    return [j if j >= 0 and (back[j] == i or not config.mutual) else -1 for i, j in enumerate(forth)]


CONFIGS = [
    MatcherConfig(mutual=mutual, ratio=ratio, max_distance=distance, min_similarity=similarity)
    for mutual, ratio, distance, similarity in itertools.product((True, False), (None, 0.8), (None, 0.6), (None, 0.75))
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("n", "m"), [(70, 131), (200, 65), (1, 40), (40, 1), (1, 1)])
def test_equals_a_loop(config, n, m):
    first, second = related(2, n, m, 16, seed=n)
    similarity = FusedSimilarity([first], [second], config)
    dense = match_similarities(similarity, config)
    for b in range(2):
        matrix = similarity.rows(0, n)[b].numpy()
        matches = looped_matches(matrix, config)
        assert dense.matches0[b].tolist() == matches
        for i, j in enumerate(matches):
            assert dense.similarity0[b, i] == (matrix[i, j] if j >= 0 else 0)


@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.parametrize("ratio", [None, 0.9])
def test_ties_go_to_the_lowest_index(mutual, ratio):
    """Similarities of few values: most rows and columns have several maxima, within and across groups of rows."""
    config = MatcherConfig(mutual=mutual, ratio=ratio)
    matrix = torch.randint(0, 3, (2, 150, 90), generator=torch.Generator().manual_seed(0)) / 4
    dense = match_similarities(given(matrix), config)
    for b in range(2):
        assert dense.matches0[b].tolist() == looped_matches(matrix[b].numpy(), config)
    if mutual and ratio is None:
        assert (dense.matches0 >= 0).any()


def test_identical_descriptors_match_first_with_first():
    same = F.normalize(torch.ones(1, 5, 8), dim=-1)
    assert match_features(make_features(same), make_features(same[:, :3])).indices.tolist() == [[0, 0]]


@pytest.mark.parametrize("block_rows", [1, 7, 64, 100, 128, 10**6])
@pytest.mark.parametrize("config", [MatcherConfig(), MatcherConfig(ratio=0.9), MatcherConfig(mutual=False)])
def test_blocks_equal_the_whole(block_rows, config, monkeypatch):
    matrix = torch.rand(2, 300, 90, generator=torch.Generator().manual_seed(1))
    matrix[1] = (matrix[1] * 8).floor() / 8  # ties across blocks
    valid0 = torch.arange(300) < torch.tensor([[300], [211]])
    valid1 = torch.arange(90) < torch.tensor([[33], [90]])
    found = []
    for rows in (300, block_rows):
        monkeypatch.setattr(nearest, "_suitable_block", lambda *_, rows=rows: rows)
        found.append(match_similarities(given(matrix), config, valid0, valid1))
    whole, parts = found
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("fusion", ["product", "sum", "concat"])
def test_blocks_are_computed_like_the_whole(fusion):
    sides = [[unit(2, n, 24, seed=n), unit(2, n, 40, seed=n + 1)] for n in (90, 70)]
    similarity = FusedSimilarity(*sides, MatcherConfig(fusion=fusion))
    whole = similarity.rows(0, 90)
    assert similarity.shape == whole.shape == (2, 90, 70)
    parts = torch.cat([similarity.rows(i, min(i + 17, 90)) for i in range(0, 90, 17)], dim=1)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)


def test_fusions_are_what_they_say():
    texture, semantic = (unit(1, 9, 16, seed=1), unit(1, 7, 16, seed=2)), (unit(1, 9, 5, seed=3), unit(1, 7, 5, seed=4))
    t, s = texture[0] @ texture[1].mT, semantic[0] @ semantic[1].mT

    def fused(**options):
        sides = [[texture[i], semantic[i]] for i in (0, 1)]
        return FusedSimilarity(*sides, MatcherConfig(**options)).rows(0, 9)

    torch.testing.assert_close(fused(), t * s)
    torch.testing.assert_close(fused(fusion="sum"), t + s)
    torch.testing.assert_close(fused(fusion="concat"), t + s)
    torch.testing.assert_close(fused(fusion="sum", weights=(0.2, 0.7)), 0.2 * t + 0.7 * s)
    concatenated = [torch.cat([texture[i], semantic[i]], dim=-1) for i in (0, 1)]
    torch.testing.assert_close(fused(fusion="concat"), concatenated[0] @ concatenated[1].mT)


def test_padding_changes_nothing():
    first, second = related(1, 80, 70, 16)
    plain = match_features(make_features(first), make_features(second))
    for fill in (0.0, 1.0):  # 1 makes padding more similar to everything than anything else is
        sides = []
        for vectors, rows in ((first, 100), (second, 123)):
            padded = torch.full((1, rows, 16), fill)
            padded[:, : vectors.shape[1]] = vectors
            sides.append(make_features(padded, valid=torch.arange(rows)[None] < vectors.shape[1]))
        matches = match_features(*sides)
        assert torch.equal(matches.indices, plain.indices)
        torch.testing.assert_close(matches.confidence, plain.confidence)


def test_the_ratio_test_refuses_a_descriptor_that_is_there_twice_as_kornia_does():
    # Both are at no distance: whether rounding makes that a little more or less than nothing decides nothing.
    vectors = unit(1, 300, 128)
    twice = torch.cat([vectors, vectors[:, :50]], dim=1)
    matches = match_features(make_features(vectors), make_features(twice), MatcherConfig(ratio=0.8, mutual=False))
    _, expected = kornia.feature.match_snn(vectors[0], twice[0], 0.8)
    assert matches.indices.tolist() == expected.tolist() == [[i, i] for i in range(50, 300)]


def test_ratio_ignores_padding_as_second_neighbour():
    vectors = unit(1, 3, 8)
    padded = torch.cat([vectors, vectors], dim=1)
    valid = torch.tensor([[True] * 3 + [False] * 3])
    config = MatcherConfig(ratio=0.5)
    assert len(match_features(make_features(vectors), make_features(padded, valid), config)) == 3
    assert len(match_features(make_features(vectors), make_features(padded), config)) == 0


def test_a_batch_equals_its_pairs():
    counts = ((50, 40), (0, 30), (20, 60))
    pairs = [related(1, max(n, 1), m, 16, seed=n + m) for n, m in counts]
    items = [
        (make_features(first[:, :n]), make_features(second))
        for (first, second), (n, _) in zip(pairs, counts, strict=True)
    ]
    batch0, batch1 = (Features.stack([item[side] for item in items]) for side in (0, 1))
    matches = match_features(batch0, batch1)
    assert matches.batch_size == 3
    assert (matches.pair.diff() >= 0).all()
    for b, (first, second) in enumerate(items):
        single, of_pair = match_features(first, second), matches.of_pair(b)
        assert single.pair is None
        assert torch.equal(of_pair.indices, single.indices)
        torch.testing.assert_close(of_pair.confidence, single.confidence)
        assert (of_pair.indices[:, 0].diff() > 0).all()
        assert torch.equal(of_pair.keypoints0, first.keypoints[0, single.indices[:, 0]])
        assert torch.equal(of_pair.keypoints1, second.keypoints[0, single.indices[:, 1]])
    assert len(matches.of_pair(1)) == 0
    assert len(matches) > 40


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("mutual", [True, False])
def test_no_keypoints_no_matches(n, m, mutual):
    config = MatcherConfig(mutual=mutual, ratio=0.9)
    sides = make_features(unit(2, n, 8)), make_features(unit(2, m, 8))
    matches = match_features(*sides, config)
    assert len(matches) == 0
    assert matches.indices.shape == (0, 2)
    assert matches.keypoints0.shape == matches.keypoints1.shape == (0, 2)
    dense = match_features_densely(*sides, config)
    assert dense.matches0.tolist() == [[-1] * n] * 2
    assert not dense.similarity0.any()


def test_all_padding_is_no_keypoints():
    padded = make_features(torch.zeros(1, 4, 8), valid=torch.zeros(1, 4, dtype=torch.bool))
    assert len(match_features(padded, make_features(unit(1, 5, 8)))) == 0
    assert len(match_features(make_features(unit(1, 5, 8)), padded, MatcherConfig(mutual=False))) == 0


def test_one_keypoint_on_each_side():
    vector = unit(1, 1, 8)
    matches = match_features(make_features(vector), make_features(vector), MatcherConfig(ratio=0.5, max_distance=0.1))
    assert matches.indices.tolist() == [[0, 0]]
    assert matches.confidence.tolist() == pytest.approx([1.0])


def test_without_mutual_check_every_keypoint_may_match():
    first, second = related(1, 60, 20, 16)
    matches = match_features(make_features(first), make_features(second), MatcherConfig(mutual=False))
    assert matches.indices[:, 0].tolist() == list(range(60))
    assert torch.equal(matches.indices[:, 1], (first @ second.mT)[0].argmax(dim=1))


def test_what_a_reasoner_gave_is_matched_instead_of_descriptors():
    wrong = unit(1, 30, 8, seed=9)
    texture, semantic = related(1, 30, 30, 16, seed=1), related(1, 30, 30, 12, seed=2)

    def sides(*names: str):
        given = {"reasoned": texture, "semantic": semantic}
        return [make_features(wrong, **{name: given[name][i] for name in names}) for i in (0, 1)]

    alone = match_features(*sides("reasoned"))
    expected = match_features(make_features(texture[0]), make_features(texture[1]))
    assert torch.equal(alone.indices, expected.indices)
    fused = match_features(*sides("reasoned", "semantic"))
    product = (texture[0] @ texture[1].mT) * (semantic[0] @ semantic[1].mT)
    matches0 = looped_matches(product[0].numpy(), MatcherConfig())
    assert fused.indices.tolist() == [[i, j] for i, j in enumerate(matches0) if j >= 0]
    torch.testing.assert_close(fused.confidence, product[0][fused.indices[:, 0], fused.indices[:, 1]])


def test_half_precision_descriptors_are_matched_in_float32():
    first, second = related(1, 80, 70, 64)
    half = [make_features(v.bfloat16()) for v in (first, second)]
    single = [make_features(v.bfloat16().float()) for v in (first, second)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        matches = match_features(*half)
    expected = match_features(*single)
    assert matches.confidence.dtype == torch.float32
    assert torch.equal(matches.indices, expected.indices)
    assert torch.equal(matches.confidence, expected.confidence)


def test_features_are_not_changed_and_may_be_views():
    first, second = related(1, 40, 30, 16)
    reasoned = [make_features(v, reasoned=v * 1, semantic=v * 1) for v in (first, second)]
    before = [v.clone() for v in (first, second)]
    for fusion in ("product", "sum", "concat"):
        expected = match_features(*reasoned, MatcherConfig(fusion=fusion))
        views = [
            make_features(v.mT.contiguous().mT, reasoned=v.repeat_interleave(2, dim=2)[..., ::2], semantic=v)
            for v in (first, second)
        ]
        assert not views[0].reasoned.is_contiguous()
        assert torch.equal(match_features(*views, MatcherConfig(fusion=fusion)).indices, expected.indices)
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["descriptors", "reasoned", "semantic"])
@pytest.mark.parametrize("config", [MatcherConfig(), MatcherConfig(mutual=False), MatcherConfig(ratio=0.98)])
def test_a_row_that_is_not_finite_is_lost_alone(value: float, kind: str, config: MatcherConfig) -> None:
    rows = {0: 5, 1: 33}
    sides = related(2, 70, 90, 16, seed=1), related(2, 70, 90, 12, seed=2)
    given = []
    for side in (0, 1):
        texture, semantic = sides[0][side].clone(), sides[1][side].clone()
        extra = {} if kind == "descriptors" else {"reasoned": texture, "semantic": semantic}
        features = make_features(texture.clone(), **extra)
        getattr(features, kind)[0, rows[side], 3] = value  # the first image of the batch alone
        given.append(features)
    kept = [[row for row in range(f.keypoints.shape[1]) if row != rows[side]] for side, f in enumerate(given)]
    found = match_features(*given, config)
    for image in (0, 1):
        keep = kept if image == 0 else [list(range(70)), list(range(90))]
        alone = [
            make_features(f.descriptors[image : image + 1, k])
            if kind == "descriptors"
            else make_features(
                f.descriptors[image : image + 1, k],
                reasoned=f.reasoned[image : image + 1, k],
                semantic=f.semantic[image : image + 1, k],
            )
            for f, k in zip(given, keep, strict=True)
        ]
        expected = [[keep[0][i], keep[1][j]] for i, j in match_features(*alone, config).indices.tolist()]
        assert found.of_pair(image).indices.tolist() == expected
        assert len(expected) > 15
    assert found.confidence.isfinite().all()


@pytest.mark.parametrize(
    ("features0", "features1", "message"),
    [
        (make_features(unit(2, 3, 8)), make_features(unit(1, 3, 8)), "batch of 2 images with a batch of 1"),
        (make_features(unit(1, 3, 8)), make_features(unit(1, 3, 9)), "descriptors have 8 and 9 dimensions"),
        (
            make_features(unit(1, 3, 8), reasoned=unit(1, 3, 4)),
            make_features(unit(1, 3, 8)),
            "only one side has reasoned",
        ),
        (
            make_features(unit(1, 3, 8), reasoned=unit(1, 3, 4), semantic=unit(1, 3, 4)),
            make_features(unit(1, 3, 8), reasoned=unit(1, 3, 4)),
            "only one side has semantic",
        ),
        (
            make_features(unit(1, 3, 8), reasoned=unit(1, 3, 4), semantic=unit(1, 3, 4)),
            make_features(unit(1, 3, 8), reasoned=unit(1, 3, 4), semantic=unit(1, 3, 5)),
            "semantic have 4 and 5 dimensions",
        ),
    ],
)
def test_features_that_do_not_fit_are_refused(features0, features1, message):
    with pytest.raises(ShapeError, match=message):
        match_features(features0, features1)


@pytest.mark.parametrize(
    ("makers", "together"),
    [
        (("xfeat", "xfeat"), True),
        (("", "xfeat"), True),  # of a file that does not say
        (("xfeat", "edgepoint2-e64"), False),
        (("xfeat with dinov2_vits14, 5 layers", "xfeat with dinov2_vitb14, 5 layers"), False),
    ],
)
def test_features_of_two_makers_are_refused_though_their_vectors_are_as_long(makers, together):
    first, second = (replace(make_features(unit(1, 9, 64)), made_by=maker) for maker in makers)
    for work in (lambda: match_features(first, second), lambda: Features.stack([first, second])):
        if together:
            work()
            continue
        with pytest.raises(ShapeError, match=f"made by '{makers[0]}' and by '{makers[1]}' cannot be compared"):
            work()


def test_features_of_two_extractors_are_refused_however_they_were_made(textured):
    image = textured(64, 96)
    compact, alike = Compact(50), Alike(50)
    matchers = [SemanticMatcher.from_parts(part, device="cpu") for part in (compact, alike)]
    assert compact.descriptor_dim == alike.descriptor_dim
    given = [matchers[0].extract(image), compact.extract(image), matchers[0].extract_turned(image)]
    for features in given:
        assert features.made_by == features[0].made_by == "compact"
        with pytest.raises(ShapeError, match="made by 'compact' and by 'alike-n'"):
            matchers[1].match(features, matchers[1].extract(image))


def test_features_on_two_devices_are_refused():
    features = make_features(unit(1, 3, 8))
    with pytest.raises(DeviceError, match=r"cpu and meta; move one with \.to\(\)"):
        match_features(features, features.to("meta"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mutual": 1}, "mutual.*1"),
        ({"ratio": 0}, "ratio.*0"),
        ({"ratio": 1.2}, "ratio.*1.2"),
        ({"ratio": float("nan")}, "ratio.*nan"),
        ({"ratio": "0.9"}, "ratio.*'0.9'"),
        ({"ratio": True}, "ratio.*True"),
        ({"max_distance": -1}, "max_distance.*-1"),
        ({"max_distance": 3.0}, "max_distance.*3.0"),
        ({"min_similarity": float("inf")}, "min_similarity.*inf"),
        ({"min_similarity": 1.5}, "min_similarity must be at most 1, got 1.5"),
        ({"fusion": "mean"}, "'mean'; use one of product, sum, concat"),
        ({"fusion": "sum", "weights": (1.0,)}, "two numbers"),
        ({"fusion": "sum", "weights": (1.0, -0.1)}, "0 or more"),
        ({"fusion": "sum", "weights": (0, 0)}, "not both 0"),
        ({"weights": (0.5, 0.5)}, "only used with fusion 'sum'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MatcherConfig(**options)


def test_weights_may_come_as_a_list_from_a_file():
    assert MatcherConfig(fusion="sum", weights=[1, 2]).weights == (1.0, 2.0)


@pytest.fixture(scope="module")
def golden(shared) -> dict[str, torch.Tensor]:
    with np.load(shared / "golden" / "nn_matchers.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nn", {}),
        ("nn_ratio", {"ratio": 0.9}),
        ("nn_dist", {"max_distance": 0.7}),
        ("nn_both", {"ratio": 0.9, "max_distance": 0.7}),
        ("nn_nomutual", {"mutual": False}),
        ("func", {}),
    ],
)
def test_equals_the_published_nearest_neighbour_matcher(golden, name, options):
    config = MatcherConfig(**options)
    vectors = [[F.normalize(golden[f"desc{side}"], dim=-1)] for side in (0, 1)]
    similarity = FusedSimilarity(*vectors, config)
    both_ways = similarity, FusedSimilarity(*reversed(vectors), config)
    for side, given in enumerate(both_ways):
        assert torch.equal(match_similarities(given, config).matches0, golden[f"{name}_matches{side}"])
    torch.testing.assert_close(similarity.rows(0, 90).sum(dim=(1, 2)), golden[f"{name}_simsum"], atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("fusion", "suffix", "options"),
    [
        *(
            (fusion, suffix, options)
            for fusion in ("product", "sum", "concat")
            for suffix, options in (("", {}), ("_mutual_check", {"mutual": False}), ("_ratio_thresh", {"ratio": 0.9}))
        ),
        ("sum", "_sum_weights", {"weights": (1.7, 0.3)}),  # the published order is semantic first
    ],
)
def test_equals_the_published_fusing_matcher(golden, fusion, suffix, options):
    config = MatcherConfig(fusion=fusion, **options)
    vectors = [[F.normalize(golden[f"{kind}{side}"], dim=-1) for kind in ("desc", "sem")] for side in (0, 1)]
    name = f"multi_{fusion}{suffix}"
    for side, given in enumerate((vectors, vectors[::-1])):
        found = match_similarities(FusedSimilarity(*given, config), config)
        assert torch.equal(found.matches0, golden[f"{name}_matches{side}"])
        matched, published = found.matches0 >= 0, golden[f"{name}_matching_scores{side}"]
        assert matched.any()
        torch.testing.assert_close(found.similarity0[matched], published[matched], atol=1e-5, rtol=0)
        assert found.similarity0[~matched].eq(0).all()  # the published one reports the last column there


def test_equals_xfeats_own_matcher(shared):
    with np.load(shared / "golden" / "xfeat_th0.05.npz") as arrays:
        sides = [make_features(torch.from_numpy(arrays[f"{side}_descriptors"])[None]) for side in ("ref", "tgt")]
        expected = np.stack([arrays["mnn_ref"], arrays["mnn_tgt"]], axis=1)
    matches = match_features(*sides, MatcherConfig(min_similarity=0.82))
    assert matches.indices.tolist() == expected.tolist()
    assert matches.confidence.min() >= 0.82
