from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import REPOSITORY
from tools.stamps import digest, exclusive, read_stamp, write_stamp


def test_digest_depends_on_parts_names_and_contents(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    two.write_text("b")
    before = digest("part", files=[one, two])
    assert before == digest("part", files=[two, one])
    assert before != digest("other", files=[one, two])
    assert before != digest("part", files=[one])
    two.write_text("c")
    assert before != digest("part", files=[one, two])
    one.write_text("b")
    two.write_text("a")
    assert before != digest("part", files=[one, two])
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_a_stamp_comes_back_and_a_damaged_one_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "stamp.json"
    assert read_stamp(path) == {}
    write_stamp(path, {"key": "abc"})
    assert read_stamp(path) == {"key": "abc"}
    assert [file.name for file in path.parent.iterdir()] == ["stamp.json"]
    for damaged in ("", "{", "[1]"):
        path.write_text(damaged)
        assert read_stamp(path) == {}


def test_exclusive_makes_a_second_process_wait(tmp_path: Path) -> None:
    lock, log = tmp_path / "lock", tmp_path / "log"
    code = (
        "import sys; from pathlib import Path; from tools.stamps import exclusive\n"
        "with exclusive(Path(sys.argv[1])): Path(sys.argv[2]).write_text('inside')"
    )
    with exclusive(lock):
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(lock), str(log)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout is not None
        assert "waiting for another set-up" in other.stdout.readline()
        time.sleep(0.2)
        assert not log.exists()
    assert other.wait(timeout=240) == 0
    assert log.read_text() == "inside"
