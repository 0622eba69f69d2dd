"""Licences that have to be accepted before their weights are downloaded, and what was accepted."""

from __future__ import annotations

from datetime import datetime, timezone

from semantic_matcher_core.errors import LicenseNotAcceptedError
from semantic_matcher_core.weights.catalogue import Entry, get_entry
from semantic_matcher_core.weights.places import cache_folder
from semantic_matcher_core.weights.records import read_record, update_record


def licence_note(name: str) -> str | None:
    """Return one sentence on what the licence of an entry forbids, for logs, or ``None`` where there is nothing to say.

    Raises:
        UnknownNameError: no such entry.
    """
    entry = get_entry(name)
    return f"weights {name!r} are under {entry.licence}: {entry.licence_terms}" if entry.licence_terms else None


def is_accepted(entry: Entry) -> bool:
    """Return True where the licence needs no acceptance, or was accepted on this machine."""
    if not entry.must_accept:
        return True
    accepted = read_record(cache_folder() / "licenses.json").get(entry.name)
    return isinstance(accepted, dict) and accepted.get("licence") == entry.licence


def require_acceptance(entry: Entry, *, accept: bool) -> None:
    """Let an entry pass whose licence is accepted, now or earlier; acceptance is remembered in the cache.

    Raises:
        LicenseNotAcceptedError: it is not; the message has the command that accepts it.
    """
    if is_accepted(entry):
        return
    if not accept:
        raise LicenseNotAcceptedError(
            f"weights {entry.name!r} are under {entry.licence} ({entry.licence_terms}; {entry.licence_url}); "
            "to accept: "
            f"semantic-matcher weights fetch {entry.name} --accept-license"
        )
    line = {"licence": entry.licence, "accepted": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    update_record(cache_folder() / "licenses.json", {entry.name: line})
