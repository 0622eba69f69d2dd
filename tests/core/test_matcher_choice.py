"""LightGlue or nearest neighbours, chosen by name: what a matcher does with the choice, and which are refused."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError, WeightsNotFoundError
from semantic_matcher_core.extractors.alike import Alike
from semantic_matcher_core.extractors.disk import Disk
from semantic_matcher_core.extractors.sift import Sift
from semantic_matcher_core.extractors.superpoint import SuperPoint
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.loading import check_matcher, load_parts
from semantic_matcher_core.matching import MatcherConfig
from semantic_matcher_core.matching.learned import LightGlueMatcher
from semantic_matcher_core.offline.exports import Exports
from semantic_matcher_core.offline.options import RunOptions
from semantic_matcher_core.offline.pair_choice import PairChoice
from semantic_matcher_core.offline.run import run
from semantic_matcher_core.offline.sources import BagSource
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.compact_context import CompactContext
from semantic_matcher_core.types import Matches
from tests.conftest import make_textured_image
from tests.core.extractor_checks import randomize
from tests.core.recordings import DISPARITY, messages, view, write_rectified_bag
from tests.core.test_lightglue import random_matcher

LOOSE = {"filter_threshold": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of XFeat, SuperPoint and their LightGlues under the published file names."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(XFeat().net.state_dict(), folder / "xfeat.pt")
    superpoint = SuperPoint()
    randomize(superpoint, 1)
    torch.save(superpoint.net.state_dict(), folder / "superpoint_v1.pth")
    for name, file in (("xfeat", "xfeat-lighterglue.pt"), ("superpoint", "superpoint_lightglue.pth")):
        torch.save(random_matcher(name).net.state_dict(), folder / file)
    return folder


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray]:
    picture = make_textured_image(128, 160, 3)
    return picture, np.roll(picture, (3, 5), axis=(0, 1))


@pytest.fixture(scope="module")
def matcher(folder: Path) -> SemanticMatcher:
    matching = MatcherConfig(matcher="lightglue", **LOOSE)
    return SemanticMatcher.from_pretrained(
        "plain:superpoint", weights=folder, max_keypoints=200, device="cpu", matching=matching
    )


def assert_same(first: Matches, second: Matches) -> None:
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(first.confidence, second.confidence)


def test_by_name_and_by_configuration(folder, matcher, pictures):
    by_name = SemanticMatcher.from_pretrained(
        "plain:superpoint", weights=folder, max_keypoints=200, device="cpu", matcher="lightglue"
    )
    assert by_name.settings.matching == MatcherConfig(matcher="lightglue")
    loose = by_name.with_settings(matching=MatcherConfig(matcher="lightglue", **LOOSE))
    matches = matcher.match_images(*pictures)
    assert len(matches) > 0
    assert_same(loose.match_images(*pictures), matches)
    features = [matcher.extract(picture) for picture in pictures]
    assert_same(matcher.lightglue(*features, MatcherConfig(matcher="lightglue", **LOOSE)), matches)
    assert not matcher.lightglue.training


def test_from_parts_takes_lightglue_where_it_is_given(matcher, pictures):
    built = SemanticMatcher.from_parts(matcher.extractor, lightglue=matcher.lightglue, device="cpu", max_keypoints=200)
    assert built.settings.matching.matcher == "lightglue"
    # One without it on the same parts, and the same matcher with nearest neighbours, are plain matching.
    plain = SemanticMatcher.from_parts(matcher.extractor, device="cpu", max_keypoints=200)
    nearest = matcher.with_settings(matching=MatcherConfig())
    assert_same(plain.match_images(*pictures), nearest.match_images(*pictures))
    assert len(plain.match_images(*pictures)) != len(matcher.match_images(*pictures))


def test_settings_reach_it(matcher, pictures):
    everything = matcher.match_images(*pictures)
    half = everything.confidence.median().item()
    some = matcher.with_settings(matching=replace(matcher.matching, filter_threshold=half))
    assert (some.match_images(*pictures).confidence > half).all()
    band = matcher.with_settings(matching=replace(matcher.matching, band_px=4.0)).match_images(*pictures)
    assert len(band) > 0 and ((band.keypoints0 - band.keypoints1)[:, 1].abs() <= 4).all()
    pruned = matcher.with_settings(matching=replace(matcher.matching, width_confidence=0.5, depth_confidence=1.0))
    assert not torch.equal(pruned.match_images(*pictures).indices, everything.indices)


def test_copies_batches_and_training_mode_change_nothing(matcher, pictures):
    expected = matcher.match_images(*pictures)
    assert_same(pickle.loads(pickle.dumps(matcher, 2)).match_images(*pictures), expected)
    together = matcher.match_images(np.stack([pictures[0]] * 3), np.stack([pictures[1]] * 3))
    assert together.batch_size == 3
    for b in range(3):
        assert set(map(tuple, together.of_pair(b).indices.tolist())) == set(map(tuple, expected.indices.tolist()))
    matcher.train()
    try:
        assert_same(matcher.match_images(*pictures), expected)
    finally:
        matcher.eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(matcher.match_images(*pictures), expected)


def test_extractors_are_as_in_training(folder):
    parts, _ = load_parts("plain:superpoint", weights=folder, device="cpu", lightglue=True)
    assert isinstance(parts.extractor, SuperPoint) and parts.extractor.legacy_sampling
    parts, _ = load_parts("plain:superpoint", weights=folder, device="cpu")
    assert isinstance(parts.extractor, SuperPoint) and not parts.extractor.legacy_sampling


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("compact", r"variant 'compact' reasons about them; take dino 'none' .*aliked-n16.*matcher 'nearest'"),
        ("xfeat", r"variant 'xfeat' reasons about them"),
        ("/some/checkpoint", r"variant '/some/checkpoint' reasons"),
        ("plain:alike-n", r"not trained for extractor 'alike-n'; it was for superpoint, .*take matcher 'nearest'"),
        ("plain:alike", r"extractor 'alike-n'"),
        ("plain:edgepoint2-e64", r"extractor 'edgepoint2-e64'"),
        ("plain:aliked-t16", r"extractor 'aliked-t16'"),
        ("plain:compact", r"extractor 'compact'"),
    ],
)
def test_wrong_combinations_are_refused_by_name(variant, message):
    """Before any weights are looked for."""
    with pytest.raises(ConfigError, match=message):
        SemanticMatcher.from_pretrained(variant, matcher="lightglue", device="cpu")
    with pytest.raises(ConfigError, match=message):
        check_matcher(variant, "lightglue")
    check_matcher(variant, "nearest")


def test_parts_that_do_not_fit_are_refused(matcher):
    with pytest.raises(ConfigError, match="LightGlue is for extractor 'superpoint', not for 'disk'"):
        SemanticMatcher.from_parts(Disk(), lightglue=matcher.lightglue, device="cpu")
    config = ReasonerConfig(256, CompactContext.feature_dim, features_dim=32, n_attention_layers=1)
    with pytest.raises(ConfigError, match=r"not on reasoned ones; take a plain variant .*plain:superpoint.*'nearest'"):
        SemanticMatcher.from_parts(
            SuperPoint(), CompactContext(), Reasoner(config), lightglue=matcher.lightglue, device="cpu"
        )
    plain = SemanticMatcher.from_parts(Alike(), device="cpu")
    with pytest.raises(ConfigError, match="has no LightGlue: build it with matcher='lightglue'"):
        plain.with_settings(matching=MatcherConfig(matcher="lightglue"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matcher": "superglue"}, "unknown matcher 'superglue'; use one of nearest, lightglue"),
        ({"matcher": "lightglue", "ratio": 0.8}, "ratio is of matcher 'nearest', and has no use with 'lightglue'"),
        ({"matcher": "lightglue", "mutual": False}, "mutual is of matcher 'nearest'"),
        ({"matcher": "lightglue", "min_similarity": 0.5}, "min_similarity is of matcher 'nearest'"),
        ({"filter_threshold": 0.2}, "filter_threshold is of matcher 'lightglue'"),
        ({"depth_confidence": 0.9}, "depth_confidence is of matcher 'lightglue'"),
        ({"matcher": "lightglue", "filter_threshold": 1.0}, r"filter_threshold must be in \[0, 1\), got 1.0"),
        ({"matcher": "lightglue", "depth_confidence": 0}, r"depth_confidence must be in \(0, 1\], got 0"),
        ({"matcher": "lightglue", "width_confidence": float("nan")}, "width_confidence must be"),
    ],
)
def test_options_of_the_other_matcher_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        MatcherConfig(**options)


def test_missing_weights_are_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path))
    (tmp_path / "xfeat.pt").symlink_to(folder / "xfeat.pt")
    with pytest.raises(WeightsNotFoundError, match="weights fetch lighterglue-xfeat"):
        SemanticMatcher.from_pretrained("plain:xfeat", weights=tmp_path, matcher="lightglue", device="cpu")


def test_its_weights_are_the_models(matcher):
    names = set(matcher.state_dict())
    assert any(name.startswith("lightglue.net.transformers.0.") for name in names)
    assert isinstance(matcher.lightglue, LightGlueMatcher)


def test_recordings_are_matched_by_it_too(matcher, tmp_path, textured_image):
    bag = write_rectified_bag(tmp_path / "in.mcap", textured_image, count=2)
    source = BagSource(bag, ["/left/image_rect", "/right/image_rect"])
    listed = frozenset({("left/image_rect/000000.jpg", "left/image_rect/000001.jpg")})
    exports = Exports(matches=tmp_path / "m.h5", pairs=PairChoice("list", listed=listed))
    options = RunOptions(mode="stereo", rectified=True, epipolar_band=4.0, images="none")
    run(source, matcher, tmp_path / "out.mcap", options, exports=exports)
    first, second, right = (matcher.extract(view(textured_image, *place)) for place in ((0,), (1,), (0, DISPARITY)))
    banded = matcher.with_settings(matching=replace(matcher.matching, band_px=4.0)).match(first, right)
    pair = messages(tmp_path / "out.mcap", "/stereo_matcher/matches")[0]
    assert pair.index0.tolist() == banded.indices[:, 0].tolist() and len(banded) > 0
    np.testing.assert_allclose(pair.confidence, banded.confidence, atol=1e-6)
    with h5py.File(tmp_path / "m.h5") as file:
        matches0 = file["left-image_rect-000000.jpg/left-image_rect-000001.jpg/matches0"][:]
    expected = matcher.match(first, second)
    assert matches0[expected.indices[:, 0]].tolist() == expected.indices[:, 1].tolist()
    assert (matches0 >= 0).sum() == len(expected)


def test_what_recorded_features_lack_is_named_before_the_work(tmp_path, textured_image):
    sift = SemanticMatcher.from_parts(Sift(50), lightglue=random_matcher("sift"), device="cpu")
    source = BagSource(write_rectified_bag(tmp_path / "in.mcap", textured_image, count=2), ["/left/image_rect"])
    for pairs, refused in (("matched", False), ("exhaustive", True)):
        exports = Exports(matches=tmp_path / f"{pairs}.h5", pairs=PairChoice(pairs))
        with pytest.raises(ConfigError, match="needs scales and orientations") if refused else nullcontext():
            run(source, sift, tmp_path / f"{pairs}.mcap", RunOptions(images="none"), exports=exports)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mcap", "matched.h5", "matched.mcap"]
