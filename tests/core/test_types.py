"""Features and Matches: shapes, padding, stacking."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import semantic_matcher_core as smc
from semantic_matcher_core.errors import SemanticMatcherError, ShapeError
from semantic_matcher_core.io.images import read_image
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
    assert {t.device.type for t in features.tensors().values()} == {"meta"}
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


def make_matches(count: int = 5, **fields) -> Matches:
    rows = torch.arange(count)
    points = torch.rand(count, 2, generator=torch.Generator().manual_seed(1)) * 40
    return Matches(torch.stack([rows, rows], 1), points, points + 1, torch.linspace(0.1, 0.9, count), **fields)


@pytest.mark.parametrize(
    ("keep", "rows"),
    [
        (torch.tensor([True, False, True, False, False]), [0, 2]),
        (np.array([True, False, True, False, False]), [0, 2]),
        ([True, False, True, False, False], [0, 2]),
        (torch.tensor([4, 0]), [4, 0]),
        (np.array([-1, 1], np.int32), [4, 1]),
        (np.argsort([5, 4, 3, 2, 1])[::-1], [0, 1, 2, 3, 4]),
        (np.array([1, 2], ">i4"), [1, 2]),
        ([], []),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -2), [4, 2, 0]),
        (2, [2]),
        (np.int64(-1), [4]),
    ],
)
def test_some_of_the_matches(keep, rows):
    matches = make_matches(
        inlier=torch.tensor([True, True, False, True, False]), model=torch.eye(3).double(), model_type="homography"
    )
    some = matches[keep]
    assert some.indices[:, 0].tolist() == rows and len(some) == len(rows)
    for name in ("keypoints0", "keypoints1", "confidence", "inlier"):
        assert torch.equal(getattr(some, name), getattr(matches, name)[rows])
    assert some.model is matches.model and some.model_type == "homography"


def test_some_of_the_matches_of_several_pairs():
    matches = make_matches(5, pair=torch.tensor([0, 0, 1, 1, 1]), batch_size=2)
    some = matches[matches.confidence > 0.4]
    assert some.batch_size == 2 and some.pair.tolist() == [1, 1, 1] and len(some.of_pair(0)) == 0
    assert [len(one) for one in matches] == [1] * 5


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (torch.ones(4, dtype=torch.bool), IndexError, "a mask of 4 for 5 matches"),
        (torch.ones(0, dtype=torch.bool), IndexError, "a mask of 0 for 5 matches"),
        ([5], IndexError, "of 5 matches"),
        (-6, IndexError, "of 5 matches"),
        (None, TypeError, "no geometric check ran"),
        ("inlier", TypeError, "got str"),
        (torch.ones(5), TypeError, "bool or integers"),
        (torch.ones(5, 2).bool(), TypeError, "one row"),
        (True, TypeError, "got bool"),
    ],
)
def test_what_chooses_no_matches(keep, error, message):
    with pytest.raises(error, match=message):
        make_matches()[keep]


def test_features_and_matches_tell_what_they_are():
    assert repr(make_features(5)) == "Features(1 image of 64 x 48 pixels, 5 keypoints, descriptors of 8, on cpu)"
    batch = Features.stack([make_features(n, reasoned=torch.zeros(1, n, 4)) for n in (3, 1)])
    assert repr(batch) == (
        "Features(2 images of 64 x 48 pixels, 1 to 3 keypoints each, descriptors of 8, reasoned of 4, on cpu)"
    )
    assert repr(make_matches(0)) == "Matches(0 matches, on cpu)"
    assert repr(make_matches(1)) == "Matches(1 match, confidence 0.10 to 0.10, on cpu)"
    checked = make_matches(4, inlier=torch.tensor([True, True, True, False]), model_type="essential")
    assert (
        repr(checked) == "Matches(4 matches, 3 inliers (75%) of an essential matrix, confidence 0.10 to 0.90, on cpu)"
    )
    pairs = make_matches(5, pair=torch.tensor([0, 0, 1, 1, 1]), batch_size=2)
    assert repr(pairs) == "Matches(5 matches of 2 pairs, confidence 0.10 to 0.90, on cpu)"


def test_sizes_either_way_round():
    features = make_features(1, size=(48, 64))
    assert features.image_size == (48, 64) and features.size_wh == (64, 48)


def test_matches_plot(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    matches = make_matches(inlier=torch.tensor([True, True, False, True, False]))
    picture = matches.plot(image, torch.from_numpy(image).permute(2, 0, 1), path=tmp_path / "plot.png", height=96)
    assert np.array_equal(read_image(tmp_path / "plot.png"), picture)
    assert picture._repr_png_().startswith(b"\x89PNG") and picture[0]._repr_png_() is None
    assert matches.plot().shape[0] > 480  # without images: empty panels
    assert make_matches(0).plot().shape[-1] == 3
    with pytest.raises(ShapeError, match="of_pair"):
        make_matches(2, pair=torch.tensor([0, 1]), batch_size=2).plot(image, image)


def test_the_public_names():
    for name in smc.__all__:
        assert callable(getattr(smc, name)), name
    with pytest.raises(AttributeError, match="did you mean 'draw_matches'"):
        smc.draw_match  # noqa: B018
