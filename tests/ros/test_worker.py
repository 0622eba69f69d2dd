"""The newest item is worked on; the rest is dropped and counted. No ROS graph."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.ros.support import wait_until

worker_module = pytest.importorskip("semantic_matcher.worker")


class Bench:
    """A worker whose work waits for a permit."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.begun: list[tuple[str, Any]] = []
        self.done: list[tuple[str, Any]] = []
        self.errors: list[tuple[str, Exception]] = []
        self.worker = worker_module.NewestFrameWorker(self.work, lambda s, e: self.errors.append((s, e)))
        self.worker.start()

    def work(self, source: str, item: Any) -> None:
        self.begun.append((source, item))
        assert self.permits.acquire(timeout=30)
        if isinstance(item, Exception):
            raise item
        self.done.append((source, item))


@pytest.fixture
def bench() -> Any:
    instance = Bench()
    yield instance
    instance.permits.release(1000)
    assert instance.worker.stop(30)


def test_only_the_newest_waits(bench: Bench) -> None:
    bench.worker.offer("a", 0)
    wait_until(lambda: bench.begun, "the first item")
    for item in range(1, 6):
        bench.worker.offer("a", item)
    bench.permits.release(2)
    wait_until(lambda: len(bench.done) == 2, "two items")
    assert bench.done == [("a", 0), ("a", 5)]
    assert bench.worker.dropped == {"a": 4}


def test_sources_take_turns(bench: Bench) -> None:
    bench.worker.offer("fast", 0)
    wait_until(lambda: bench.begun, "the first item")
    bench.worker.offer("slow", 0)
    for turn in range(1, 4):
        bench.worker.offer("fast", turn)
    bench.permits.release()
    wait_until(lambda: len(bench.begun) == 2, "the second item")
    # The slow source waited longer, however often the fast one came.
    assert bench.begun[1] == ("slow", 0)
    bench.permits.release(2)
    wait_until(lambda: len(bench.done) == 3, "three items")
    assert bench.done[2] == ("fast", 3)


def test_an_exception_is_reported_and_work_goes_on(bench: Bench) -> None:
    bench.permits.release(2)
    error = ValueError("bad frame")
    bench.worker.offer("a", error)
    wait_until(lambda: bench.errors, "the error")
    assert bench.errors == [("a", error)]
    bench.worker.offer("a", 1)
    wait_until(lambda: bench.done == [("a", 1)], "the next item")


def test_a_report_that_fails_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[int] = []

    def work(source: str, item: int) -> None:
        if item:
            raise MemoryError
        done.append(item)

    def failed(source: str, error: Exception) -> None:
        raise MemoryError("nor for the words")

    worker = worker_module.NewestFrameWorker(work, failed)
    worker.start()
    worker.offer("a", 1)
    wait_until(lambda: "nor for the words" in capsys.readouterr().err, "the report")
    worker.offer("a", 0)
    wait_until(lambda: done, "the next item")
    assert worker.stop(30)


def test_how_long_an_item_has_been_in_work_is_known(bench: Bench) -> None:
    assert bench.worker.seconds_in_work == 0
    bench.worker.offer("a", 1)
    wait_until(lambda: bench.begun, "work")
    first = bench.worker.seconds_in_work
    wait_until(lambda: bench.worker.seconds_in_work > first > 0, "time to pass")
    bench.permits.release()
    wait_until(lambda: bench.done and bench.worker.seconds_in_work == 0, "the end")


def test_stopping_finishes_the_item_in_work_and_nothing_else(bench: Bench) -> None:
    bench.worker.offer("a", 0)
    wait_until(lambda: bench.begun, "the first item")
    bench.worker.offer("a", 1)
    assert not bench.worker.stop(0.05)
    bench.permits.release()
    assert bench.worker.stop(30)
    assert bench.done == [("a", 0)]
    bench.worker.offer("a", 2)
    bench.worker.start()
    bench.permits.release()
    bench.worker.offer("a", 3)
    wait_until(lambda: len(bench.done) == 2, "an item after the restart")
    assert bench.done == [("a", 0), ("a", 3)]
