"""Reasoner checkpoints: from a zip in the published layout to a folder that holds only what is needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from semantic_matcher_core.errors import CheckpointError, OutputError, SemanticMatcherError
from semantic_matcher_core.io.atomic import is_write_failure
from semantic_matcher_core.io.locks import locked
from semantic_matcher_core.weights.archive import extract_member, open_checked
from semantic_matcher_core.weights.hashing import sha256_of
from semantic_matcher_core.weights.places import CONFIG_FILE, WEIGHTS_SUFFIXES, cache_folder, is_checkpoint_folder

PROVENANCE_FILE = "provenance.json"


def unpack_local(archive: Path) -> Path:
    """Return the checkpoint folder of a zip on this machine, unpacked into the cache once (keyed by the zip's hash).

    Raises:
        CheckpointError, UnsafeArchiveError: see :func:`unpack_checkpoint`.
        OutputError: the cache cannot be written.
    """
    sha256 = sha256_of(archive)
    target = cache_folder() / "unpacked" / sha256[:16]
    if not is_checkpoint_folder(target):
        with writable_cache(), cache_lock(f"unpack-{sha256[:16]}", f"{archive} is being unpacked by another process"):
            if not is_checkpoint_folder(target):
                unpack_checkpoint(archive, target, {"archive": archive.name, "sha256": sha256})
    return target


def unpack_checkpoint(archive: Path, target: Path, origin: dict[str, Any]) -> None:
    """Unpack a zip in the published layout, whole or not at all.

    The zip holds one folder with ``model_config.yaml`` and one or more ``.pt`` or ``.safetensors``, as a checkpoint
    folder does; of several, the one with the newest modification time in the zip is meant (of equally new ones the one
    with the highest number in its name). Its parameters are saved again alone, without optimizer state, which is most
    of a published file.

    Args:
        archive: the zip.
        target: the folder to make; it must not exist.
        origin: where the zip comes from; kept with the files' hashes in ``provenance.json``.

    Raises:
        CheckpointError: not a zip, truncated, not in that layout, or its parameters cannot be read safely.
        UnsafeArchiveError: see :func:`~semantic_matcher_core.weights.archive.open_checked`.
    """
    import torch

    from semantic_matcher_core.weights.loading import read_state_dict

    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with open_checked(archive) as content:
            config, checkpoint = _choose(archive, content.infolist())
            extract_member(content, config, temporary / CONFIG_FILE)
            name = PurePosixPath(checkpoint.filename).name
            whole = temporary / "whole"
            whole.mkdir()
            extract_member(content, checkpoint, whole / name)
        try:
            state = {k: v.clone() for k, v in read_state_dict(whole / name).items()}
        except CheckpointError as error:
            reason = str(error).removeprefix(str(whole) + os.sep)
            raise CheckpointError(f"{archive}, in {checkpoint.filename}: {reason}") from error
        if name.endswith(".safetensors"):
            from safetensors.torch import save_file

            save_file({key: value.contiguous() for key, value in state.items()}, temporary / name)
        else:
            torch.save(state, temporary / name)
        shutil.rmtree(whole)
        record = {**origin, "checkpoint": checkpoint.filename, "files": {}}
        for path in sorted(temporary.iterdir()):
            record["files"][path.name] = sha256_of(path)
            _flush(path)
        (temporary / PROVENANCE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def cache_lock(name: str, waiting: str) -> Iterator[None]:
    """Hold a lock between processes for a block; ``waiting`` is what the log says where another process holds it."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{name}.lock", waiting):
        yield


@contextmanager
def writable_cache() -> Iterator[None]:
    """Turn a cache that is read-only, full or no folder into one clear error.

    Raises:
        OutputError: see above.
    """
    try:
        yield
    except SemanticMatcherError:
        raise
    except OSError as error:
        if not is_write_failure(error) and not isinstance(error, (FileExistsError, NotADirectoryError)):
            raise
        raise OutputError(
            f"the cache folder {cache_folder()} cannot be written ({error.strerror}); "
            "make room or change its permissions, or name another in SEMANTIC_MATCHER_HOME"
        ) from error


def _choose(archive: Path, members: list[zipfile.ZipInfo]) -> tuple[zipfile.ZipInfo, zipfile.ZipInfo]:
    files = [m for m in members if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    configs = [m for m in files if PurePosixPath(m.filename).name == CONFIG_FILE]
    if len(configs) != 1:
        found = f"{len(configs)} files" if configs else "no file"
        raise CheckpointError(f"{archive} has {found} named {CONFIG_FILE}; expected one folder with one")
    folder = PurePosixPath(configs[0].filename).parent
    beside = [m for m in files if PurePosixPath(m.filename).parent == folder]
    # Hidden files are some program's unfinished work, in a folder and in a zip of it.
    checkpoints = [
        m
        for m in beside
        if PurePosixPath(m.filename).suffix in WEIGHTS_SUFFIXES and not PurePosixPath(m.filename).name.startswith(".")
    ]
    if not checkpoints:
        raise CheckpointError(
            f"{archive} has no weights file ({' or '.join(WEIGHTS_SUFFIXES)}) beside its {CONFIG_FILE}"
        )
    return configs[0], max(checkpoints, key=lambda m: (m.date_time, _numbers(m.filename), m.filename))


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
