"""Weights on this machine against the hashes on record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from semantic_matcher_core.weights import trust
from semantic_matcher_core.weights.catalogue import Entry, get_entry
from semantic_matcher_core.weights.checkpoints import PROVENANCE_FILE
from semantic_matcher_core.weights.hashing import sha256_of
from semantic_matcher_core.weights.places import BUNDLED, locate

OK, MISSING, UNKNOWN, MISMATCH = "ok", "not here", "no hash on record", "mismatch"


@dataclass(frozen=True)
class Verification:
    """What became of one entry.

    Attributes:
        name: the entry.
        status: ``ok``, ``not here``, ``no hash on record`` or ``mismatch``.
        path: what was checked.
        detail: which record it was held against, or what differs.
        note: what the catalogue has to say of another hash; "" where nothing differs.
    """

    name: str
    status: str
    path: Path | None = None
    detail: str = ""
    note: str = ""


def verify_weights(name: str) -> Verification:
    """Hash what is on this machine for an entry, and compare.

    Raises:
        UnknownNameError: no such entry.
    """
    entry = get_entry(name)
    path = locate(entry)
    if path is None:
        return Verification(name, MISSING)
    if path.parent == BUNDLED and path.is_dir():
        return _verify_file(entry, path / "reasoner.safetensors")
    if path.is_dir():
        return _verify_folder(name, path)
    return _verify_file(entry, path)


def _verify_file(entry: Entry, path: Path) -> Verification:
    expected = trust.expected_sha256(entry)
    if expected is None:
        return Verification(entry.name, UNKNOWN, path, "none is published, and it was not fetched on this machine")
    record = "published" if entry.sha256 else "recorded at first fetch"
    actual = sha256_of(path)
    if actual != expected:
        return Verification(entry.name, MISMATCH, path, f"SHA-256 {actual}, {record} {expected}", entry.note or "")
    return Verification(entry.name, OK, path, f"SHA-256 as {record}")


def _verify_folder(name: str, folder: Path) -> Verification:
    try:
        files = json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))["files"]
        expected = {str(file): str(sha256) for file, sha256 in files.items()}
    except FileNotFoundError:
        return Verification(name, UNKNOWN, folder, f"it has no {PROVENANCE_FILE}: it was not unpacked by this program")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Verification(name, MISMATCH, folder, f"its {PROVENANCE_FILE} is damaged: {error!r}")
    present = {path.name for path in folder.iterdir() if path.name != PROVENANCE_FILE}
    wrong = sorted(present ^ set(expected)) + [
        file for file in sorted(present & set(expected)) if sha256_of(folder / file) != expected[file]
    ]
    if wrong:
        return Verification(name, MISMATCH, folder, f"changed since it was unpacked: {', '.join(wrong)}")
    return Verification(name, OK, folder, f"SHA-256 as in its {PROVENANCE_FILE}")
