"""Pairs, sequences and stereo images in folders, told apart by file names alone."""

from __future__ import annotations

from pathlib import Path

from semantic_matcher_core.io.images import list_images

# How the two images of a pair are told apart, by the ends of their names.
_PAIR_ENDS = (("_ref", "_tgt"), ("_left", "_right"), ("_1", "_2"), ("1", "2"))


def find_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Return the pairs in a folder (``fox1.png`` and ``fox2.png``, ``x_ref.png`` and ``x_tgt.png`` …), by the part
    of the name that its two images share; none where there is no such folder.
    """
    images = {path.stem: path for path in list_images(folder)} if folder.is_dir() else {}
    pairs: dict[str, tuple[Path, Path]] = {}
    for first, second in _PAIR_ENDS:
        for stem in sorted(images):
            name = stem.removesuffix(first)
            if stem.endswith(first) and {stem, name + second} <= set(images):
                pairs[name] = (images.pop(stem), images.pop(name + second))
    return dict(sorted(pairs.items()))


def find_sequences(folder: Path) -> dict[str, list[Path]]:
    """Return frames by sequence, one folder each."""
    folders = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return {p.name: frames for p in folders if len(frames := list_images(p)) > 1}


def find_stereo(folder: Path) -> tuple[Path, Path] | None:
    """Return the rectified pair ``left.*`` and ``right.*``."""
    images = {path.stem: path for path in list_images(folder)} if folder.is_dir() else {}
    return (images["left"], images["right"]) if {"left", "right"} <= set(images) else None
