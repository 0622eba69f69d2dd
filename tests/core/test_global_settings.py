"""What a caller has set for the whole of torch changes no result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch

from semantic_matcher_core import Matches, SemanticMatcher
from semantic_matcher_core.extractors import Extractor
from semantic_matcher_core.extractors.alike import Alike
from semantic_matcher_core.extractors.aliked import Aliked
from semantic_matcher_core.extractors.compact import Compact
from semantic_matcher_core.extractors.dalf import Dalf
from semantic_matcher_core.extractors.disk import Disk
from semantic_matcher_core.extractors.sift import Sift
from semantic_matcher_core.extractors.superpoint import SuperPoint
from semantic_matcher_core.extractors.xfeat import XFeat
from semantic_matcher_core.matching import MatcherConfig
from semantic_matcher_core.reasoning import Reasoner, ReasonerConfig
from semantic_matcher_core.semantics.compact_context import CompactContext
from tests.conftest import make_textured_image


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def autograd() -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad():
        yield


SETTINGS = [
    pytest.param(default_dtype, id="default-dtype"),
    pytest.param(lambda: torch.device("meta"), id="default-device"),  # made there, a tensor has no values to work with
    pytest.param(lambda: torch.autocast("cpu", torch.bfloat16), id="autocast"),
    pytest.param(torch.inference_mode, id="inference"),
    pytest.param(autograd, id="autograd"),
]


def reasoning(precision: str) -> SemanticMatcher:
    torch.manual_seed(0)
    config = ReasonerConfig(128, CompactContext.feature_dim, features_dim=64, n_attention_layers=2)
    parts = Compact(400), CompactContext(), Reasoner(config)
    return SemanticMatcher.from_parts(*parts, device="cpu", semantic_size=224, precision=precision)


def plain(make: Callable[[], Extractor]) -> Callable[[], SemanticMatcher]:
    return lambda: SemanticMatcher.from_parts(make(), device="cpu")


def guided() -> SemanticMatcher:
    matcher = SemanticMatcher.from_pretrained("plain:compact", device="cpu", max_keypoints=300)
    return matcher.with_settings(matching=MatcherConfig(guided="always", ratio=0.95))


def matched(matcher: SemanticMatcher) -> Matches:
    image = make_textured_image(96, 128, 3)
    return matcher.match_images(image, np.roll(image, 7, axis=1))


@functools.cache
def built(make: Callable[[], SemanticMatcher]) -> tuple[SemanticMatcher, Matches]:
    """A matcher, and what it finds while nothing is set."""
    torch.manual_seed(0)
    matcher = make()
    return matcher, matched(matcher)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: reasoning("fp32"), id="reasoner"),
        pytest.param(lambda: reasoning("bf16"), id="reasoner-bf16"),
        pytest.param(plain(lambda: XFeat(100, detection_threshold=0.0)), id="xfeat"),
        pytest.param(plain(lambda: Alike(100, model="alike-t")), id="alike-t"),
        pytest.param(plain(lambda: Aliked(100, model="aliked-t16")), id="aliked-t16"),
        pytest.param(plain(lambda: SuperPoint(100, detection_threshold=0.0)), id="superpoint"),
        pytest.param(plain(lambda: Disk(100)), id="disk"),
        pytest.param(plain(lambda: Dalf(100, threshold=0.0)), id="dalf"),
        pytest.param(plain(lambda: Sift(100)), id="sift"),
        pytest.param(guided, id="guided"),
    ],
)
def test_settings_change_nothing(
    make: Callable[[], SemanticMatcher], setting: Callable[[], AbstractContextManager[object]]
) -> None:
    matcher, expected = built(make)
    assert len(expected)
    with setting():
        found = matched(matcher)
    for name in ("indices", "keypoints0", "keypoints1", "confidence"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    again = matched(matcher)
    assert torch.equal(again.indices, expected.indices)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("variant", ["plain:compact", "compact"])
def test_a_default_type_rounds_no_weights(variant: str, dtype: torch.dtype) -> None:
    image = make_textured_image(96, 128, 3)
    expected = SemanticMatcher.from_pretrained(variant, device="cpu").match_images(image, image[:, ::-1])
    torch.set_default_dtype(dtype)
    try:
        matcher = SemanticMatcher.from_pretrained(variant, device="cpu").to("cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    found = matcher.match_images(image, image[:, ::-1])
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(found.confidence, expected.confidence, rtol=1e-5, atol=1e-5)
