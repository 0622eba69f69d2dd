"""Images as people name them on a command line: files, folders and patterns."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import typer


def collect_images(
    names: Sequence[str], *, recursive: bool = False, root: Path | None = None, tell: bool = True
) -> list[tuple[str, Path]]:
    """Return (key, path) of each image, once each, in the order given; folders and patterns in natural order.

    Images that are named more than once are told on stderr, unless not ``tell``.

    Args:
        names: files, folders, or patterns with ``*``, ``?``, ``[…]`` or ``**``.
        recursive: look into the folders of a folder as well.
        root: keys are paths below this folder (as text, :func:`~semantic_matcher_core.io.names.readable`); default: the
            folder that all have in common.

    Raises:
        ImageError: a file or folder is missing, a folder holds no image, or a pattern matches none.
        ConfigError: an image lies outside ``root``, or two names become one as text.
    """
    from semantic_matcher_core.errors import ConfigError
    from semantic_matcher_core.io.names import readable

    paths: dict[Path, None] = {}
    given = 0
    folders: list[Path] = []
    for name in names:
        found, folder = _expand(name, recursive)
        given += len(found)
        paths.update(dict.fromkeys(Path(os.path.abspath(path)) for path in found))
        folders.append(Path(os.path.abspath(folder)))
    if tell and given > len(paths):
        typer.echo(f"note: {given} images are named, {given - len(paths)} of them again; each counts once", err=True)
    base = Path(os.path.abspath(root)) if root is not None else Path(os.path.commonpath(folders))
    keyed = []
    for path in paths:
        if not path.is_relative_to(base):
            raise ConfigError(f"{path} does not lie below --root {base}")
        keyed.append((readable(path.relative_to(base).as_posix()), path))
    (key, times), *_ = Counter(key for key, _ in keyed).most_common(1)
    if times > 1:
        raise ConfigError(f"two images would both be called {key!r}, read as UTF-8 and as Latin-1; rename one")
    return keyed


def _expand(name: str, recursive: bool) -> tuple[list[Path], Path]:
    """Return the images that one argument means, and the folder that its keys start from."""
    from semantic_matcher_core.errors import ImageError
    from semantic_matcher_core.io.images import is_image_file, list_images, natural_key, say_what_is_passed_over

    if not name:
        raise ImageError("the name of an image is empty (a variable that is not set?)")
    path = Path(name)
    if path.is_dir():
        if not recursive:
            return list_images(path), path
        walked = os.walk(path, onerror=_tell_folder)
        inside = [Path(parent, name) for parent, folders, files in walked for name in (*folders, *files)]
        inside = [p for p in inside if not _is_hidden(p.relative_to(path))]
        found = [p for p in inside if is_image_file(p)]
        say_what_is_passed_over(path, inside)
        if not found:
            raise ImageError(f"no image in folder {path} or below")
        return sorted(found, key=lambda p: natural_key(p.as_posix())), path
    if path.exists() or not glob.has_magic(name):
        # A file of any suffix that is named outright is taken at its word; reading it tells.
        if not path.is_file():
            raise ImageError(f"no such image file or folder: {name}")
        return [path], path.parent
    matched = _without_loops([Path(p) for p in glob.glob(_pattern(path), recursive=True)])
    found = [p for p in matched if is_image_file(p)]
    if found:
        say_what_is_passed_over(Path(name), matched)
    else:
        # A pattern of other suffixes is taken at its word, as it is when a shell expands it.
        found = [p for p in matched if p.is_file()]
    found.sort(key=lambda p: natural_key(p.as_posix()))
    if not found:
        raise ImageError(f"no image matches {name!r}")
    parents = [os.path.abspath(p.parent) for p in found]
    return found, Path(os.path.commonpath(parents))


def _pattern(path: Path) -> str:
    """Return a pattern in which folders that are there are themselves, whatever their names look like."""
    there = next((parent for parent in path.parents if parent.is_dir()), Path())
    return os.path.join(glob.escape(str(there)), path.relative_to(there))


def _tell_folder(error: OSError) -> None:
    typer.echo(f"passed over: {error.filename}: {error.strerror}", err=True)


def _without_loops(paths: list[Path]) -> list[Path]:
    """Leave out what is reached through a link to a folder above it, which ``**`` follows again and again."""
    loops = {folder: _loops(folder) for folder in {path.parent for path in paths}}
    if not any(loops.values()):
        return paths
    there = {os.path.realpath(path) for path in paths if not loops[path.parent]}
    return [path for path in paths if not loops[path.parent] or os.path.realpath(path) not in there]


def _loops(folder: Path) -> bool:
    return any(
        link.is_symlink() and Path(os.path.realpath(link.parent)).is_relative_to(os.path.realpath(link))
        for link in (folder, *folder.parents)
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
