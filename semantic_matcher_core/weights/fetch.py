"""From a catalogue entry to weights in the cache: licence, download, hash, unpacking."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from semantic_matcher_core.errors import DownloadError, HashMismatchError, SemanticMatcherError
from semantic_matcher_core.io.atomic import remove
from semantic_matcher_core.weights import trust
from semantic_matcher_core.weights.catalogue import Entry, get_entry
from semantic_matcher_core.weights.checkpoints import cache_lock, unpack_checkpoint, unpack_local, writable_cache
from semantic_matcher_core.weights.download import discard, download
from semantic_matcher_core.weights.hashing import sha256_of
from semantic_matcher_core.weights.licences import require_acceptance
from semantic_matcher_core.weights.places import cache_folder, locate, weights_folder
from semantic_matcher_core.weights.progress import shown_progress


def is_offline() -> bool:
    """Return True where ``SEMANTIC_MATCHER_OFFLINE`` forbids the network."""
    return os.environ.get("SEMANTIC_MATCHER_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")


def with_requirements(names: Iterable[str]) -> list[str]:
    """Return the names, and before each variant those it needs besides itself; every name once.

    Raises:
        UnknownNameError: no such entry.
    """
    return list(dict.fromkeys(n for name in names for n in (*get_entry(name).requires, name)))


def fetch_weights(
    name: str, *, accept_license: bool = False, offline: bool | None = None, trust_new_hash: bool = False
) -> Path:
    """Download an entry into the cache, unless it is on this machine already.

    Two processes that fetch the same thing wait for each other. What was cut off is resumed. The file is used only when
    its size and SHA-256 are those on record; where none is published, the hash of the first download is recorded and
    later ones must equal it.

    Args:
        name: an entry of the catalogue.
        accept_license: accept its licence, where that is asked for; remembered.
        offline: forbid the network; ``None`` for what ``SEMANTIC_MATCHER_OFFLINE`` says.
        trust_new_hash: forget a recorded hash, and fetch again.

    Returns:
        The file; for a variant its checkpoint folder.

    Raises:
        UnknownNameError: no such entry.
        LicenseNotAcceptedError: its licence has to be accepted first.
        DownloadError: it cannot be downloaded, or the network is forbidden.
        HashMismatchError: it is not the file on record; nothing is kept.
        CheckpointError, UnsafeArchiveError: what came is not in the published layout; nothing is kept.
        OutputError: the cache cannot be written.
    """
    entry = get_entry(name)
    found = None if trust_new_hash else _here(entry)
    if found is not None:
        return found
    if is_offline() if offline is None else offline:
        raise DownloadError(
            f"weights {name!r} are not on this machine, and offline mode forbids to download {entry.url}"
        )
    with writable_cache():
        require_acceptance(entry, accept=accept_license)
        with cache_lock(f"fetch-{name}", f"weights {name!r} are being fetched by another process"):
            return (None if trust_new_hash else _here(entry)) or _fetch(entry, trust_new_hash)


def _here(entry: Entry) -> Path | None:
    found = locate(entry)
    return unpack_local(found) if found is not None and entry.kind == "variant" and found.is_file() else found


def _fetch(entry: Entry, trust_new_hash: bool) -> Path:
    target = cache_folder() / "downloads" / f"{entry.file}.part"
    try:
        with shown_progress(entry) as progress:
            part = download(entry.url, target, size=entry.size, progress=progress)
    except DownloadError as error:
        if not entry.note:
            raise
        raise DownloadError(f"{error}; {entry.note}") from error
    sha256, size = sha256_of(part), part.stat().st_size
    try:
        if not trust_new_hash:
            trust.check_sha256(entry, sha256)
        elif entry.sha256 not in (None, sha256):
            raise HashMismatchError(
                f"{entry.url}: SHA-256 {sha256}, published {entry.sha256}; a published one is never replaced"
            )
        target = _install(entry, part, sha256)
    except SemanticMatcherError:
        discard(part)
        raise
    discard(part)
    if entry.sha256 is None:
        trust.record_sha256(entry, sha256, size)
    return target


def _install(entry: Entry, part: Path, sha256: str) -> Path:
    folder = weights_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if entry.kind == "variant":
        target = folder / entry.name
        unpacked = folder / f".{entry.name}.new"
        remove(unpacked)
        unpack_checkpoint(part, unpacked, {"name": entry.name, "url": entry.url, "sha256": sha256})
        remove(target)
        unpacked.rename(target)
        return target
    if entry.sha256 is None:
        # Nobody vouches for it yet: an error page that came with status 200 must not be recorded as trusted.
        from semantic_matcher_core.weights.loading import read_state_dict

        read_state_dict(part, suffix=Path(entry.file).suffix)
    target = folder / entry.file
    os.replace(part, target)
    return target
