"""A name that nothing has is answered with the nearest that exists, wherever names are looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from semantic_matcher_core import SemanticMatcher, create_extractor
from semantic_matcher_core.errors import ConfigError, UnknownNameError, unknown_name
from semantic_matcher_core.semantics.dinov2 import DinoV2
from semantic_matcher_core.variants.names import resolve_variant
from semantic_matcher_core.weights.catalogue import get_entry


@pytest.mark.parametrize(
    ("look_up", "near"),
    [
        (lambda: resolve_variant("xfeet"), "'xfeat'"),
        (lambda: resolve_variant("XFEAT "), "'xfeat'"),
        (lambda: resolve_variant("sift"), "'plain:sift'"),
        (lambda: resolve_variant("aliked-n16"), "'plain:aliked-n16'"),
        (lambda: resolve_variant("plian:xfeat"), "'plain:xfeat'"),
        (lambda: resolve_variant("PLAIN:XFeat"), "'plain:xfeat'"),
        (lambda: resolve_variant(descriptor="xfeat", dino="dinov2_vitz14"), "'dinov2_vit"),
        (lambda: SemanticMatcher.from_pretrained("plain:shift"), "'sift'"),
        (lambda: create_extractor("aliked-n61"), "'aliked-n16'"),
        (lambda: create_extractor("superpiont"), "'superpoint'"),
        (lambda: DinoV2("dinov2_vits41"), "'dinov2_vits14'"),
        (lambda: get_entry("compact-extrator"), "'compact-extractor'"),
    ],
)
def test_the_nearest_is_named(look_up: Callable[[], Any], near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"did you mean {near}.*; known: |did you mean {near}.*known: "):
        look_up()


def test_what_is_near_to_nothing_gets_the_list_alone() -> None:
    assert (
        str(unknown_name("kind", "qqqq", ["variant", "extractor"])) == "unknown kind 'qqqq'; known: variant, extractor"
    )


@pytest.mark.parametrize("name", [None, 3, b"sift"])
def test_what_is_no_name_at_all_is_refused_as_one(name: object) -> None:
    with pytest.raises(ConfigError, match=f"an extractor is called by its name, got {name!r}; see list_extractors"):
        create_extractor(name)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"a variant is a name or a path, got {name!r}; see list_variants"):
        SemanticMatcher.from_pretrained(name)  # type: ignore[arg-type]
