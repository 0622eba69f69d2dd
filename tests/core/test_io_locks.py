"""Locks between processes: waited for with a word, free when their holder is gone, and never waited for without end."""

from __future__ import annotations

import errno
import fcntl
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from semantic_matcher_core.io.locks import locked
from semantic_matcher_core.io.notices import say_once

_HOLDER = """
import sys, time
from pathlib import Path
from semantic_matcher_core.io.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds ``tmp_path / "lock"``."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_what_another_holds_is_told_and_free_when_it_is_killed(
    holder: subprocess.Popen[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BlockingIOError), locked(tmp_path / "lock"):
        pass
    got_it = threading.Event()

    def wait_for_it() -> None:
        with locked(tmp_path / "lock", "it is in use"):
            got_it.set()

    waiting = threading.Thread(target=wait_for_it, daemon=True)
    waiting.start()
    assert not got_it.wait(0.2)
    assert caplog.messages == [f"it is in use; waiting for it (lock {tmp_path / 'lock'})"]
    holder.kill()
    assert got_it.wait(60)
    waiting.join(60)
    with locked(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_reason_to_wait(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_here(file: int, operation: int) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", none_here)
    say_once.cache_clear()
    with caplog.at_level(logging.WARNING), locked(tmp_path / "lock", "it is in use"):
        pass
    assert caplog.messages == [
        f"the file system of {tmp_path} has no locks: do not write there with two processes at once"
    ]


def test_a_lock_that_its_holder_removed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flock = tmp_path / "lock", fcntl.flock
    removed: list[int] = []

    def remove_first(file: int, operation: int) -> None:
        if not removed:
            path.unlink()
            removed.append(file)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with locked(path):
        assert path.exists()
        with pytest.raises(BlockingIOError), locked(path):
            pass
