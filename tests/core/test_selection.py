"""Keypoint selection against loops, max-pooling and kornia."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kornia.geometry.subpix import nms2d
from torch.nn import functional as F

from semantic_matcher_core.extractors import selection
from semantic_matcher_core.extractors.selection import (
    best_candidates,
    iterative_maxima,
    local_maxima,
    mask_at_size,
    select_keypoints,
    textured,
    window_maximum,
    zero_padding,
)
from tests.core.extractor_checks import needs_kornias_choice


@pytest.fixture(params=["gathered", "everything"])
def ranking(request, monkeypatch):
    """Both ways of ranking: that of the CPU, and that of devices where gathering would synchronise."""
    if request.param == "everything":
        monkeypatch.setattr(selection, "_gathered", selection._everything)
    return request.param


def random_map(*shape: int, seed: int = 0, levels: int | None = None) -> torch.Tensor:
    """Uniform scores; with few levels, full of plateaus and ties."""
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return scores if levels is None else (scores * levels).floor() / levels


def looped_selection(score_map, count, radius, threshold, border, mask=None):
    """One map at a time, one pixel at a time."""
    scores = score_map.numpy()
    height, width = scores.shape
    found = []
    for y in range(height):
        for x in range(width):
            value = scores[y, x]
            if value <= threshold or (mask is not None and not mask[y, x]):
                continue
            if border == "valid" and radius and not (radius <= y < height - radius and radius <= x < width - radius):
                continue
            top, left = max(0, y - radius), max(0, x - radius)
            window = scores[top : y + radius + 1, left : x + radius + 1]
            others = np.delete(window.ravel(), (y - top) * window.shape[1] + (x - left))
            if others.size and (others.max() > value or (border == "valid" and others.max() == value)):
                continue
            found.append((-value, y, x))
    found.sort()
    return [(x, y) for _, y, x in found[:count]], [-v for v, _, _ in found[:count]]


@pytest.mark.parametrize("border", ["clipped", "valid"])
@pytest.mark.parametrize("radius", [0, 1, 2, 4])
@pytest.mark.parametrize(("height", "width"), [(17, 23), (1, 9), (9, 1), (3, 3), (1, 1)])
@pytest.mark.parametrize("levels", [None, 4])
def test_equals_a_loop(ranking, border, radius, height, width, levels):
    maps = random_map(3, height, width, seed=height * width, levels=levels)
    picked = select_keypoints(maps, 12, nms_radius=radius, threshold=0.3, border=border)
    for b in range(3):
        keypoints, scores = looped_selection(maps[b], 12, radius, 0.3, border)
        count = len(keypoints)
        valid = torch.arange(picked.keypoints.shape[1]) < count
        assert picked.valid is None or torch.equal(picked.valid[b], valid)
        assert [tuple(k) for k in picked.keypoints[b, :count].tolist()] == keypoints
        assert picked.scores[b, :count].tolist() == pytest.approx(scores, abs=0)
        assert picked.keypoints[b, count:].eq(0).all()
        assert picked.scores[b, count:].eq(0).all()


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize("shape", [(2, 31, 40), (1, 5, 64), (1, 1, 1)])
def test_window_maximum_equals_max_pooling(radius, shape):
    maps = random_map(*shape)
    # torch refuses padding beyond half the kernel, so the map is padded by hand.
    pooled = F.max_pool2d(F.pad(maps[:, None], [radius] * 4, value=-torch.inf), 2 * radius + 1, 1)[:, 0]
    assert torch.equal(window_maximum(maps, radius), pooled)


@pytest.mark.parametrize("radius", [1, pytest.param(2, marks=needs_kornias_choice)])
@pytest.mark.parametrize("levels", [None, 5])
def test_valid_border_equals_kornia(radius, levels):
    maps = random_map(2, 33, 47, levels=levels)
    size = 2 * radius + 1
    expected = nms2d(maps[:, None], (size, size), mask_only=True)[:, 0]
    assert expected.any()
    assert torch.equal(local_maxima(maps, radius, "valid"), expected.bool())


def test_clipped_border_keeps_what_valid_keeps_and_adds_border_and_plateaus():
    maps = random_map(1, 60, 80, levels=50)
    clipped, valid = local_maxima(maps, 2, "clipped"), local_maxima(maps, 2, "valid")
    assert (valid & ~clipped).sum() == 0
    inner = torch.zeros_like(clipped)
    inner[:, 2:-2, 2:-2] = True
    extra = clipped & ~valid
    assert (extra & ~inner).any()
    for _, y, x in (extra & inner).nonzero().tolist():  # inside, only ties are left out
        window = maps[0, y - 2 : y + 3, x - 2 : x + 3]
        assert (window == window.max()).sum() > 1


@pytest.mark.parametrize("radius", [1, 3, 4])
@pytest.mark.parametrize("levels", [None, 6])
def test_iterative_maxima_equal_their_definition_by_pooling(radius, levels):
    maps = random_map(2, 41, 53, levels=levels)

    def pool(x):
        return F.max_pool2d(x[:, None], 2 * radius + 1, 1, radius)[:, 0]

    found = maps == pool(maps)
    for _ in range(2):
        near = pool(found.float()) > 0
        left = torch.where(near, torch.zeros_like(maps), maps)
        found = found | ((left == pool(left)) & ~near)
    assert torch.equal(iterative_maxima(maps, radius), found)
    assert found.sum() > local_maxima(maps, radius).sum()
    assert torch.equal(iterative_maxima(maps, radius, 0), local_maxima(maps, radius))
    assert iterative_maxima(maps, 0).all()


def test_ties_come_in_row_major_order(ranking):
    maps = torch.full((2, 6, 7), 0.5)
    picked = select_keypoints(maps, 10, nms_radius=0)
    assert picked.valid is None
    assert picked.keypoints[0].tolist() == picked.keypoints[1].tolist() == [[i % 7, i // 7] for i in range(10)]


def test_scores_of_either_sign_and_zeros_are_ranked_by_value(ranking):
    values = [-3.0, 2.0, -0.0, 1e-40, 0.0, -1e-40, 2.0, -1e30, 1e30]
    picked = select_keypoints(torch.tensor(values)[None, None], 9, nms_radius=0, threshold=-torch.inf)
    assert picked.keypoints[0, :, 0].tolist() == [8, 1, 6, 3, 2, 4, 5, 0, 7]  # -0.0 ties with 0.0


def test_both_rankings_agree_on_a_large_ragged_batch(monkeypatch):
    maps = random_map(3, 120, 160, levels=200)
    maps[1] *= 0.6
    arguments = {"nms_radius": 2, "threshold": 0.59, "masks": random_map(3, 120, 160, seed=1) > 0.2}
    picked = select_keypoints(maps, 400, **arguments)
    assert picked.valid is not None
    monkeypatch.setattr(selection, "_gathered", selection._everything)
    again = select_keypoints(maps, 400, **arguments)
    for a, b in zip(picked, again, strict=True):
        assert torch.equal(a, b)


def test_a_batch_equals_its_images(ranking):
    maps = random_map(4, 40, 50)
    maps[2] = 0
    maps[3] *= 0.7
    batch = select_keypoints(maps, 60, nms_radius=2, threshold=0.69)
    for b in range(4):
        single = select_keypoints(maps[b : b + 1], 60, nms_radius=2, threshold=0.69)
        count = int(batch.valid[b].sum())
        assert single.keypoints.shape[1] == count
        assert torch.equal(batch.keypoints[b : b + 1, :count], single.keypoints)
        assert torch.equal(batch.scores[b : b + 1, :count], single.scores)
    assert batch.valid[2].sum() == 0


def test_no_candidate_gives_no_rows(ranking):
    picked = select_keypoints(torch.zeros(2, 8, 8), 5, threshold=0.0)
    assert picked.keypoints.shape == (2, 0, 2)
    assert picked.scores.shape == (2, 0)
    assert picked.valid is None


def test_exactly_one_candidate(ranking):
    maps = torch.zeros(1, 8, 9)
    maps[0, 3, 5] = 1
    picked = select_keypoints(maps, 5)
    assert picked.keypoints.tolist() == [[[5, 3]]]
    assert picked.valid is None


def test_threshold_is_exclusive(ranking):
    maps = torch.tensor([[[0.25, 0.5, 0.75]]])
    assert select_keypoints(maps, 3, nms_radius=0, threshold=0.5).keypoints.tolist() == [[[2, 0]]]


def test_nan_is_never_a_keypoint(ranking):
    maps = random_map(1, 20, 20)
    maps[0, 10, 10] = torch.nan
    picked = select_keypoints(maps, 400, nms_radius=0)
    assert [10, 10] not in picked.keypoints[0].tolist()
    assert picked.keypoints.shape[1] == 399


@pytest.mark.parametrize("fixed", [3, 500])
def test_fixed_size_always_gives_that_many_rows(ranking, fixed):
    maps = random_map(2, 10, 12)
    maps[1] = 0
    maps[1, 4, 4] = 1
    free = select_keypoints(maps, fixed)
    padded = select_keypoints(maps, fixed, fixed_size=True)
    assert padded.keypoints.shape == (2, fixed, 2)
    assert padded.valid.shape == padded.scores.shape == (2, fixed)
    assert padded.valid[1].tolist() == [True] + [False] * (fixed - 1)
    width = free.keypoints.shape[1]
    assert torch.equal(padded.keypoints[:, :width], free.keypoints)
    assert torch.equal(padded.scores[:, :width], free.scores)
    assert padded.keypoints[~padded.valid].eq(0).all()
    assert padded.scores[~padded.valid].eq(0).all()


def test_fixed_size_needs_no_values_off_the_cpu():
    """On the meta device there are no values: any synchronisation with the host would raise."""
    maps = torch.empty(2, 48, 64, device="meta")
    masks = torch.empty(2, 48, 64, dtype=torch.bool, device="meta")
    for border in ("clipped", "valid"):
        picked = select_keypoints(maps, 100, border=border, masks=masks, margin=4, fixed_size=True)
        assert picked.keypoints.shape == (2, 100, 2)
        assert picked.valid.shape == (2, 100)


def test_mask_removes_keypoints_and_makes_none(ranking):
    maps = random_map(2, 40, 50)
    masks = random_map(2, 40, 50, seed=3) > 0.5
    free = select_keypoints(maps, 5000)
    masked = select_keypoints(maps, 5000, masks=masks)
    for b in range(2):
        kept = [k for k in free.keypoints[b, : int(free.scores[b].gt(0).sum())].tolist() if masks[b, k[1], k[0]]]
        assert masked.keypoints[b, : len(kept)].tolist() == kept
        assert masked.scores[b].gt(0).sum() == len(kept)


def test_mask_frees_places_for_the_next_best(ranking):
    maps = random_map(1, 40, 50)
    masks = torch.ones(1, 40, 50, dtype=torch.bool)
    best = select_keypoints(maps, 1).keypoints[0, 0].tolist()
    masks[0, best[1], best[0]] = False
    assert select_keypoints(maps, 7, masks=masks).keypoints.tolist() == [
        select_keypoints(maps, 8).keypoints[0, 1:].tolist()
    ]


@pytest.mark.parametrize("margin", [0, 1, 5, 30])
def test_margin(ranking, margin):
    picked = select_keypoints(random_map(1, 40, 50), 5000, nms_radius=0, margin=margin, threshold=-1)
    assert picked.keypoints.shape[1] == max(0, 40 - 2 * margin) * max(0, 50 - 2 * margin)
    if margin < 20:
        x, y = picked.keypoints[0].unbind(-1)
        assert (x.min(), x.max(), y.min(), y.max()) == (margin, 49 - margin, margin, 39 - margin)


def test_rescore_ranks_and_reports(ranking):
    maps = random_map(2, 20, 30)
    other = random_map(2, 20, 30, seed=7)
    other[0, :, 10:20] = torch.nan
    other[1, :, :5] = -torch.inf

    def rescore(keypoints):
        assert keypoints.dtype == torch.int64
        return other.flatten(1).gather(1, keypoints[..., 1] * 30 + keypoints[..., 0])

    picked = select_keypoints(maps, 25, nms_radius=1, rescore=rescore)
    for b in range(2):
        keypoints, _ = looped_selection(maps[b], 10**6, 1, 0.0, "clipped")
        scored = sorted((-float(other[b, y, x]), y, x) for x, y in keypoints if torch.isfinite(other[b, y, x]))
        assert picked.keypoints[b].tolist() == [[x, y] for _, y, x in scored[:25]]
        assert picked.scores[b].tolist() == [-s for s, _, _ in scored[:25]]


def test_half_precision_maps_are_ranked_in_float32(ranking):
    maps = random_map(1, 20, 20)
    half = select_keypoints(maps.bfloat16(), 10)
    assert half.scores.dtype == torch.float32
    assert torch.equal(half.keypoints, select_keypoints(maps.bfloat16().float(), 10).keypoints)


def test_a_view_equals_its_copy(ranking):
    maps = random_map(2, 30, 40).transpose(1, 2)
    assert not maps.is_contiguous()
    for a, b in zip(select_keypoints(maps, 50), select_keypoints(maps.contiguous(), 50), strict=True):
        assert a is b or torch.equal(a, b)


def test_inputs_are_not_changed(ranking):
    maps, candidates = random_map(1, 20, 20), random_map(1, 20, 20, seed=1) > 0.5
    before = maps.clone(), candidates.clone()
    best_candidates(maps, candidates, 5, margin=2, masks=~candidates)
    best_candidates(maps, candidates, 5)
    assert torch.equal(maps, before[0])
    assert torch.equal(candidates, before[1])


@pytest.mark.parametrize(
    ("given", "seen"), [((9, 13), (32, 32)), ((100, 70), (64, 64)), ((32, 64), (32, 64)), ((1, 1), (32, 32))]
)
def test_mask_at_another_size_reads_the_nearest_pixel(given, seen):
    masks = random_map(2, *given) > 0.5
    resized = mask_at_size(masks, *seen)
    for y in range(0, seen[0], 5):
        for x in range(0, seen[1], 3):
            there = [
                min(max(round((k + 0.5) * g / s - 0.5), 0), g - 1) for k, g, s in zip((y, x), given, seen, strict=True)
            ]
            assert torch.equal(resized[:, y, x], masks[:, there[0], there[1]])


def test_zero_padding():
    rows = torch.ones(2, 3, 4)
    valid = torch.tensor([[True, True, False], [False, False, False]])
    assert zero_padding(rows, valid).sum(dim=(1, 2)).tolist() == [8, 0]
    assert zero_padding(rows[..., 0], valid).tolist() == [[1, 1, 0], [0, 0, 0]]
    assert zero_padding(rows, None) is rows


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (1, 1), (5, 40)])
def test_where_an_image_shows_nothing(size):
    height, width = size
    images = torch.full((3, 3, height, width), 0.4)
    images[1, 2, height // 2, width // 2] += 1 / 255
    images[2] += torch.rand(3, height, width) * 0.5
    seen = textured(images)
    assert seen.shape == (3, height, width)
    assert not seen[0].any()
    if size == (1, 1):
        return
    assert seen[1, height // 2, width // 2]
    # What shows something everywhere is told from fewer pixels; among others all are looked at.
    assert torch.equal(textured(images[2:]), seen[2:])
    rows, columns = seen[1].nonzero().unbind(1)
    assert (rows - height // 2).abs().max() < 16
    assert (columns - width // 2).abs().max() < 16
    assert seen[2].all()
