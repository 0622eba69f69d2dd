"""What a command reads is never replaced by what it writes; a command that is ended leaves nothing half-written."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from semantic_matcher_core.cli import main
from semantic_matcher_core.cli.progress import JobBars
from semantic_matcher_core.errors import ImageError
from semantic_matcher_core.io.images import write_image
from semantic_matcher_core.offline.run import Progress
from tests.core.mcap_files import write_mcap
from tests.core.test_process_pool import default_signals
from training.cli import run_app

SIFT = ["--variant", "plain:sift", "--device", "cpu", "--max-keypoints", "50"]


@pytest.fixture
def place(tmp_path: Path, textured_image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "c.h5"):
        write_image(tmp_path / "a.png", textured_image[:120, :160])
        (tmp_path / name).write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "link.png").symlink_to("a.png")
    for name in ("bag.mcap", "results.html"):
        write_mcap(tmp_path / name, textured_image, 2)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["match", "a.png", "b.png", *SIFT, "-o", "a.png"],
        ["match", "a.png", "b.png", *SIFT, "-o", "./b.png"],
        ["match", "a.png", "b.png", *SIFT, "-o", "link.png"],
        ["match", "a.png", "b.png", *SIFT, "--mask", "c.h5", "-o", "c.png", "--npz", "c.npz", "--view", "lines"],
        ["extract", "a.png", "c.h5", *SIFT, "-o", "c.h5"],
        ["extract", "b.png", *SIFT, "-o", "a.png"],
        ["index", "build", "c.h5", *SIFT, "-o", "c.h5"],
        ["register", "a.png", "b.png", *SIFT, "-o", "b.png"],
        ["register", "a.png", "b.png", *SIFT, "-o", "r.png", "--warped", "r.png"],
        ["register", "a.png", "b.png", *SIFT, "-o", "r.txt"],
        ["register-surface", "a.png", "d.ply", "b.png", "d.ply", *SIFT, "--intrinsics", "1,1,1,1", "-o", "d.ply"],
        ["bag", "bag.mcap", *SIFT, "-o", "bag.mcap", "--overwrite"],
        ["bag", "bag.mcap", *SIFT, "-o", ".", "--overwrite"],
        ["report", "results.html"],
    ],
    ids=" ".join,
)
def test_inputs_are_never_replaced(place: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    if "--mask" in arguments:
        arguments = [*arguments[: arguments.index("-o")], "-o", "b.png"]
    assert main(arguments) in (1, 2)
    assert capsys.readouterr().err.startswith("error: ")
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def run(place: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semantic_matcher_core.cli", *arguments]
    return subprocess.run(command, cwd=place, text=True, check=False, timeout=240, **options)  # type: ignore[call-overload]


def test_a_full_disk_under_the_output_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = run(tmp_path, "--version", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/far/away"), "error: /far/away: Permission denied"),
        (OSError(36, "File name too long", b"a.png"), "error: a.png: File name too long"),
        (MemoryError("Unable to allocate 14.0 GiB"), "error: out of memory (Unable to allocate 14.0 GiB); smaller"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "error: out of memory (CUDA out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "error: out of memory (DefaultCPU"),
    ],
    ids=["folder", "name", "numpy", "cuda", "torch"],
)
def test_what_the_machine_does_not_allow_is_one_line(
    place: Path, error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("semantic_matcher_core.pipeline.SemanticMatcher.extract", fail)
    assert main(["extract", "a.png", *SIFT, "-o", "d.h5"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1
    # Of several recordings it costs the one that it befell.
    monkeypatch.setattr("semantic_matcher_core.offline.jobs.run", fail)
    assert main(["bag", "bag.mcap", "results.html", *SIFT, "-o", "out"]) == 1
    said = capsys.readouterr().err
    assert said.count("error: ") == 2 and "Traceback" not in said


class Terminal(io.StringIO):
    """A terminal that keeps what it is sent."""

    def isatty(self) -> bool:
        return True


def test_names_that_look_like_markup_are_names(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with JobBars(["[/red].mcap"]) as bars:
        bars.progress(0, Progress(done=1, total=3))
    assert "[/red].mcap" in terminal.getvalue()
    for error, line in (
        (ImageError("no such image file: [/x].png"), "error: no such image file: [/x].png"),
        (PermissionError(13, "Permission denied", "[/x]"), "error: [/x]: Permission denied"),
    ):
        with pytest.raises(SystemExit):
            run_app(mock.Mock(side_effect=error))
        assert line in terminal.getvalue()


def test_names_of_the_greatest_length(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stem = "n" * 250
    assert main(["match", "a.png", "b.png", *SIFT, "-o", f"{stem}.png", "--npz", f"{stem}.npz"]) == 0
    assert main(["extract", "a.png", *SIFT, "-o", f"{stem}.h5"]) == 0
    assert all((place / f"{stem}{suffix}").is_file() for suffix in (".png", ".npz", ".h5"))
    capsys.readouterr()
    for arguments in (
        ["match", "a.png", "b.png", *SIFT, "-o", f"{stem}nn.png"],
        ["extract", f"{stem}nn.png", "-o", "d.h5"],
    ):
        assert main(arguments) in (1, 2)
        assert capsys.readouterr().err.count("\n") == 1


def test_closed_streams_are_no_files(place: Path) -> None:
    command = f"{sys.executable} -m semantic_matcher_core.cli match a.png b.png {' '.join(SIFT)} -o m.png <&- 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=place, stdout=subprocess.PIPE, text=True, check=False, timeout=240)
    assert done.returncode == 0
    assert done.stdout.startswith("50 matches between 50 + 50 keypoints")
    assert (place / "m.png").read_bytes().startswith(b"\x89PNG")


_SLOW = """
import os, sys, time
from semantic_matcher_core.cli import main
from semantic_matcher_core.cli import app
from semantic_matcher_core.pipeline import SemanticMatcher

def extract(*_, **__):
    print("working", flush=True)
    time.sleep(60)

SemanticMatcher.extract = extract
sys.exit(main(["extract", "a.png", "-o", "f.h5", "--variant", "plain:sift", "--device", "cpu"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_command_that_is_ended_leaves_nothing(place: Path, number: signal.Signals) -> None:
    before = sorted(os.listdir(place))
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW],
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "working\n"
        assert sorted(os.listdir(place)) != before
        time.sleep(0.1)
        process.send_signal(number)
        _, error = process.communicate(timeout=240)
    assert process.returncode == 128 + number
    assert "Traceback" not in error
    assert sorted(os.listdir(place)) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_that_meets_a_finalizer_is_not_lost(number: signal.Signals, code: int) -> None:
    program = f"""
import os, sys, time
from semantic_matcher_core import cli

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), {number.value})
        for _ in range(1000):
            pass

def run(argv):
    Finalized()
    print("went on", flush=True)
    time.sleep(30)
    return 0

cli._run = run
sys.exit(cli.main([]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=240, preexec_fn=default_signals
    )
    assert (done.returncode, done.stdout) == (code, "went on\n")
    assert "Traceback" not in done.stderr
