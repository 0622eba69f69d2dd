"""Features and Matches: shapes, padding, stacking."""

from __future__ import annotations

import pytest
import torch

from semantic_matcher_core.errors import SemanticMatcherError, ShapeError
from semantic_matcher_core.types import Features, Matches


def make_features(count: int, *, seed: int = 0, dim: int = 8, size: tuple[int, int] = (48, 64), **fields) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return Features(
        keypoints=torch.rand(1, count, 2, generator=generator) * 40,
        scores=torch.rand(1, count, generator=generator).sort(dim=1, descending=True).values,
        descriptors=torch.nn.functional.normalize(torch.randn(1, count, dim, generator=generator), dim=-1),
        image_size=size,
        **fields,
    )


def test_counts_without_padding():
    features = make_features(5)
    assert len(features) == features.batch_size == 1
    assert features.counts.tolist() == [5]
    assert features.counts.dtype == torch.int64


@pytest.mark.parametrize("field", ["scores", "descriptors", "valid", "reasoned", "semantic"])
def test_rows_must_agree(field):
    tensors = {"scores": torch.zeros(2, 4), "descriptors": torch.zeros(2, 4, 3), field: torch.zeros(2, 5, 3)}
    with pytest.raises(ShapeError, match=rf"{field} is \(2, 5, 3\), expected it to start with \(2, 4\)"):
        Features(keypoints=torch.zeros(2, 4, 2), image_size=(10, 10), **tensors)


@pytest.mark.parametrize("shape", [(4, 2), (1, 4, 3), (4,)])
def test_keypoints_must_be_batched_pairs(shape):
    with pytest.raises(ShapeError, match="B x N x 2"):
        Features(torch.zeros(shape), torch.zeros(1, 4), torch.zeros(1, 4, 3), (10, 10))


def test_stack_pads_and_indexing_takes_the_padding_off():
    items = [make_features(n, seed=n) for n in (3, 0, 7, 1)]
    batch = Features.stack(items)
    assert batch.keypoints.shape == (4, 7, 2)
    assert batch.valid is not None
    assert batch.counts.tolist() == [3, 0, 7, 1]
    assert torch.equal(batch.valid, torch.arange(7) < batch.counts[:, None])
    for name in ("keypoints", "scores", "descriptors"):
        assert getattr(batch, name)[~batch.valid].eq(0).all()
    for item, row in zip(items, batch, strict=True):
        assert row.valid is None
        assert row.image_size == item.image_size
        for name in ("keypoints", "scores", "descriptors"):
            assert torch.equal(getattr(row, name), getattr(item, name))


def test_stack_of_equal_counts_has_no_padding():
    batch = Features.stack([make_features(4, seed=1), make_features(4, seed=2)])
    assert batch.valid is None
    assert batch.counts.tolist() == [4, 4]


def test_stack_of_batches_keeps_their_padding():
    ragged = Features.stack([make_features(2, seed=1), make_features(5, seed=2)])
    batch = Features.stack([ragged, make_features(6, seed=3)])
    assert batch.counts.tolist() == [2, 5, 6]
    assert torch.equal(batch[0].keypoints, ragged[0].keypoints)


def test_stack_takes_reasoned_and_semantic_along():
    both = {name: torch.randn(1, 3, 6) for name in ("reasoned", "semantic")}
    batch = Features.stack([make_features(3, **both), make_features(3, **both)])
    assert torch.equal(batch.reasoned, both["reasoned"].repeat(2, 1, 1))
    assert torch.equal(batch[1].semantic, both["semantic"])


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "empty list"),
        ([make_features(2), make_features(2, size=(48, 65))], "image sizes"),
        ([make_features(2), make_features(2, reasoned=torch.zeros(1, 2, 4))], "with and without"),
        ([make_features(2), make_features(2, dim=9)], r"descriptors of dimensions \[8, 9\]"),
    ],
)
def test_stack_refuses_what_does_not_fit(items, message):
    with pytest.raises(ShapeError, match=message):
        Features.stack(items)


def test_index_out_of_range_and_from_the_end():
    batch = Features.stack([make_features(2, seed=1), make_features(3, seed=2)])
    assert torch.equal(batch[-1].keypoints, batch[1].keypoints)
    for index in (2, -3):
        with pytest.raises(IndexError):
            batch[index]


def test_to_moves_every_tensor():
    features = make_features(3, valid=torch.ones(1, 3, dtype=torch.bool), reasoned=torch.zeros(1, 3, 4)).to("meta")
    assert {t.device.type for _, t in features._tensors()} == {"meta"}
    assert features.image_size == (48, 64)
    matches = Matches(torch.zeros(2, 2).long(), torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2)).to("meta")
    assert matches.indices.device == matches.confidence.device == torch.device("meta")


def test_matches_of_pair():
    pair = torch.tensor([0, 0, 2])
    matches = Matches(
        indices=torch.tensor([[0, 5], [3, 1], [2, 2]]),
        keypoints0=torch.rand(3, 2),
        keypoints1=torch.rand(3, 2),
        confidence=torch.tensor([0.9, 0.8, 0.7]),
        pair=pair,
        batch_size=3,
        inlier=torch.tensor([True, False, True]),
    )
    assert len(matches) == 3
    assert [len(matches.of_pair(i)) for i in range(3)] == [2, 0, 1]
    last = matches.of_pair(2)
    assert last.indices.tolist() == [[2, 2]]
    assert last.inlier.tolist() == [True]
    assert torch.equal(last.keypoints1, matches.keypoints1[2:])
    with pytest.raises(IndexError):
        matches.of_pair(3)


def test_matches_of_a_single_pair_are_themselves():
    matches = Matches(torch.zeros(0, 2).long(), torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))
    assert len(matches) == 0
    assert matches.of_pair(0) is matches


def test_matches_of_a_batch_need_their_pair():
    with pytest.raises(ShapeError, match="need `pair`"):
        Matches(torch.zeros(0, 2).long(), torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0), batch_size=2)


def test_shape_errors_can_be_caught_as_ours_and_as_value_errors():
    assert issubclass(ShapeError, SemanticMatcherError)
    assert issubclass(ShapeError, ValueError)
