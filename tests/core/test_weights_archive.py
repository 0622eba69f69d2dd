"""Zips in the published layout: unpacked whole and slim, or refused with one error and nothing left."""

from __future__ import annotations

import json
import os
import stat
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from semantic_matcher_core.errors import CheckpointError, OutputError, UnsafeArchiveError
from semantic_matcher_core.weights import archive as archive_module
from semantic_matcher_core.weights import read_state_dict
from semantic_matcher_core.weights.checkpoints import unpack_checkpoint, unpack_local
from tests.core.weights_server import left_over, sha256

CONFIG = b"dino: {weights: dinov2_vits14}\n"
STATE = {"extractor_reprojection.weight": torch.arange(32.0).reshape(4, 8)}


def checkpoint_bytes(folder: Path, content: Any) -> bytes:
    torch.save(content, folder / "content.tmp.pt")
    return (folder / "content.tmp.pt").read_bytes()


def write_zip(path: Path, members: dict[str, bytes | tuple[bytes, tuple[int, ...]]]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")  # zipfile warns of names that appear twice
        for name, value in members.items():
            content, date = value if isinstance(value, tuple) else (value, (2024, 5, 1, 12, 0, 0))
            file.writestr(zipfile.ZipInfo(name, date), content, zipfile.ZIP_DEFLATED)
    return path


@pytest.fixture
def published(tmp_path: Path) -> dict[str, Any]:
    """Members of a zip as it is published, with optimizer state."""
    optimizer = {"state": {0: {"exp_avg": torch.rand(4096)}}, "param_groups": [{"lr": 1e-4}]}
    content = checkpoint_bytes(
        tmp_path, {"state_dict": STATE, "optimizer": optimizer, "epoch": 1, "iter": 2, "batch": 3}
    )
    return {"xfeat/": b"", "xfeat/model_config.yaml": CONFIG, "xfeat/checkpoint_2_1024000.pt": content}


def test_only_what_is_needed_is_kept(tmp_path: Path, published: dict[str, Any]) -> None:
    path = write_zip(
        tmp_path / "xfeat.zip", {**published, "xfeat/events.out": b"log", "__MACOSX/xfeat/._a.pt": b"junk"}
    )
    unpack_checkpoint(path, tmp_path / "out" / "xfeat", {"url": "here"})
    folder = tmp_path / "out" / "xfeat"
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint_2_1024000.pt",
        "model_config.yaml",
        "provenance.json",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["xfeat"], "no temporary folder stays"
    assert (folder / "model_config.yaml").read_bytes() == CONFIG
    state = torch.load(folder / "checkpoint_2_1024000.pt", weights_only=True)
    assert state.keys() == STATE.keys()
    assert torch.equal(*(s["extractor_reprojection.weight"] for s in (state, STATE)))
    assert (folder / "checkpoint_2_1024000.pt").stat().st_size < len(published["xfeat/checkpoint_2_1024000.pt"]) / 2
    record = json.loads((folder / "provenance.json").read_text())
    assert record["url"] == "here"
    assert record["checkpoint"] == "xfeat/checkpoint_2_1024000.pt"
    assert record["files"] == {
        name: sha256((folder / name).read_bytes()) for name in ("model_config.yaml", "checkpoint_2_1024000.pt")
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("prefix", ["", "a/b/"])
def test_the_folder_may_lie_at_any_depth(tmp_path: Path, published: dict[str, Any], prefix: str) -> None:
    members = {
        f"{prefix}{name.removeprefix('xfeat/')}": content for name, content in published.items() if name[-1] != "/"
    }
    unpack_checkpoint(write_zip(tmp_path / "a.zip", members), tmp_path / "a", {})
    assert (tmp_path / "a" / "checkpoint_2_1024000.pt").is_file()


def test_the_newest_checkpoint_is_meant(tmp_path: Path) -> None:
    def content(value: float) -> bytes:
        return checkpoint_bytes(tmp_path, {"a": torch.tensor([value])})

    early, late = (2024, 5, 1, 12, 0, 0), (2024, 5, 1, 12, 0, 2)
    orders = {
        "newest first": [("b_9.pt", 1.0, late), ("b_10.pt", 2.0, early)],
        "newest last": [("b_10.pt", 2.0, early), ("b_9.pt", 1.0, late)],
        # Of equally old ones, 10 comes after 9.
        "equal": [("b_10.pt", 1.0, early), ("b_9.pt", 2.0, early)],
    }
    for name, members in orders.items():
        files = {"m/model_config.yaml": CONFIG, **{f"m/{n}": (content(v), date) for n, v, date in members}}
        path = write_zip(tmp_path / f"{name}.zip", files)
        unpack_checkpoint(path, tmp_path / name, {})
        (weights,) = (tmp_path / name).glob("*.pt")
        assert read_state_dict(weights)["a"].item() == 1.0, name


def test_a_local_zip_is_unpacked_once(home: Path, tmp_path: Path, published: dict[str, Any]) -> None:
    path = write_zip(tmp_path / "mine.zip", published)
    folder = unpack_local(path)
    stamp = (folder / "provenance.json").stat().st_mtime_ns
    assert folder.parent == home / "unpacked"
    assert unpack_local(path) == folder
    copy = write_zip(tmp_path / "same_under_another_name.zip", published)
    assert unpack_local(copy) == folder
    assert (folder / "provenance.json").stat().st_mtime_ns == stamp
    other = write_zip(tmp_path / "other.zip", {**published, "xfeat/model_config.yaml": CONFIG + b"# other\n"})
    assert unpack_local(other) != folder


UNSAFE = {
    "parent": ("../evil.txt", "leaves its folder"),
    "parent inside": ("xfeat/../../evil.txt", "leaves its folder"),
    "absolute": ("/tmp/evil.txt", "absolute or malformed"),
    "drive": ("C:evil.txt", "absolute or malformed"),
    "backslash": ("xfeat\\..\\..\\evil.txt", "absolute or malformed"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_members_outside_are_refused(home: Path, tmp_path: Path, published: dict[str, Any], case: str) -> None:
    name, message = UNSAFE[case]
    path = write_zip(tmp_path / "evil.zip", {**published, name: b"evil"})
    with pytest.raises(UnsafeArchiveError, match=message):
        unpack_local(path)
    assert left_over(home) == []
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFBLK])
def test_links_and_devices_are_refused(home: Path, tmp_path: Path, published: dict[str, Any], kind: int) -> None:
    path = write_zip(tmp_path / "evil.zip", published)
    with zipfile.ZipFile(path, "a") as file:
        member = zipfile.ZipInfo("xfeat/checkpoint_9.pt")
        member.external_attr = (kind | 0o777) << 16
        file.writestr(member, "/etc/passwd")
    with pytest.raises(UnsafeArchiveError, match="link, a device"):
        unpack_local(path)
    assert left_over(home) == []


def test_a_name_that_appears_twice_is_refused(home: Path, tmp_path: Path, published: dict[str, Any]) -> None:
    path = write_zip(tmp_path / "evil.zip", published)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("xfeat/model_config.yaml", b"other")
    with pytest.raises(UnsafeArchiveError, match="appears twice"):
        unpack_local(path)
    assert left_over(home) == []


def test_bombs_are_refused(
    home: Path, tmp_path: Path, published: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = write_zip(tmp_path / "bomb.zip", {**published, "xfeat/checkpoint_9.pt": bytes(5_000_000)})
    with pytest.raises(UnsafeArchiveError, match="grows more than 200 times"):
        unpack_local(bomb)
    monkeypatch.setattr(archive_module, "MAX_BYTES", 10_000)
    with pytest.raises(UnsafeArchiveError, match="would unpack to"):
        unpack_local(write_zip(tmp_path / "big.zip", {**published, "xfeat/a.bin": os.urandom(10_000)}))
    monkeypatch.setattr(archive_module, "MAX_MEMBERS", 3)
    with pytest.raises(UnsafeArchiveError, match="has 4 members"):
        unpack_local(write_zip(tmp_path / "many.zip", {**published, "xfeat/a.bin": b""}))
    assert left_over(home) == []


def test_damaged_archives_are_one_error(home: Path, tmp_path: Path, published: dict[str, Any]) -> None:
    whole = write_zip(tmp_path / "whole.zip", published).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    # Of the first entry of the directory: where its member begins, relative to what is before the archive.
    nowhere = bytearray(whole)
    place = whole.index(b"PK\x05\x06") + 16
    nowhere[place : place + 4] = (int.from_bytes(whole[place : place + 4], "little") + 10_000).to_bytes(4, "little")
    # Flagged as UTF-8, which the name is not.
    unnamed = bytearray(whole)
    place = whole.index(b"PK\x01\x02")
    unnamed[place + 9], unnamed[place + 46] = 0x08, 0xFF
    cases = {
        "nowhere": bytes(nowhere),
        "unnamed": bytes(unnamed),
        "empty": b"",
        "page": b"<html>Not Found</html>",
        "half": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.zip"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name}\.zip is no zip archive, or is damaged or truncated"):
            unpack_local(path)
    assert left_over(home) == []


def test_an_encrypted_archive_is_refused(home: Path, tmp_path: Path, published: dict[str, Any]) -> None:
    path = write_zip(tmp_path / "secret.zip", published)
    content = bytearray(path.read_bytes())
    # Bit 0 of the flags in the central directory is what marks a member as encrypted.
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="encrypted"):
        unpack_local(path)
    assert left_over(home) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xfeat/model_config.yaml": None}, r"has no file named model_config\.yaml"),
        ({"other/model_config.yaml": CONFIG}, r"has 2 files named model_config\.yaml"),
        ({"xfeat/checkpoint_2_1024000.pt": None}, r"has no weights file .*beside"),
        (
            {"xfeat/checkpoint_2_1024000.pt": b"cut off"},
            r"a\.zip, in xfeat/checkpoint_2_1024000\.pt: checkpoint.*damaged",
        ),
        ({"xfeat/checkpoint_2_1024000.pt": b""}, r"a\.zip, in xfeat/checkpoint_2_1024000\.pt: checkpoint.*damaged"),
    ],
)
def test_another_layout_is_one_error(
    home: Path, tmp_path: Path, published: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    members = {name: content for name, content in {**published, **change}.items() if content is not None}
    path = write_zip(tmp_path / "a.zip", members)
    with pytest.raises(CheckpointError, match=message):
        unpack_local(path)
    assert left_over(home) == []


def test_a_pickle_with_code_inside_is_refused(home: Path, tmp_path: Path, published: dict[str, Any]) -> None:
    class RunsCode:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    content = checkpoint_bytes(tmp_path, {"state_dict": STATE, "optimizer": RunsCode()})
    path = write_zip(tmp_path / "evil.zip", {**published, "xfeat/checkpoint_2_1024000.pt": content})
    with pytest.raises(CheckpointError, match="not loaded: it holds more than tensors"):
        unpack_local(path)
    assert not (tmp_path / "ran").exists()
    assert left_over(home) == []


def test_a_cache_that_cannot_be_written_is_one_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, published: dict[str, Any]
) -> None:
    path = write_zip(tmp_path / "a.zip", published)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SEMANTIC_MATCHER_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="SEMANTIC_MATCHER_HOME"):
        unpack_local(path)


@pytest.mark.parametrize("prefix", ["", "compact/", "deep/er/"])
def test_a_zip_is_its_folder(home: Path, tmp_path: Path, prefix: str) -> None:
    from semantic_matcher_core.weights.places import BUNDLED

    folder = BUNDLED / "compact"
    files = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".yaml", ".safetensors", ".pt")
    }
    assert any(name.endswith(".safetensors") for name in files)
    path = write_zip(tmp_path / "my.zip", {f"{prefix}{name}": content for name, content in files.items()})
    unpacked = unpack_local(path)
    (weights,) = (file for file in unpacked.iterdir() if file.suffix == ".safetensors")
    (original,) = (file for file in folder.iterdir() if file.suffix == ".safetensors")
    state, expected = read_state_dict(weights), read_state_dict(original)
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)
