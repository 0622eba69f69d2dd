"""Workers end with the process that started them, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from semantic_matcher_core.process_pool import process_pool

_PARENT = """
import sys
from semantic_matcher_core.process_pool import process_pool
sys.path.insert(0, sys.argv[1])
from sleeping_worker import sleep_for_ever

if __name__ == "__main__":
    with process_pool(2) as pool:
        for future in [pool.submit(sleep_for_ever, f"{sys.argv[1]}/{i}") for i in range(2)]:
            future.result()
"""
_WORKER = """
import os, time

def sleep_for_ever(path):
    with open(f"{path}.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{path}.part", path)
    while True:
        time.sleep(1000)
"""


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def default_signals() -> None:
    # nohup and a shell's & have the tests ignore some of them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "parent.py").write_text(_PARENT)
    (tmp_path / "sleeping_worker.py").write_text(_WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_workers_end_with_their_parent(folder: Path, number: signal.Signals) -> None:
    command = [sys.executable, str(folder / "parent.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([p for p in sys.path if p])}
    # A session of its own, so that the signal reaches the parent alone.
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=default_signals
    ) as process:
        files = [folder / str(i) for i in range(2)]
        until(lambda: process.poll() is not None or all(file.exists() for file in files), "the workers")
        workers = [int(file.read_text()) for file in files]
        assert all(is_running(worker) for worker in workers)
        process.send_signal(number)
        process.wait(60)
    until(lambda: not any(is_running(worker) for worker in workers), "the workers' end")


def test_an_exception_ends_them_at_once(folder: Path) -> None:
    from sleeping_worker import sleep_for_ever

    with pytest.raises(KeyError), process_pool(1) as pool:
        pool.submit(sleep_for_ever, str(folder / "0"))
        until((folder / "0").exists, "the worker")
        raise KeyError
    until(lambda: not is_running(int((folder / "0").read_text())), "the worker's end")


def test_the_death_of_the_last_worker_is_seen_while_the_others_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sleeping_worker import sleep_for_ever

    start, started = SpawnProcess.start, list[SpawnProcess]()

    def start_slowly(process: SpawnProcess) -> None:
        time.sleep(0.2)
        start(process)
        started.append(process)

    monkeypatch.setattr(SpawnProcess, "start", start_slowly)
    with pytest.raises(BrokenProcessPool), process_pool(2) as pool:
        futures = [pool.submit(sleep_for_ever, str(folder / str(i))) for i in range(2)]
        until(lambda: all((folder / str(i)).exists() for i in range(2)), "the workers")
        started[-1].kill()
        futures[0].result(60)


def test_a_stopped_worker_ends_with_the_others(folder: Path) -> None:
    from sleeping_worker import sleep_for_ever

    ended = threading.Event()

    def leave() -> None:
        with contextlib.suppress(KeyError), process_pool(1) as pool:
            pool.submit(sleep_for_ever, str(folder / "0"))
            until((folder / "0").exists, "the worker")
            os.kill(int((folder / "0").read_text()), signal.SIGSTOP)
            raise KeyError
        ended.set()

    # Apart, so that a wait without end is no wait of the tests.
    threading.Thread(target=leave, daemon=True).start()
    assert ended.wait(60)


def test_an_interrupt_finds_no_worker_that_is_still_importing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "interrupted_worker.py").write_text(
        """
import multiprocessing, os, signal

if multiprocessing.current_process().name != "MainProcess":
    os.kill(os.getpid(), signal.SIGINT)

def begin():
    pass
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from interrupted_worker import begin

    with process_pool(1, begin) as pool:
        assert pool.submit(os.getpid).result(60) != os.getpid()
    assert "Traceback" not in capfd.readouterr().err


def test_a_block_left_in_order_waits_for_its_work() -> None:
    with process_pool(1) as pool:
        future = pool.submit(os.getpid)
    assert future.result() != os.getpid()
