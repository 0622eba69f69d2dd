"""Shared memory that killed processes leave is freed, and that of living ones is not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("ros")]

_HOLDER = """
import rclpy, sys, time
rclpy.init()
node = rclpy.create_node("holder")
print("up", flush=True)
time.sleep(60)
"""


def segment(folder: Path, number: int, age: float = 60.0) -> tuple[Path, Path]:
    made = folder / f"fastrtps_{number:016x}", folder / f"fastrtps_{number:016x}_el"
    made[0].write_bytes(bytes(1000))
    made[1].touch()
    os.utime(made[1], (time.time() - age,) * 2)
    return made


def test_only_what_nobody_holds_is_removed(tmp_path: Path) -> None:
    from semantic_matcher.orphaned_memory import remove_orphaned_segments

    orphan, held, new = segment(tmp_path, 1), segment(tmp_path, 2), segment(tmp_path, 3, age=0.0)
    others = [tmp_path / name for name in ("fastrtps_port7000_el", "sem.fastrtps_port7000_mutex", "mine_el")]
    for path in others:
        path.touch()
        os.utime(path, (0, 0))
    (tmp_path / "fastrtps_0000000000000009_el").mkdir()
    with open(held[1], "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_orphaned_segments(tmp_path) == 1000
        assert not any(path.exists() for path in orphan)
        assert all(path.exists() for path in (*held, *new, *others))
    assert remove_orphaned_segments(tmp_path) == 1000 and not any(path.exists() for path in held)
    assert remove_orphaned_segments(tmp_path / "nowhere") == 0


def test_the_lock_is_the_one_that_fast_dds_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from semantic_matcher import orphaned_memory

    if os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") != "rmw_fastrtps_cpp":
        pytest.skip("another middleware is chosen")
    monkeypatch.setattr(orphaned_memory, "_NEW_S", 0.0)
    memory = orphaned_memory._FOLDER
    process = subprocess.Popen([sys.executable, "-c", _HOLDER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    # Its own: other tests' processes make some, too.
    opened = {os.path.realpath(link) for link in Path(f"/proc/{process.pid}/fd").iterdir()}
    made = {path for path in memory.glob("fastrtps_*_el") if "port" not in path.name and str(path) in opened}
    if not made:
        process.kill()
        process.wait()
        pytest.skip("no shared memory transport here")
    for path in made:
        with pytest.raises(OSError):
            orphaned_memory._remove_orphaned(path)
        assert path.exists()
    process.kill()
    process.wait()
    assert sum(map(orphaned_memory._remove_orphaned, made)) > 0
    assert not any(path.exists() for path in made)
