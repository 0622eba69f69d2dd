"""Every published variant, end to end: fetched, verified, unpacked, loaded, matched, found offline afterwards."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from semantic_matcher_core import SemanticMatcher
from semantic_matcher_core.errors import ConfigError, LicenseNotAcceptedError, UnknownNameError, WeightsNotFoundError
from semantic_matcher_core.variants import licence_notes, list_variants, resolve_variant
from semantic_matcher_core.weights import fetch_weights, get_entry
from semantic_matcher_core.weights.fetch import with_requirements
from tests.core.tiny_parts import Published
from tests.core.weights_server import left_over, sha256, write_catalogue

NAMES = [
    "xfeat",
    "superpoint",
    "alike",
    "aliked",
    "dedode_B",
    "dedode_G",
    "xfeat-3_layers",
    "xfeat-7_layers",
    "xfeat-9_layers",
    "xfeat-12_layers",
    "xfeat-12_layers-dino_G",
    "xfeat-dino_B",
    "xfeat-dino_L",
    "xfeat-dino-G",
]


@pytest.fixture
def images(textured: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Two views that overlap, the second moved by whole cells of the stand-ins' grid."""
    scene = textured(120, 160)
    return scene[:96, :128], scene[8:104, 16:144]


@pytest.mark.parametrize("name", NAMES)
def test_every_published_variant_end_to_end(
    name: str, home: Path, published: Published, images: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = get_entry(name)
    command = f"semantic-matcher weights fetch {name}"
    with pytest.raises(WeightsNotFoundError, match=rf"{command}[ ;].*plain:{entry.descriptor}"):
        SemanticMatcher.from_pretrained(name, device="cpu")
    assert published.server.requests == []
    if name == "superpoint":
        with pytest.raises(LicenseNotAcceptedError, match="--accept-license"):
            SemanticMatcher.from_pretrained(name, device="cpu", fetch=True)
        fetch_weights("superpoint-extractor", accept_license=True)

    # Fetched, verified, unpacked, loaded.
    matcher = SemanticMatcher.from_pretrained(name, device="cpu", fetch=True)
    assert left_over(home) == sorted(
        [f"weights/{get_entry(r).file}" for r in entry.requires]
        + [f"weights/{name}/{f}" for f in ("checkpoint_2_1024000.pt", "model_config.yaml", "provenance.json")]
    )
    archive = published.server.files[f"/{name}.zip"].content
    assert json.loads((home / "trust.json").read_text())[name]["sha256"] == sha256(archive)
    assert len((home / "weights" / name / "checkpoint_2_1024000.pt").read_bytes()) < len(archive)

    # The whole model is as the checkpoint's own configuration says.
    assert matcher.reasoner is not None
    assert matcher.semantic_encoder is not None
    assert matcher.reasoner.config == published.reasoners[name].config
    assert matcher.reasoner.config.n_attention_layers == entry.layers
    assert (matcher.extractor.name, matcher.semantic_encoder.name) == (entry.descriptor, entry.dino)
    assert matcher.extractor.max_keypoints == 48
    assert matcher.extractor.detection_threshold == 0.25
    assert (matcher.registration, matcher.variant) == ("published", name)
    assert not matcher.training
    assert not any(p.requires_grad for p in matcher.parameters())

    # Matched, as the same parts put together by hand do.
    direct = published.direct(name)
    for image in images:
        torch.testing.assert_close(matcher.extract(image).reasoned, direct.extract(image).reasoned, atol=1e-6, rtol=0)
    matches, expected = matcher.match_images(*images), direct.match_images(*images)
    assert len(matches) >= 3  # of random networks; what counts is that they are the same ones
    assert torch.equal(matches.indices, expected.indices)
    torch.testing.assert_close(matches.confidence, expected.confidence, atol=1e-6, rtol=0)

    # Found offline afterwards.
    published.server.stop()
    monkeypatch.setenv("SEMANTIC_MATCHER_OFFLINE", "1")
    requests = len(published.server.requests)
    again = SemanticMatcher.from_pretrained(name, device="cpu", fetch=True)
    assert torch.equal(again.match_images(*images).indices, matches.indices)
    assert len(published.server.requests) == requests == len(entry.requires) + 1
    assert {v.name for v in list_variants() if v.available} >= {name}


def test_the_names_are_all_published_ones() -> None:
    assert [variant.name for variant in list_variants()] == ["compact", *NAMES]


def test_a_running_model_says_what_its_licences_forbid(home: Path, published: Published) -> None:
    fetch_weights("superpoint-extractor", accept_license=True)
    notes = licence_notes(SemanticMatcher.from_pretrained("superpoint", device="cpu", fetch=True))
    assert [note.split("'")[1] for note in notes] == ["superpoint", "superpoint-extractor"]
    assert "non-commercial research use only" in notes[1]
    assert licence_notes(SemanticMatcher.from_pretrained("plain:superpoint", device="cpu")) == notes[1:]
    assert licence_notes(SemanticMatcher.from_pretrained("plain:xfeat", device="cpu", fetch=True)) == []
    assert licence_notes(SemanticMatcher.from_pretrained("plain:sift", device="cpu")) == []


def test_a_missing_part_is_named_with_both_ways_out(home: Path, published: Published) -> None:
    fetch_weights("xfeat")
    with pytest.raises(WeightsNotFoundError, match=r"xfeat-extractor.*weights fetch xfeat;.*plain:xfeat"):
        SemanticMatcher.from_pretrained("xfeat", device="cpu")
    fetch_weights("xfeat-extractor")
    with pytest.raises(WeightsNotFoundError, match=r"'dinov2_vits14'.*weights fetch xfeat;.*plain:xfeat"):
        SemanticMatcher.from_pretrained("xfeat", device="cpu")
    assert not {v.name: v.available for v in list_variants()}["xfeat"]
    fetch_weights("dinov2_vits14")
    assert {v.name: v.available for v in list_variants()}["xfeat"]
    assert SemanticMatcher.from_pretrained("xfeat", device="cpu").variant == "xfeat"


def test_a_folder_of_downloads_works_without_the_cache(
    home: Path, published: Published, tmp_path: Path, images: tuple[np.ndarray, np.ndarray]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in with_requirements(["aliked"]):
        file = get_entry(name).file
        (folder / file).write_bytes(published.server.files[f"/{file}"].content)
    matcher = SemanticMatcher.from_pretrained("aliked", device="cpu", weights=folder)
    expected = SemanticMatcher.from_pretrained("aliked", device="cpu", fetch=True)
    assert torch.equal(matcher.match_images(*images).indices, expected.match_images(*images).indices)
    assert {v.name for v in list_variants(folder) if v.available} == {"compact", "aliked"}


@pytest.mark.parametrize("how", ["folder", "Path", "zip", "weights file"])
def test_a_checkpoint_by_path(
    home: Path, published: Published, tmp_path: Path, images: tuple[np.ndarray, np.ndarray], how: str
) -> None:
    expected = SemanticMatcher.from_pretrained("xfeat-3_layers", device="cpu", fetch=True)
    archive = tmp_path / "my.model.zip"
    archive.write_bytes(published.server.files["/xfeat-3_layers.zip"].content)
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "mine")
    # Unpacked so, all files are of the same age: the highest number in the name is newest.
    (tmp_path / "mine" / "xfeat-3_layers" / "checkpoint_9_9.pt").unlink()
    if how == "weights file":
        (home / "weights" / "xfeat-3_layers").rename(tmp_path / "away")
        matcher = SemanticMatcher.from_pretrained("xfeat-3_layers", device="cpu", weights=archive)
    else:
        folder = tmp_path / "mine" / "xfeat-3_layers"
        path = {"folder": str(folder), "Path": folder, "zip": str(archive)}[how]
        matcher = SemanticMatcher.from_pretrained(path, device="cpu")
        assert matcher.variant == str(path)
    assert torch.equal(matcher.match_images(*images).indices, expected.match_images(*images).indices)


def test_a_variant_of_ones_own_by_name(
    home: Path, published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive = published.server.files["/xfeat-dino_B.zip"].content
    published.entries["warehouse"] = {
        "kind": "variant",
        "url": published.server.serve("warehouse.zip", archive),
        "file": "warehouse.zip",
        "licence": "Apache-2.0",
        "descriptor": "xfeat",
        "dino": "dinov2_vitb14",
        "layers": 7,
        "requires": ["xfeat-extractor", "dinov2_vitb14"],
    }
    write_catalogue(monkeypatch, tmp_path, published.entries)
    matcher = SemanticMatcher.from_pretrained("warehouse", device="cpu", fetch=True)
    assert matcher.variant == "warehouse"
    assert {v.name for v in list_variants() if v.available} == {"compact", "warehouse"}
    assert resolve_variant(descriptor="warehouse", dino="B") == "warehouse"
    assert resolve_variant(descriptor="xfeat", dino="B") == "xfeat-dino_B", "five layers come first"


def test_options_overrule_what_the_checkpoint_says(home: Path, published: Published) -> None:
    matcher = SemanticMatcher.from_pretrained(
        "xfeat", device="cpu", fetch=True, max_keypoints=7, registration="exact", semantic_size=112
    )
    assert matcher.extractor.max_keypoints == 7
    assert matcher.registration == "exact"
    assert matcher.semantic_size == 112


def test_plain_variants_need_their_extractor_only(
    home: Path, published: Published, images: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(WeightsNotFoundError, match="weights fetch xfeat-extractor"):
        SemanticMatcher.from_pretrained("plain:xfeat", device="cpu")
    matcher = SemanticMatcher.from_pretrained("plain:xfeat", device="cpu", fetch=True, max_keypoints=50)
    assert (matcher.semantic_encoder, matcher.reasoner, matcher.variant) == (None, None, "plain:xfeat")
    assert len(matcher.match_images(*images)) > 10
    assert [path for path, _ in published.server.requests] == ["/xfeat.pt"]
    file = tmp_path / "renamed.pt"
    (home / "weights" / "xfeat.pt").rename(file)
    assert SemanticMatcher.from_pretrained("plain:xfeat", device="cpu", weights=file).extractor.max_keypoints == 2048
    assert SemanticMatcher.from_pretrained("plain:sift", device="cpu").extractor.name == "sift"
    with pytest.raises(ConfigError, match="max_keypoints"):
        SemanticMatcher.from_pretrained("plain:sift", device="cpu", max_keypoints=0)
    with pytest.raises(UnknownNameError, match="unknown extractor 'nope'"):
        SemanticMatcher.from_pretrained("plain:nope", device="cpu")
