"""Which variant a user's words mean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import semantic_matcher_core as smc
from semantic_matcher_core.errors import UnknownNameError
from semantic_matcher_core.variants import resolve_variant
from semantic_matcher_core.variants.names import filter_variants
from tests.core.test_variants import NAMES


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({}, "plain:compact"),
        ({"variant": "", "descriptor": "", "dino": ""}, "plain:compact"),
        ({"descriptor": "compact"}, "plain:compact"),
        ({"descriptor": "Compact", "dino": ""}, "plain:compact"),
        ({"variant": "compact"}, "compact"),
        ({"descriptor": "compact", "dino": "compact_context"}, "compact"),
        ({"descriptor": "compact", "dino": "none"}, "plain:compact"),
        ({"descriptor": "xfeat"}, "xfeat"),
        ({"variant": "aliked", "descriptor": "xfeat", "dino": "none"}, "aliked"),
        ({"variant": "plain:disk"}, "plain:disk"),
        ({"variant": "/models/mine"}, "/models/mine"),
        ({"variant": "mine.zip"}, "mine.zip"),
        ({"descriptor": "aliked"}, "aliked"),
        ({"descriptor": "ALIKED"}, "aliked"),
        ({"descriptor": "aliked-n16", "dino": "dinov2_vits14"}, "aliked"),
        ({"descriptor": "alike"}, "alike"),
        ({"descriptor": "alike-n"}, "alike"),
        ({"descriptor": "superpoint"}, "superpoint"),
        ({"descriptor": "dedode"}, "dedode_B"),
        ({"descriptor": "dedode-G"}, "dedode_G"),
        ({"descriptor": "dedode_G"}, "dedode_G"),
        ({"dino": "dinov2_vitb14"}, "xfeat-dino_B"),
        ({"dino": "L"}, "xfeat-dino_L"),
        ({"descriptor": "xfeat", "dino": "vitg14"}, "xfeat-dino-G"),
        ({"descriptor": "xfeat", "dino": "none"}, "plain:xfeat"),
        ({"descriptor": "aliked", "dino": "none"}, "plain:aliked-n16"),
        ({"descriptor": "alike-t", "dino": "none"}, "plain:alike-t"),
        ({"descriptor": "sift", "dino": "None"}, "plain:sift"),
        ({"dino": "none"}, "plain:xfeat"),
    ],
)
def test_words_that_mean_a_variant(home: Path, choice: dict[str, str], name: str) -> None:
    assert resolve_variant(**choice) == name


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"variant": "xfeat-5_layers"},
            r"unknown variant 'xfeat-5_layers'; did you mean 'xfeat-9_layers'\? known: compact, xfeat, superpoint",
        ),
        ({"variant": "plain:"}, "unknown variant"),
        (
            {"descriptor": "aliked", "dino": "dinov2_vitb14"},
            r"'aliked' with 'dinov2_vitb14'.*: aliked \(dinov2_vits14\)",
        ),
        ({"descriptor": "sift"}, r"'sift'; there are variants of: compact, xfeat, superpoint.*plain:sift"),
        (
            {"descriptor": "xfeat", "dino": "dinov3_vits16"},
            r"no published variant has a reasoner for 'dinov3_vits16'; there are some for: .*dinov2_vitg14, .*; train",
        ),
        ({"dino": "vitb14_reg"}, r"a reasoner for 'dinov2_vitb14_reg'"),
        ({"dino": "clip"}, r"unknown dino 'clip'; known: .*dinov2_vits14.*none"),
    ],
)
def test_words_that_mean_none_name_those_that_exist(home: Path, choice: dict[str, str], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        resolve_variant(**choice)


def test_every_variant_is_reached_by_its_name(home: Path) -> None:
    assert [resolve_variant(variant=name) for name in NAMES] == NAMES


def test_variants_say_what_they_are(home: Path) -> None:
    variants = {variant.name: variant for variant in smc.list_variants()}
    assert [name for name, variant in variants.items() if variant.available] == ["compact"]
    giant = variants["xfeat-12_layers-dino_G"]
    assert (giant.descriptor, giant.dino, giant.layers, giant.size_mb) == ("xfeat", "dinov2_vitg14", 12, 221)
    assert "LicenseRef-MagicLeap-SuperPoint" in variants["superpoint"].licence
    assert variants["superpoint"].licence != variants["xfeat"].licence


def test_variants_filter_by_the_same_words(home: Path) -> None:
    assert [v.name for v in filter_variants("xfeat", "g")] == ["xfeat-12_layers-dino_G", "xfeat-dino-G"]
    assert [v.name for v in filter_variants("aliked")] == ["aliked"]
    assert [v.name for v in filter_variants()] == ["compact", *NAMES]
    with pytest.raises(UnknownNameError, match="aliked"):
        filter_variants("aliked", "B")


def test_choosing_imports_no_torch() -> None:
    code = (
        "import sys; from semantic_matcher_core.variants import list_variants, resolve_variant; "
        "list_variants(); resolve_variant(descriptor='aliked'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
