"""Hashes to hold a download against: the published one, else the one seen when it was first fetched."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from semantic_matcher_core.errors import HashMismatchError
from semantic_matcher_core.weights.catalogue import Entry
from semantic_matcher_core.weights.places import cache_folder
from semantic_matcher_core.weights.records import read_record, update_record


def trust_file() -> Path:
    """Return where the hashes of first use are kept."""
    return cache_folder() / "trust.json"


def recorded_sha256(entry: Entry) -> str | None:
    """Return the hash recorded when the entry was first fetched on this machine, or ``None``."""
    line = read_record(trust_file()).get(entry.name)
    return line.get("sha256") if isinstance(line, dict) else None


def expected_sha256(entry: Entry) -> str | None:
    """Return what the download must hash to: as published, else as recorded, else ``None``."""
    return entry.sha256 or recorded_sha256(entry)


def record_sha256(entry: Entry, sha256: str, size: int) -> None:
    """Remember the hash of an entry that has no published one."""
    line = {
        "sha256": sha256,
        "size": size,
        "url": entry.url,
        "recorded": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    update_record(trust_file(), {entry.name: line})


def check_sha256(entry: Entry, sha256: str) -> None:
    """Hold a file's hash against the one on record, if any.

    Raises:
        HashMismatchError: they differ; the message says which record and how to reset it.
    """
    if entry.sha256 is not None and sha256 != entry.sha256:
        raise HashMismatchError(
            f"{entry.url} is not the published file: SHA-256 {sha256}, expected {entry.sha256}; "
            "it was deleted. Try again, and if it persists, do not use what this address gives"
        )
    recorded = recorded_sha256(entry)
    if entry.sha256 is None and recorded is not None and sha256 != recorded:
        raise HashMismatchError(
            f"{entry.url} has changed since it was first fetched: SHA-256 {sha256}, recorded {recorded} in "
            f"{trust_file()}; it was deleted. If its publisher replaced it on purpose: "
            f"semantic-matcher weights fetch {entry.name} --trust-new-hash"
        )
