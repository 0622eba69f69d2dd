"""Which files a bag is made of, and what kind each is: told from their first bytes, whatever they are called."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from semantic_matcher_core.errors import BagError
from semantic_matcher_core.io import bag_mcap, bag_ros1, bag_sqlite
from semantic_matcher_core.io.bag_part import Part, Report
from semantic_matcher_core.io.images import natural_key
from semantic_matcher_core.io.messages import import_for_bags
from semantic_matcher_core.io.notices import say_once
from semantic_matcher_core.io.yaml_text import load_yaml

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_COMPRESSED_SUFFIXES = (".zstd", ".zst")
_SUFFIXES = (".mcap", ".db3", ".bag")
_METADATA = "metadata.yaml"
_KINDS = (
    "an MCAP file, a rosbag2 sqlite3 file (.db3), a ROS 1 .bag, one of these compressed with zstd, or a folder of them"
)
_COPY_BYTES = 1 << 22


def bag_files(path: Path, report: Report) -> tuple[list[Path], dict[str, int]]:
    """Return the files of a bag in their order, and what ``metadata.yaml`` counts of messages by topic, where there is
    one.

    Args:
        path: a file, or a rosbag2 folder, with or without its ``metadata.yaml``.
        report: is told which files of it are missing. That ``metadata.yaml`` is, or that it leaves files out, loses
            nothing of what is read: the log says so.

    Raises:
        BagError: no such bag, or it is a folder of something else, or of several bags.
    """
    if path.is_file():
        return [path], {}
    if not path.is_dir():
        raise BagError("no such bag" if not path.exists() else "it is neither a file nor a folder")
    files = sorted((p for p in path.iterdir() if _is_bag_file(p)), key=lambda p: natural_key(p.name))
    metadata = _metadata(path)
    counts = _counts(metadata) if metadata else {}
    # Some recorders write paths below another folder; the files lie beside metadata.yaml.
    named = [path / PurePosixPath(str(name)).name for name in metadata["relative_file_paths"]] if metadata else []
    there = [file for file in named if file.is_file()]
    if there:
        if missing := [file.name for file in named if file not in there]:
            report(f"of the files that its {_METADATA} names, these are missing: {', '.join(missing)}")
        if others := [file.name for file in files if file not in there]:
            say_once(f"bag {path}: its {_METADATA} does not name these files, which are not read: {', '.join(others)}")
        return there, counts
    if not files:
        names = ", ".join(file.name for file in named)
        has = f"with a {_METADATA} that names {names}, but" if named else f"without {_METADATA} and"
        raise BagError(f"it is a folder {has} without a file of {' '.join(_SUFFIXES)}; expected {_KINDS}")
    if len({_series(file) for file in files}) > 1:
        raise BagError(
            f"it is a folder without {_METADATA} and with several bags; name one: {', '.join(f.name for f in files)}"
        )
    reason = (
        f"its {_METADATA} names none of its files (they were renamed?)"
        if named
        else f"it has no {_METADATA} that can be read (the recorder did not finish?)"
    )
    say_once(f"bag {path}: {reason}; its files are read as they are")
    return files, counts


def open_part(file: Path, scratch: Path, report: Report) -> Part:
    """Return one file of a bag, open for reading; ``scratch`` is a folder for what has to be unpacked.

    Raises:
        BagError: it is empty, of no kind that is read, or damaged.
    """
    try:
        begin = _beginning(file)
        if begin.startswith(ZSTD_MAGIC):
            file = _unpacked(file, scratch, report)
            begin = _beginning(file)
        if begin.startswith(bag_mcap.MAGIC):
            return bag_mcap.McapPart(file, report)
        if begin.startswith(bag_sqlite.MAGIC):
            return bag_sqlite.SqlitePart(file, scratch, report)
        if begin.startswith(bag_ros1.MAGIC):
            return bag_ros1.open_ros1(file, report)
    except OSError as error:
        raise BagError(f"{file.name} cannot be read: {error.strerror or error}") from error
    if not begin:
        raise BagError(f"{file.name} is empty (0 bytes)")
    magics = (bag_mcap.MAGIC, bag_sqlite.MAGIC, bag_ros1.MAGIC)
    if any(magic.startswith(begin) for magic in magics):
        raise BagError(f"{file.name} is cut short after {len(begin)} bytes")
    if not begin.strip(b"\0"):
        raise BagError(f"{file.name} begins with zeros: it was allocated, but never written")
    raise BagError(f"{file.name} is no recording, by its first bytes; expected {_KINDS}")


def unpack_message(data: Any) -> Any:
    """Return a message's data; of rosbag2's compression of single messages, the data unpacked."""
    # The first two bytes of CDR are 0 and an encoding below 16, so neither it nor ROS 1 begins like this by chance.
    if bytes(data[:4]) != ZSTD_MAGIC:
        return data
    zstandard = import_for_bags("zstandard")
    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    except zstandard.ZstdError as error:
        raise BagError(f"it cannot be decompressed ({error})") from error


def is_missing(path: Path) -> bool:
    """Return whether nothing of this name is there."""
    return not os.path.lexists(path)


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(16)


def _unpacked(file: Path, scratch: Path, report: Report) -> Path:
    target = scratch / _plain_name(file.name)
    with target.open("wb") as output:
        for block in _unpacked_blocks(file, report):
            output.write(block)
    return target


def _unpacked_blocks(file: Path, report: Report) -> Iterator[bytes]:
    zstandard = import_for_bags("zstandard")
    with file.open("rb") as packed:
        unpacker, block = None, b""
        try:
            # A file may be several frames, one after the other.
            while block := block or packed.read(_COPY_BYTES):
                unpacker = unpacker or zstandard.ZstdDecompressor().decompressobj()
                yield unpacker.decompress(block)
                block = unpacker.unused_data if unpacker.eof else b""
                unpacker = None if unpacker.eof else unpacker
        except zstandard.ZstdError as error:
            report(f"{file.name} is damaged: it cannot be decompressed beyond byte {packed.tell()} ({error})")
            return
        if unpacker is not None:
            report(f"{file.name} is cut short: its compressed data does not end")


def _metadata(folder: Path) -> dict[str, Any] | None:
    """Return what ``metadata.yaml`` says, or ``None`` where there is none that can be used."""
    try:
        content = load_yaml((folder / _METADATA).read_text(encoding="utf-8", errors="replace"))
        metadata = content["rosbag2_bagfile_information"]
        names = metadata["relative_file_paths"]
        if isinstance(names, list) and names:
            return metadata
    except (yaml.YAMLError, OSError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return None


def _counts(metadata: dict[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for topic in metadata.get("topics_with_message_count") or []:
        try:
            name, count = str(topic["topic_metadata"]["name"]), int(topic["message_count"])
        except (KeyError, TypeError, ValueError):
            continue
        counts[name] = counts.get(name, 0) + count
    return counts


def _is_bag_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and _plain_name(path.name).lower().endswith(_SUFFIXES)


def _plain_name(name: str) -> str:
    for suffix in _COMPRESSED_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _series(path: Path) -> str:
    """Return what the files of one split bag share: ``drive_0.mcap``, ``drive_1.mcap``."""
    stem, _, suffix = _plain_name(path.name).rpartition(".")
    return f"{re.sub(r'_[0-9]+$', '', stem)}.{suffix.lower()}"
