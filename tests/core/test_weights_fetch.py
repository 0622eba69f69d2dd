"""From a catalogue entry to weights in the cache: hashes, trust on first use, licences, locks, offline."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from semantic_matcher_core.errors import (
    CheckpointError,
    DownloadError,
    HashMismatchError,
    LicenseNotAcceptedError,
    OutputError,
    UnknownNameError,
    WeightsNotFoundError,
)
from semantic_matcher_core.weights import download as download_module
from semantic_matcher_core.weights import fetch_weights, find_weights, licence_note, locate, read_state_dict
from semantic_matcher_core.weights.catalogue import get_entry
from semantic_matcher_core.weights.verify import verify_weights
from tests.core.test_weights_archive import checkpoint_bytes, write_zip
from tests.core.weights_server import WeightsServer, left_over, sha256, weights_server, write_catalogue


@pytest.fixture
def server(home: Path) -> Iterator[WeightsServer]:
    with weights_server() as running:
        yield running


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    return checkpoint_bytes(tmp_path, {"weight": torch.rand(300, 1000)})


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: WeightsServer) -> Callable[..., str]:
    """``catalogue(content, name="net", **fields)`` serves a file and enters it; its name."""
    entries: dict[str, dict[str, Any]] = {}

    def enter(content: bytes, name: str = "net", served: dict[str, Any] | None = None, **fields: Any) -> str:
        file = fields.pop("file", f"{name}.pth")
        url = server.serve(file, content, **(served or {}))
        entries[name] = {"kind": "extractor", "file": file, "url": url, "licence": "MIT", **fields}
        if fields.get("kind") == "variant":
            entries[name] |= {"descriptor": "xfeat", "dino": "dinov2_vits14"}
        write_catalogue(monkeypatch, tmp_path, entries)
        return name

    return enter


def published_zip(tmp_path: Path, value: float = 1.0) -> bytes:
    state = checkpoint_bytes(
        tmp_path, {"state_dict": {"a": torch.full((2,), value)}, "optimizer": {"b": torch.ones(9)}}
    )
    path = write_zip(tmp_path / "published.zip", {"v/model_config.yaml": b"a: 1\n", "v/checkpoint.pt": state})
    return path.read_bytes()


def test_a_file_is_fetched_once_and_found_offline(
    home: Path, server: WeightsServer, catalogue: Callable[..., str], weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = catalogue(weights, sha256=sha256(weights), size=len(weights))
    with pytest.raises(WeightsNotFoundError, match=r"semantic-matcher weights fetch net( |$)"):
        find_weights(name)
    assert server.requests == [], "nothing touches the network unasked"
    path = find_weights(name, fetch=True)
    assert path == home / "weights" / "net.pth"
    assert path.read_bytes() == weights
    assert left_over(home) == ["weights/net.pth"]
    assert fetch_weights(name) == path
    server.stop()
    monkeypatch.setenv("SEMANTIC_MATCHER_OFFLINE", "1")
    assert find_weights(name) == find_weights(name, fetch=True) == path
    assert len(server.requests) == 1
    assert verify_weights(name).status == "ok"


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_offline_is_one_sentence(
    server: WeightsServer, catalogue: Callable[..., str], weights: bytes, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    name = catalogue(weights)
    monkeypatch.setenv("SEMANTIC_MATCHER_OFFLINE", value)
    with pytest.raises(DownloadError, match=r"^weights 'net' are not on this machine, and offline mode forbids"):
        find_weights(name, fetch=True)
    assert server.requests == []
    monkeypatch.setenv("SEMANTIC_MATCHER_OFFLINE", "0")
    with pytest.raises(DownloadError, match="offline"):
        fetch_weights(name, offline=True)
    fetch_weights(name)


def test_an_interrupted_fetch_resumes(
    home: Path, server: WeightsServer, catalogue: Callable[..., str], weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = catalogue(weights, served={"cut_after": [500_000]}, sha256=sha256(weights))
    monkeypatch.setattr(download_module, "ATTEMPTS", 1)
    with pytest.raises(DownloadError, match=r"0\.5 MB are kept"):
        fetch_weights(name)
    with pytest.raises(WeightsNotFoundError):
        find_weights(name)
    assert fetch_weights(name).read_bytes() == weights
    assert server.sent == len(weights)
    assert server.requests[1][1]["Range"] == "bytes=500000-"
    assert left_over(home) == ["weights/net.pth"]


def test_a_corrupted_file_is_refused_and_leaves_nothing(
    home: Path, server: WeightsServer, catalogue: Callable[..., str], weights: bytes
) -> None:
    corrupted = bytearray(weights)
    corrupted[len(weights) // 2] ^= 1
    name = catalogue(bytes(corrupted), sha256=sha256(weights), size=len(weights))
    with pytest.raises(HashMismatchError, match=f"{sha256(bytes(corrupted))}, expected {sha256(weights)}"):
        fetch_weights(name)
    assert left_over(home) == []
    with pytest.raises(WeightsNotFoundError):
        find_weights(name)
    server.serve("net.pth", weights)
    assert fetch_weights(name).read_bytes() == weights


def test_a_corrupted_zip_is_refused_and_leaves_nothing(
    home: Path, catalogue: Callable[..., str], tmp_path: Path
) -> None:
    good = published_zip(tmp_path)
    half = good[: len(good) // 2]
    name = catalogue(half, kind="variant", file="v.zip", name="v", sha256=sha256(good))
    with pytest.raises(HashMismatchError):
        fetch_weights(name)
    assert left_over(home) == []
    # Without a hash to hold it against, its content must still make sense before it is trusted.
    name = catalogue(half, kind="variant", file="v.zip", name="v")
    with pytest.raises(CheckpointError, match="no zip archive"):
        fetch_weights(name)
    assert left_over(home) == []
    assert not (home / "trust.json").exists()


def test_an_error_page_is_not_trusted(home: Path, catalogue: Callable[..., str]) -> None:
    name = catalogue(b"<!DOCTYPE html><title>Sign in to the network</title>")
    with pytest.raises(CheckpointError, match="net"):
        fetch_weights(name)
    assert left_over(home) == []
    assert not (home / "trust.json").exists()


def test_the_first_hash_is_recorded_and_held_against_later_files(
    home: Path, server: WeightsServer, catalogue: Callable[..., str], weights: bytes, tmp_path: Path
) -> None:
    name = catalogue(weights)
    path = fetch_weights(name)
    record = json.loads((home / "trust.json").read_text())["net"]
    assert record["sha256"] == sha256(weights)
    assert record["size"] == len(weights)
    assert record["url"] == get_entry("net").url
    assert verify_weights(name).status == "ok"

    path.unlink()
    changed = checkpoint_bytes(tmp_path, {"weight": torch.rand(300, 1000)})
    server.serve("net.pth", changed)
    with pytest.raises(HashMismatchError, match=r"has changed .* semantic-matcher weights fetch net --trust-new-hash"):
        fetch_weights(name)
    assert left_over(home) == []
    assert json.loads((home / "trust.json").read_text())["net"] == record

    assert fetch_weights(name, trust_new_hash=True).read_bytes() == changed
    assert json.loads((home / "trust.json").read_text())["net"]["sha256"] == sha256(changed)


def test_trusting_a_new_hash_fetches_again_and_never_overrules_a_published_one(
    home: Path, server: WeightsServer, catalogue: Callable[..., str], weights: bytes, tmp_path: Path
) -> None:
    name = catalogue(weights, sha256=sha256(weights))
    path = fetch_weights(name)
    server.serve("net.pth", checkpoint_bytes(tmp_path, {"weight": torch.rand(3)}))
    with pytest.raises(HashMismatchError, match="published"):
        fetch_weights(name, trust_new_hash=True)
    assert path.read_bytes() == weights, "what was good stays"


def test_a_variant_is_unpacked_and_its_zip_not_kept(
    home: Path, server: WeightsServer, catalogue: Callable[..., str], tmp_path: Path
) -> None:
    content = published_zip(tmp_path)
    name = catalogue(content, kind="variant", file="v.zip", name="v")
    folder = fetch_weights(name)
    assert folder == home / "weights" / "v" == find_weights(name)
    assert left_over(home) == [f"weights/v/{f}" for f in ("checkpoint.pt", "model_config.yaml", "provenance.json")]
    assert read_state_dict(folder / "checkpoint.pt")["a"].tolist() == [1.0, 1.0]
    record = json.loads((folder / "provenance.json").read_text())
    assert (record["name"], record["url"], record["sha256"]) == ("v", get_entry("v").url, sha256(content))
    assert json.loads((home / "trust.json").read_text())["v"]["sha256"] == sha256(content)
    assert verify_weights(name).status == "ok"

    newer = published_zip(tmp_path, value=2.0)
    server.serve("v.zip", newer)
    assert fetch_weights(name, trust_new_hash=True) == folder
    assert read_state_dict(folder / "checkpoint.pt")["a"].tolist() == [2.0, 2.0]
    assert sorted(p.name for p in (home / "weights").iterdir()) == ["v"]


def test_verify_sees_what_was_changed(
    home: Path, catalogue: Callable[..., str], weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue(weights, sha256=sha256(weights))
    catalogue(published_zip(tmp_path), kind="variant", file="v.zip", name="v")
    assert verify_weights("net").status == "not here"
    path, folder = fetch_weights("net"), fetch_weights("v")
    with path.open("ab") as file:
        file.write(b"!")
    assert verify_weights("net").status == "mismatch"
    (folder / "model_config.yaml").write_text("a: 2\n")
    (folder / "newer.pt").write_bytes(b"")
    result = verify_weights("v")
    assert result.status == "mismatch"
    assert "model_config.yaml" in result.detail
    assert "newer.pt" in result.detail
    (folder / "provenance.json").write_text("{}")
    assert verify_weights("v").status == "mismatch"
    (folder / "provenance.json").unlink()
    assert verify_weights("v").status == "no hash on record"
    catalogue(weights, name="other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "other.pth").write_bytes(weights)
    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", str(tmp_path / "mine"))
    assert verify_weights("other").status == "no hash on record"


def test_a_licence_is_accepted_once(
    home: Path, server: WeightsServer, catalogue: Callable[..., str], weights: bytes
) -> None:
    licence = {"licence": "LicenseRef-Research", "licence_terms": "research only", "must_accept": True}
    name = catalogue(weights, **licence)
    for call in (lambda: fetch_weights(name), lambda: find_weights(name, fetch=True)):
        with pytest.raises(LicenseNotAcceptedError, match=r"research only.*weights fetch net --accept-license"):
            call()
    assert server.requests == []
    assert licence_note(name) == "weights 'net' are under LicenseRef-Research: research only"
    path = fetch_weights(name, accept_license=True)
    path.unlink()
    assert find_weights(name, fetch=True) == path, "accepted is accepted"
    path.unlink()
    catalogue(weights, **{**licence, "licence": "LicenseRef-Research-2"})
    with pytest.raises(LicenseNotAcceptedError):
        fetch_weights(name)


def test_a_download_that_is_refused_says_what_the_catalogue_knows_of_it(
    home: Path, server: WeightsServer, catalogue: Callable[..., str], weights: bytes
) -> None:
    name = catalogue(weights, note="Its publisher sends you an address of your own.")
    for served in server.files.values():
        served.statuses = [403]
    with pytest.raises(DownloadError, match=r"403.*; Its publisher sends you an address of your own\."):
        fetch_weights(name)


def test_free_licences_have_no_note(home: Path, catalogue: Callable[..., str], weights: bytes) -> None:
    assert licence_note(catalogue(weights)) is None


def test_weights_that_are_here_need_no_acceptance(
    home: Path, catalogue: Callable[..., str], weights: bytes, tmp_path: Path
) -> None:
    name = catalogue(weights, licence_terms="research only", must_accept=True)
    (tmp_path / "net.pth").write_bytes(weights)
    assert find_weights(name, tmp_path) == tmp_path / "net.pth"


def test_two_at_once_download_once(
    home: Path, server: WeightsServer, catalogue: Callable[..., str], weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = catalogue(weights, sha256=sha256(weights))
    original = WeightsServer._send_file

    def slow(self: WeightsServer, *arguments: Any) -> None:
        time.sleep(0.3)
        original(self, *arguments)

    monkeypatch.setattr(WeightsServer, "_send_file", slow)
    results: list[Path] = []
    threads = [threading.Thread(target=lambda: results.append(fetch_weights(name))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [home / "weights" / "net.pth"] * 4
    assert len(server.requests) == 1
    assert results[0].read_bytes() == weights


def test_a_cache_that_cannot_be_written_is_one_error(
    catalogue: Callable[..., str], weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = catalogue(weights)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="SEMANTIC_MATCHER_HOME"):
        fetch_weights(name)


def test_a_damaged_record_is_one_error(home: Path, catalogue: Callable[..., str], weights: bytes) -> None:
    from semantic_matcher_core.errors import ConfigError

    name = catalogue(weights)
    home.mkdir()
    (home / "trust.json").write_text("{")
    with pytest.raises(ConfigError, match=r"trust\.json is damaged"):
        fetch_weights(name)


def test_places_are_searched_in_order(
    home: Path, catalogue: Callable[..., str], weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = catalogue(weights, alternatives=["other.pt"])
    entry = get_entry(name)
    folders = [tmp_path / n for n in ("hint", "first", "second")]
    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", f"{folders[1]}:{folders[2]}::")
    cached = fetch_weights(name)
    assert locate(entry) == cached
    for folder in reversed(folders):
        folder.mkdir()
        (folder / "unrelated.pth").write_bytes(weights)
        assert locate(entry) != folder / "unrelated.pth"
        (folder / "other.pt").write_bytes(weights)
        assert find_weights(name, folders[0] if folder == folders[0] else None) == folder / "other.pt"
        (folder / "net.pth").write_bytes(weights)
        assert find_weights(name, folders[0] if folder == folders[0] else None) == folder / "net.pth"
    assert find_weights(name, folders[1]) == folders[1] / "net.pth"
    assert find_weights(name, tmp_path / "hint" / "unrelated.pth") == tmp_path / "hint" / "unrelated.pth"
    assert find_weights(name, tmp_path) == folders[1] / "net.pth", "a folder without them is no dead end"
    with pytest.raises(WeightsNotFoundError, match=r"nowhere.* does not exist"):
        find_weights(name, tmp_path / "nowhere")


def test_a_copy_of_the_cache_is_a_search_folder(
    home: Path, catalogue: Callable[..., str], weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue(weights)
    catalogue(published_zip(tmp_path), kind="variant", file="v.zip", name="v")
    fetch_weights("net"), fetch_weights("v")
    (home / "weights").rename(tmp_path / "copy")
    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", str(tmp_path / "copy"))
    monkeypatch.setenv("SEMANTIC_MATCHER_OFFLINE", "1")
    assert find_weights("net") == tmp_path / "copy" / "net.pth"
    assert find_weights("v", fetch=True) == tmp_path / "copy" / "v"
    assert verify_weights("v").status == "ok"


def test_a_published_zip_in_a_search_folder_works_offline(
    home: Path, catalogue: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = published_zip(tmp_path)
    name = catalogue(content, kind="variant", file="v.zip", name="v")
    folder = tmp_path / "downloads_of_mine"
    folder.mkdir()
    (folder / "v.zip").write_bytes(content)
    monkeypatch.setenv("SEMANTIC_MATCHER_OFFLINE", "1")
    monkeypatch.setenv("SEMANTIC_MATCHER_WEIGHTS", str(folder))
    found = find_weights(name)
    assert found == fetch_weights(name) == find_weights(name, folder / "v.zip")
    assert (found / "checkpoint.pt").is_file()
    assert [p.name for p in folder.iterdir()] == ["v.zip"], "search folders are only read"


def test_unknown_names_list_what_exists(home: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'nope'.*xfeat-extractor.*dinov2_vits14"):
        find_weights("nope")
    with pytest.raises(UnknownNameError):
        fetch_weights("nope")
